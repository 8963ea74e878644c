"""A real OpenStack on this machine, and what is run on it."""
