"""Serves the application until the process is told to stop."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from api.server.connection import Connection
from api.server.connections import Connections, most_connections
from domain.settings import Settings

REQUEST_GRACE = 2.5  # seconds that requests in progress may take at shutdown; then they are canceled and answered
STOP_GRACE = 3  # seconds until the connections are cut, too
TICKS_PER_SECOND = 10  # how often uvicorn calls `on_tick`


class Server(uvicorn.Server):
    """uvicorn's server, which also ends the connections whose time is over."""

    def __init__(self, config: uvicorn.Config, connections: Connections, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.connections = connections
        self.on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. Only the first signal counts: uvicorn would cut all requests at a second SIGINT."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests in progress finish, and cancel those that need longer than REQUEST_GRACE.

        uvicorn cancels them, too, but then ends at once. A request that first has to give up its statement would not
        have the time to answer.
        """
        self.on_stop()
        stopping = asyncio.create_task(super().shutdown(sockets))
        await asyncio.wait([stopping], timeout=REQUEST_GRACE)
        for task in list(self.server_state.tasks):
            task.cancel()
        await stopping

    async def on_tick(self, counter: int) -> bool:
        """Do what has to be done from time to time; True ends the server."""
        self.connections.tick()
        if counter % TICKS_PER_SECOND == 0:
            self.connections.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def create_server(app: ASGIApp, settings: Settings, on_stop: Callable[[], None] = lambda: None) -> Server:
    """The server for these settings. It calls `on_stop` when it begins to stop, to end requests that would go on."""
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
        lifespan="on",  # with "auto", a start that failed would be served
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_GRACE,
    )
    return Server(config, connections, on_stop)


def serve(
    app: ASGIApp,
    settings: Settings,
    on_stop: Callable[[], None] = lambda: None,
    listening: socket.socket | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; then call `on_stop` and end. Without a `listening` socket, open the API's port."""
    server = create_server(app, settings, on_stop)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn repeats the signal when it has ended
        server.run([listening] if listening else None)
    if not server.started:
        sys.exit(STARTUP_FAILURE)
