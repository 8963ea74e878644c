"""Connects to PostgreSQL: to which of several servers, and which servers are refused."""

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg

from domain.data import outages
from domain.data.outages import UnusableDatabaseError
from domain.database_url import Target

CONNECT_TIMEOUT = 5.0  # seconds for each server
COMMAND_TIMEOUT = 15.0  # seconds for a statement
OLDEST_VERSION = 14  # of PostgreSQL
HAS_TRANSACTION_TIMEOUT = 17

_POOLER = (
    "a connection pooler such as PgBouncer is in front of it; "
    "add pgbouncer=true to the parameters of DATABASE_URL, or connect to PostgreSQL itself"
)
_REFUSED_PARAMETER = (
    "PgBouncer refuses a parameter of DATABASE_URL; remove it, and set what it should set with ALTER ROLE ... SET"
)
_ISOLATION = (
    "its transactions are {level}, and the service needs read committed; "
    "ALTER ROLE ... SET default_transaction_isolation = 'read committed'"
)
_LIMIT = "its {name} is {value}, and the service needs {needed}; ALTER ROLE ... SET {name} = {wanted}"
_STATEMENT_MODE = "PgBouncer is in statement mode, which has no transactions; set pool_mode to transaction or session"
# The driver's own words do not say where the value comes from: "invalid literal for int() with base 10: 'abc'".
_WRONG_VALUE = "a value of DATABASE_URL or of a PG* variable of the environment is wrong or missing"

# What a server that suits `target_session_attrs` answers with true.
_SUITS: Final = {
    "read-write": "SELECT current_setting('transaction_read_only') = 'off'",
    "primary": "SELECT NOT pg_is_in_recovery()",
}
# In a session of a replica, triggers and foreign keys do nothing. Only a superuser may set that when it connects.
_REPLICATION_ROLE: Final = "session_replication_role"
# The settings that end what the service does earlier than it expects, or leave out some of it. `transaction_timeout`
# came with PostgreSQL 17.
_LIMITS: Final = f"""
SELECT name, current_setting(name) AS value, '{COMMAND_TIMEOUT:.0f} s or no limit' AS needed, '0' AS wanted
FROM unnest(ARRAY['lock_timeout', 'statement_timeout', 'transaction_timeout']) AS name
WHERE extract(epoch FROM current_setting(name, true)::interval) BETWEEN 0.001 AND {COMMAND_TIMEOUT - 0.001}
UNION ALL
SELECT name, current_setting(name), needed, wanted FROM (VALUES
    ('gin_fuzzy_search_limit', 'no limit', '0'),
    ('exit_on_error', 'off', 'off'),
    ('{_REPLICATION_ROLE}', 'origin', 'origin')
) AS needs (name, needed, wanted) WHERE current_setting(name) <> wanted"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class _Server:
    """A server: its host, its port if there are several hosts, and which of the host's addresses if it has several."""

    host: str = ""
    port: int | str | None = None
    address: str = ""

    def arguments(self) -> dict[str, Any]:
        """What `asyncpg.connect` is told."""
        named = {"host": [self.host], "port": [self.port]} if self.port else {}
        return named | ({"loop": _Route(self.address)} if self.address else {})


class _Route:
    """The event loop, for connections to one address of a host.

    asyncpg has no parameter for the address. It gets the host's name, which TLS and the file of passwords need. By that
    name it would use the first address that accepts the connection, even if nothing answers there or it is a standby.
    """

    def __init__(self, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, protocol: Any, host: str, port: int, **options: Any) -> Any:
        """Connect to the address in place of the host."""
        if "ssl" in options:
            options["server_hostname"] = host
        return await self._loop.create_connection(protocol, self._address, port, **options)


