"""Serves the application until the process is told to stop."""

import asyncio
import sys
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from api.server.connection import Connection
from api.server.connections import Connections, most_connections
from domain.settings import Settings

REQUEST_GRACE = 3  # seconds that requests in progress may take at shutdown
TICKS_PER_SECOND = 10  # how often uvicorn calls `on_tick`


class Server(uvicorn.Server):
    """uvicorn's server, which also ends the connections whose time is over."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.connections = connections

    async def on_tick(self, counter: int) -> bool:
        """Do what has to be done from time to time; True ends the server."""
        self.connections.tick()
        if counter % TICKS_PER_SECOND == 0:
            self.connections.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def create_server(app: ASGIApp, settings: Settings) -> Server:
    """The server for these settings."""
    limit = most_connections(settings.db_pool_size + settings.db_max_overflow)
    connections = Connections(limit, settings.api_connections_per_address)
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        forwarded_allow_ips=settings.forwarded_allow_ips or "",  # without it uvicorn would trust 127.0.0.1
        loop="uvloop",
        http=partial(Connection, connections, settings.api_keep_alive),  # type: ignore[arg-type] # uvicorn calls it
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_GRACE,
    )
    return Server(config, connections)


def serve(app: ASGIApp, settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM."""
    server = create_server(app, settings)
    server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)
