"""The command-line client of the service, and the Python package that it is made of (`vmctl.client`)."""
