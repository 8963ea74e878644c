"""The progress of an accepted operation: its delivery, its steps, its end."""
