"""The schema's history and the command that brings a database up to date: `python -m migrations`."""
