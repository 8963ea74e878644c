"""The Temporal workflows: one for each kind of operation."""
