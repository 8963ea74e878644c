"""The history of the schema, and the command that applies it: `python -m migrations`."""
