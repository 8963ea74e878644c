"""A real OpenStack on this machine, and what is tested on it: `make test-openstack`."""
