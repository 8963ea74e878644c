"""The cloud read against the database, and repairs."""
