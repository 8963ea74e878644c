"""Connection pools for PostgreSQL, which the service and the mock cloud use alike."""

import asyncio
import logging
from collections.abc import MutableSet
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from domain import database_url
from domain.data import outages
from domain.data.connector import COMMAND_TIMEOUT, CONNECT_TIMEOUT, Connector
from domain.data.outages import UnusableDatabaseError
from domain.data.time_limit import LimitedConnection
from domain.settings import Settings

POOL_TIMEOUT = 5.0  # seconds
CLOSE_TIMEOUT = 0.5  # seconds

SERVER_SETTINGS = {
    # The claims lock rows and then read what others have committed. At another level they would fail instead of wait.
    "default_transaction_isolation": "read committed",
    # Statements wait for each other's locks, and COMMAND_TIMEOUT ends those that take too long. A migration may take
    # longer than any limit that somebody has set for the sessions of programs.
    "lock_timeout": "0",
    "statement_timeout": "0",
    # A session is idle while its connection is in the pool.
    "idle_session_timeout": "0",
    "gin_fuzzy_search_limit": "0",  # else searches would find some of what there is, chosen at random
    "exit_on_error": "off",  # else a username that is taken, or a lock that is not free, costs the connection
    "quote_all_identifiers": "off",  # SQLAlchemy does not know the types that it reads then
    "standard_conforming_strings": "on",  # SQLAlchemy asks for it once and takes the answer for that of every session
    "jit": "off",  # compiling one of our statements takes longer than running it
    # A process that is frozen or cut off in the middle of a transaction holds row locks that others wait for. The
    # server ends its transaction after this time, or closes its connection when the keepalives are not answered.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
# PgBouncer gives each transaction another connection to the server. A named statement would be missing there, and the
# unnamed one lives until the next statement, which is all that is needed. PgBouncer also refuses SERVER_SETTINGS.
_FOR_PGBOUNCER: Final[dict[str, Any]] = {
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}


class _Connection(LimitedConnection):
    """A connection that closes within CLOSE_TIMEOUT, even if the server hangs."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Close the connection, or cut it if the server does not answer within CLOSE_TIMEOUT."""
        del timeout
        await super().close(timeout=CLOSE_TIMEOUT)


_opened: WeakKeyDictionary[Engine, MutableSet[asyncpg.Connection]] = WeakKeyDictionary()


def create_engine(settings: Settings, *, command_timeout: float | None = COMMAND_TIMEOUT) -> AsyncEngine:
    """Create the connection pool of a process; a statement may take `command_timeout` seconds."""
    target = database_url.parse(settings.database_url)
    opened: MutableSet[asyncpg.Connection] = WeakSet()
    defaults = {"application_name": settings.app_name, **({} if target.has_pgbouncer else SERVER_SETTINGS)}
    arguments = {
        "connection_class": _Connection,
        "timeout": CONNECT_TIMEOUT,
        "command_timeout": command_timeout,
        **target.arguments,
        "server_settings": defaults | target.arguments["server_settings"],
        **({"statement_cache_size": 0} if target.has_pgbouncer else {}),
    }

    connector = Connector(target, arguments)

    async def connect() -> asyncpg.Connection:
        connection = await connector.connect()
        opened.add(connection)
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        # SQLAlchemy closes an overflow connection after each use, and opening one costs more than most requests. So the
        # pool keeps as many connections as the two settings allow together.
        pool_size=settings.db_pool_size + settings.db_max_overflow,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        hide_parameters=True,
        connect_args={"async_creator_fn": connect, **(_FOR_PGBOUNCER if target.has_pgbouncer else {})},
    )
    if settings.db_echo:
        # SQLAlchemy's own switch would print the statements a second time, in a format of its own.
        logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)
    event.listen(engine.sync_engine, "handle_error", outages.on_error)
    event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    _opened[engine.sync_engine] = opened
    return engine


def _replace_if_closed(connection: DBAPIConnection, record: object, proxy: object) -> None:
    """Have the pool replace a connection that was closed while it was idle, for example by `idle_session_timeout`.

    asyncpg knows that it is closed, so this costs no round trip.
    """
    del record, proxy
    if connection.driver_connection.is_closed():
        raise DisconnectionError


async def close(engine: AsyncEngine) -> None:
    """Close all connections within CLOSE_TIMEOUT, also those in use, and then the pool.

    The pool alone would close one after the other, and wait for each as long as a server that hangs takes.
    """
    connections = list(_opened[engine.sync_engine])
    closing = [asyncio.create_task(connection.close()) for connection in connections]
    await asyncio.gather(*closing, return_exceptions=True)  # a connection that cannot be closed in time is cut
    await engine.dispose()


def autocommit(engine: AsyncEngine) -> AsyncEngine:
    """Return the same pool in autocommit mode, for single statements.

    A transaction takes two more round trips, for BEGIN and COMMIT or ROLLBACK.
    """
    return engine.execution_options(isolation_level="AUTOCOMMIT")


async def refuse_unusable(settings: Settings) -> None:
    """End the process with one line if the server answers and the service cannot work with it.

    A server that does not answer is no reason to end: it may come back.
    """
    engine = create_engine(settings)
    try:
        async with engine.connect():
            pass
    except UnusableDatabaseError as error:
        raise SystemExit(f"The database of DATABASE_URL cannot be used: {error}") from None
    except (OSError, SQLAlchemyError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return
    finally:
        await close(engine)
