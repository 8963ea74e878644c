"""What becomes of an accepted operation: its delivery, its steps, its end."""
