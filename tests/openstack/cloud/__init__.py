"""The test cloud: the real services of OpenStack 2025.1 on the loopback interface, with guests that only pretend.

`python -m tests.openstack.cloud up` starts it, `down` stops it, and `purge` also deletes what it holds.
"""
