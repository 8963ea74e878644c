"""Connects to PostgreSQL: to which of several servers, and which servers are refused."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from domain.data import outages
from domain.data.outages import UnusableDatabaseError
from domain.database_url import Target

CONNECT_TIMEOUT = 5.0  # seconds for each server
OLDEST_VERSION = 14  # of PostgreSQL

_POOLER = (
    "a connection pooler such as PgBouncer is in front of it; "
    "add pgbouncer=true to the parameters of DATABASE_URL, or connect to PostgreSQL itself"
)
_REFUSED_PARAMETER = (
    "PgBouncer refuses a parameter of DATABASE_URL; remove it, and set what it should set with ALTER ROLE ... SET"
)
_STATEMENT_MODE = "PgBouncer is in statement mode, which has no transactions; set pool_mode to transaction or session"
# The driver's own words do not say where the value comes from: "invalid literal for int() with base 10: 'abc'".
_WRONG_VALUE = "a value of DATABASE_URL or of a PG* variable of the environment is wrong or missing"

# What a server that suits `target_session_attrs` answers with true.
_SUITS: Final = {
    "read-write": "SELECT current_setting('transaction_read_only') = 'off'",
    "primary": "SELECT NOT pg_is_in_recovery()",
}


class Connector:
    """Connects to the servers of a target, one after the other, and begins with the one that worked last.

    asyncpg has one timeout for all of them, so it never comes to the second if the machine of the first is gone.
    """

    def __init__(self, target: Target, arguments: Mapping[str, Any]) -> None:
        servers = _servers(arguments)
        # Of several servers only one is the primary, and the service needs that one.
        self._attributes = arguments.get("target_session_attrs", "read-write" if len(servers) > 1 else "any")
        self._has_pgbouncer = target.has_pgbouncer
        shared = {**arguments, "target_session_attrs": "any" if self._has_pgbouncer else self._attributes}
        self._servers = [shared | server for server in servers]
        self._first = 0

    async def connect(self) -> asyncpg.Connection:
        """Connect to the first server that suits, or raise what one of them said."""
        errors: list[BaseException] = []
        for number in [*range(self._first, len(self._servers)), *range(self._first)]:
            try:
                return await self._connect(self._servers[number])
            except BaseException as error:
                # Also if the caller gives up: it may do so each time before the connect timeout is over.
                self._first = (number + 1) % len(self._servers)
                if isinstance(error, UnusableDatabaseError) or not outages.is_outage(error):
                    raise
                errors.append(error)
        # "Wrong password" says more than that another server is away or a standby.
        raise next((error for error in errors if isinstance(error, asyncpg.PostgresError)), errors[-1])

    async def _connect(self, arguments: dict[str, Any]) -> asyncpg.Connection:
        """Connect to one server, and refuse one that the service cannot work with."""
        try:
            connection = await asyncpg.connect(**arguments)
        except OSError:
            raise
        except (ValueError, LookupError) as error:
            # A PG* variable of the environment is wrong, or nothing names the user, not even the system.
            raise UnusableDatabaseError(f"{_WRONG_VALUE} ({outages.describe(error)})") from None
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" in str(error):
                reason = _REFUSED_PARAMETER if self._has_pgbouncer else _POOLER
                raise UnusableDatabaseError(f"{reason} ({outages.describe(error)})") from None
            raise
        except asyncpg.PostgresError as error:
            if outages.is_outage(error) and outages.sqlstate_of(error) != outages.NO_RIGHTS:
                raise
            # For example, the parameter `options` of the URL names a setting that the server does not know.
            raise UnusableDatabaseError(outages.describe(error)) from None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._check(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _check(self, connection: asyncpg.Connection) -> None:
        """Raise UnusableDatabaseError if the server is too old, has another encoding or hides behind a pooler."""
        version, encoding = connection.get_server_version(), connection.get_settings().server_encoding
        if version.major < OLDEST_VERSION:
            reason = f"it is PostgreSQL {version.major}; the service needs {OLDEST_VERSION} or newer"
            raise UnusableDatabaseError(reason)
        if encoding != "UTF8":
            raise UnusableDatabaseError(f"its encoding is {encoding}; create the database with ENCODING 'UTF8'")
        if self._has_pgbouncer:
            await self._check_behind_pgbouncer(connection)
            return
        # A pooler makes up the process id that it reports at the start. The statement has no name, because a pooler may
        # give us a connection on which somebody else has prepared one with the same name.
        statement = await connection.prepare("SELECT pg_backend_pid()", name="")
        if await statement.fetchval() != connection.get_server_pid():
            raise UnusableDatabaseError(_POOLER)

    async def _check_behind_pgbouncer(self, connection: asyncpg.Connection) -> None:
        """Raise an error if the server does not suit, or if there are no transactions.

        PgBouncer accepts connections without a server behind it, and repeats what a server once said about itself,
        which may have been another one. So only a statement tells whether there is a server, and which.
        """
        try:
            await connection.execute("BEGIN")
            suits = self._attributes == "any" or await connection.fetchval(_SUITS[self._attributes])
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as error:
            if "statement pooling mode" in str(error):
                raise UnusableDatabaseError(_STATEMENT_MODE) from None
            raise
        if not suits:
            raise asyncpg.TargetServerAttributeNotMatched(f"the server is not {self._attributes}")


def _servers(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The host and the port of each server, from the URL or PGHOST and PGPORT.

    Without several servers, or if the variables are wrong, that is left to asyncpg, which knows the defaults.
    """
    hosts = arguments.get("host") or os.environ.get("PGHOST", "").split(",")
    ports = arguments.get("port") or (os.environ.get("PGPORT") or "5432").split(",")
    if len(hosts) == 1 or not all(hosts) or len(ports) not in {1, len(hosts)}:
        return [{}]
    if len(ports) == 1:
        ports = ports * len(hosts)
    return [{"host": [host], "port": [port]} for host, port in zip(hosts, ports, strict=True)]
