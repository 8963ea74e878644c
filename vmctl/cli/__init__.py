"""The command `vmctl`."""
