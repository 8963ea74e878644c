"""The tables, the connections to the database, queries that many modules share, and the catalogue."""
