"""Tells an outage of PostgreSQL from a bug, by the error that a statement or a connection attempt ended with."""

import logging
import time
from typing import Final

import asyncpg
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import PoolProxiedConnection

logger = logging.getLogger(__name__)

READ_ONLY: Final = "25006"
# SQLSTATEs, or their first two characters: https://www.postgresql.org/docs/current/errcodes-appendix.html
# The server behind every connection of the pool is the wrong one or goes away: a standby, or a primary that became one,
# after a failover; a shutdown; a crash. New connections may reach the right one.
_SERVER_GONE: Final = ("08", READ_ONLY, "57P01", "57P02", "57P03", "57P04")
# The server is full or ends the session: disk, memory, connections (53), a statement or a transaction that takes longer
# than it allows (57, 25P0x), its files (58), a login that it refuses (28), a database that is not there (3D).
_SERVER_REFUSES: Final = ("53", "57", "25P03", "25P04", "58", "28", "3D")
# The transaction lost a race for locks. It changed nothing, and the same request can succeed at once.
_LOST_RACE: Final = ("40001", "40P01", "55P03")
# A table or a column is missing: this process was started before `python -m migrations` of its version has run.
SCHEMA_IS_OLD: Final = ("42P01", "42703")
NO_RIGHTS: Final = "42501"  # the role may connect, but not do what the service does
# The server has no room for more work, accepts no more connections because it shuts down, lacks a table or a column, or
# has not given the role its rights. A SELECT on an open connection still succeeds, so a probe would not see it.
UNSEEN_BY_PROBES: Final = ("53", "57P03", *SCHEMA_IS_OLD, NO_RIGHTS)
_WHAT_TO_DO: Final = {
    **dict.fromkeys(SCHEMA_IS_OLD, "; run python -m migrations"),
    NO_RIGHTS: "; grant the role of DATABASE_URL its rights, as docs/operations.md says",
}
HAS_LIMIT: Final = "has_time_limit"  # the execution option of connections whose statements have a limit of their own
QUIET_TIME: Final = 5.0  # seconds without an outage, until the server counts as available again


class UnusableDatabaseError(Exception):
    """The server answers, but the service cannot work with it; the message is one line that says why."""


# The network, the pool and the driver, without an answer from the server.
UNREACHABLE: Final = (
    OSError,  # includes TimeoutError
    PoolTimeoutError,
    UnusableDatabaseError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server has closed the connection, but asyncpg has not noticed yet
)


def sqlstate_of(error: BaseException | None) -> str:
    """The SQLSTATE of an error of the database, or an empty string."""
    return getattr(original(error), "sqlstate", None) or ""


def is_outage(error: BaseException) -> bool:
    """Whether the same call may succeed later: the database is away, full, read-only, too busy or not yet prepared."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(original(error), UNREACHABLE):
        return True
    return sqlstate_of(error).startswith((*_SERVER_GONE, *_SERVER_REFUSES, *_LOST_RACE, *SCHEMA_IS_OLD, NO_RIGHTS))


def describe(error: BaseException) -> str:
    """One line for the log: what the server or the driver says, without the statement and its parameters."""
    cause = original(error)
    if isinstance(cause, UnusableDatabaseError):
        return str(cause)
    # The whole text of a PostgreSQL error has further lines, which may repeat values.
    text = cause.args[0] if isinstance(cause, asyncpg.PostgresError) else cause
    kind = f"{type(cause).__name__} {sqlstate_of(error)}".strip()
    return " ".join(f"{kind}: {text}{_WHAT_TO_DO.get(sqlstate_of(error), '')}".split())


def on_error(context: ExceptionContext) -> None:
    """Drop the connections that an outage makes useless, and take the statement out of the error's text."""
    if isinstance(context.sqlalchemy_exception, StatementError):
        # SQLAlchemy appends it to the text, which ends up in logs: many lines of SQL, while the error says what failed.
        context.sqlalchemy_exception.statement = None
    is_useless, are_all = _useless(context.original_exception)
    if isinstance(context.original_exception, TimeoutError) and _has_limit(context):
        # `TimeLimit` finds out whether the server is silent. SQLAlchemy itself would drop the connection.
        context.is_disconnect = False
        return
    if is_useless:
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, are_all


def _has_limit(context: ExceptionContext) -> bool:
    return context.connection is not None and HAS_LIMIT in context.connection.get_execution_options()


def drop(connection: PoolProxiedConnection, error: BaseException) -> bool:
    """Drop the connections that an error makes useless, as SQLAlchemy and `on_error` do; whether this one is dropped.

    This is for statements that the driver runs without SQLAlchemy.
    """
    is_useless, are_all = _useless(error)
    driver: asyncpg.Connection = connection.driver_connection
    is_closed = driver.is_closed()
    if is_closed or are_all:
        # There is no public name for it. The other connections will be opened anew when they are needed.
        connection._pool._invalidate(connection, error, _checkin=False)  # noqa: SLF001
    # Whoever is canceled leaves before the answer, so the connection cannot be used again.
    is_dropped = is_useless or is_closed or not isinstance(error, Exception)
    if is_dropped:
        connection.invalidate(error)
    return is_dropped


def _useless(error: BaseException) -> tuple[bool, bool]:
    """Whether the error makes its connection useless, and whether it makes all connections of the pool useless."""
    state = sqlstate_of(error)
    # The machine may be gone, and then no connection of the pool will ever be answered. Each would cost a request the
    # whole time limit of a statement.
    has_no_answer = isinstance(error, TimeoutError)
    are_all = has_no_answer or state.startswith(_SERVER_GONE)
    return are_all or state.startswith(_SERVER_REFUSES), are_all


def original(error: BaseException | None) -> BaseException | None:
    """The driver's own error: SQLAlchemy wraps it twice, the second time as the cause of `orig`."""
    if isinstance(error, DBAPIError):
        return getattr(error.orig, "__cause__", None) or error.orig
    return error


class OutageLog:
    """Logs one line when PostgreSQL goes away and one when it is back, however many callers notice."""

    def __init__(self) -> None:
        self._last: float | None = None

    def failed(self, error: BaseException) -> None:
        """Note that something failed because of an outage."""
        if self._last is None:
            logger.error("PostgreSQL is unavailable, work waits for it: %s", describe(error))
        self._last = time.monotonic()

    def succeeded(self) -> None:
        """Note that something succeeded. While a server is full, some statements succeed and others do not."""
        if self._last is not None and time.monotonic() > self._last + QUIET_TIME:
            logger.warning("PostgreSQL is available again")
            self._last = None


log = OutageLog()
"""The log of this process: all of its activities and loops notice the same outage."""
