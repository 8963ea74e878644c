"""A real OpenStack cloud. Only this package imports openstacksdk and keystoneauth, which are optional."""
