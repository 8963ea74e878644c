"""The rules for VMs and their resources. Pure: no clock, no I/O, no framework."""
