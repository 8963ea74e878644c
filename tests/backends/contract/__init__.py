"""What every cloud does: the same tests on the mock, in `make test`, and on a real one, in `make test-openstack`.

Where a real cloud does something else than the mock, the mock is wrong.
"""