class Connector:
    """Connects to the servers of a target, one after the other, and begins with the one that failed longest ago.

    asyncpg has one timeout for all of them, so it never comes to the second if the machine of the first is gone.
    """

    def __init__(self, target: Target, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._named = _servers(arguments)
        self._attributes = arguments.get("target_session_attrs", "any")
        self._has_pgbouncer = target.has_pgbouncer
        self._failed: dict[_Server, int] = {}  # those that have failed since they last worked, and when
        self._failures = 0

    async def connect(self) -> asyncpg.Connection:
        """Connect to the first server that suits, or raise what one of them said."""
        errors: list[BaseException] = []
        servers = [each for server in self._named for each in await _with_addresses(server)]
        if len(servers) > 1 and "target_session_attrs" not in self._arguments:
            self._attributes = "read-write"  # only one of them is the primary, and the service needs that one
        self._failed = {server: self._failed[server] for server in servers if server in self._failed}
        for server in sorted(servers, key=lambda server: self._failed.get(server, 0)):
            try:
                connection = await self._connect(server)
            except BaseException as error:
                # Also if the caller gives up: it may do so each time before the connect timeout is over.
                self._failures += 1
                self._failed[server] = self._failures
                if isinstance(error, UnusableDatabaseError) or not outages.is_outage(error):
                    raise
                errors.append(error)
            else:
                self._failed.pop(server, None)
                return connection
        # "Wrong password" says more than that another server is away or a standby.
        raise next((error for error in errors if isinstance(error, asyncpg.PostgresError)), errors[-1])

    async def _connect(self, server: _Server) -> asyncpg.Connection:
        """Connect to one server, and refuse one that the service cannot work with."""
        attributes = "any" if self._has_pgbouncer else self._attributes
        arguments = {**self._arguments, **server.arguments(), "target_session_attrs": attributes}
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
        except asyncpg.InternalServerError as error:  # for example, its disk is full
            raise ConnectionError(outages.describe(error)) from None
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
        # An older server refuses to connect if it is told a setting that it does not know, so this one comes later.
        more = ", set_config('transaction_timeout', '0', false)" if version.major >= HAS_TRANSACTION_TIMEOUT else ""
        question = f"SELECT pg_backend_pid(), current_setting('{_REPLICATION_ROLE}'){more}"
        statement = await connection.prepare(question, name="")
        pid, role, *_ = await statement.fetchrow()
        if pid != connection.get_server_pid():
            raise UnusableDatabaseError(_POOLER)
        if role != "origin":
            raise UnusableDatabaseError(
                _LIMIT.format(name=_REPLICATION_ROLE, value=role, needed="origin", wanted="origin")
            )

    async def _check_behind_pgbouncer(self, connection: asyncpg.Connection) -> None:
        """Raise an error if the server does not suit, or if there are no transactions, or others than we need.

        PgBouncer accepts connections without a server behind it, and repeats what a server once said about itself,
        which may have been another one. So only a statement tells whether there is a server, and which.
        """
        try:
            await connection.execute("BEGIN")
            level = await connection.fetchval("SELECT current_setting('transaction_isolation')")
            limit = await connection.fetchrow(_LIMITS)
            suits = self._attributes == "any" or await connection.fetchval(_SUITS[self._attributes])
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as error:
            if "statement pooling mode" in str(error):
                raise UnusableDatabaseError(_STATEMENT_MODE) from None
            raise
        if level != "read committed":  # PgBouncer takes no settings from us
            raise UnusableDatabaseError(_ISOLATION.format(level=level))
        if limit:
            raise UnusableDatabaseError(_LIMIT.format(**limit))
        if not suits:
            raise asyncpg.TargetServerAttributeNotMatched(f"the server is not {self._attributes}")


def _servers(arguments: Mapping[str, Any]) -> list[_Server]:
    """The servers by name, from the URL or PGHOST and PGPORT.

    Without several hosts, or if the variables are wrong, the port is left to asyncpg, which knows the defaults.
    """
    hosts = arguments.get("host") or os.environ.get("PGHOST", "").split(",")
    ports = arguments.get("port") or (os.environ.get("PGPORT") or "5432").split(",")
    if len(hosts) == 1:
        return [_Server(hosts[0])]
    if not all(hosts) or len(ports) not in {1, len(hosts)}:
        return [_Server()]
    if len(ports) == 1:
        ports = ports * len(hosts)
    return [_Server(host, port) for host, port in zip(hosts, ports, strict=True)]


async def _with_addresses(server: _Server) -> list[_Server]:
    """The server once for each address of its host; by its name only if that has one address, or none now."""
    if not server.host or server.host.startswith("/"):  # a Unix socket
        return [server]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            found = await loop.getaddrinfo(server.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # asyncpg is about to meet the same error
        return [server]
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    return [replace(server, address=address) for address in addresses] if len(addresses) > 1 else [server]
