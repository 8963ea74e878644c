"""The tables, the connections to them, and what every installation starts with."""
