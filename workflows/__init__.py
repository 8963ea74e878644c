"""The operations as deterministic stories in straight lines."""
