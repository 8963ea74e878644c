"""Comparing the cloud with the database, and repairing the differences."""
