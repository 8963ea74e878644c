"""The lifecycle table, the tables of the database, and the commands and records that change their rows."""
