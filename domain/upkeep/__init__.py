"""Upkeep of the service: recorded differences from the cloud, and the list of what needs a person's attention."""
