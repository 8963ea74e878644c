"""A cloud for everybody's laptop: all it has are rows, and it fails on demand.

It is as durable as the database, shared by all workers, idempotent by token, and refuses revoked tokens.
"""

from activities.backends.mock_servers import MockServers
from activities.backends.mock_storage import MockStorage


class MockBackend(MockServers, MockStorage):
    """The mock cloud; see ComputeBackend for what its methods promise."""
