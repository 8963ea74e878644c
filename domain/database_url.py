"""Translates DATABASE_URL, a connection URI as libpq defines it, into arguments of asyncpg.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
"""

import contextlib
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlencode

from domain import tls

SCHEMES: Final = {"postgres", "postgresql", "postgresql+asyncpg"}
FORM: Final = "must have the form postgresql://user:password@host:5432/database"
MAX_CONNECT_TIMEOUT: Final = 600  # seconds
_MAX_PORT: Final = 65_535

_CHOICES: Final = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "sslnegotiation": {"postgres", "direct"},
    # The service writes all the time, so it refuses to be sent to a standby.
    "target_session_attrs": {"any", "primary", "read-write"},
    "pgbouncer": {"true", "false"},
}
_PEM_FILES: Final = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
# asyncpg takes these only from a URL. It knows their names, so they pass through.
_TLS: Final = {"sslmode", "sslnegotiation", "sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version"}
# Where libpq and asyncpg look for a file that neither the URL nor a variable names.
_AT_HOME: Final = {"sslrootcert": "root.crt", "sslcrl": "root.crl", "sslcert": "postgresql.crt"}
_WITHOUT_CHECK: Final = {"allow", "prefer"}
_SERVER_SETTINGS: Final = {"application_name", "options"}
_OTHERS: Final = {"user", "password", "host", "port", "dbname", "passfile", "connect_timeout"}
PARAMETERS: Final = sorted({*_CHOICES, *_PEM_FILES, *_TLS, *_SERVER_SETTINGS, *_OTHERS})


@dataclass(frozen=True, slots=True)
class Target:
    """Which server to connect to and how: the arguments of `asyncpg.connect`, and whether a PgBouncer is in front."""

    arguments: Mapping[str, Any] = field(repr=False)  # the password is among them
    has_pgbouncer: bool = False


def parse(url: str) -> Target:
    """Return the target of a URL; ValueError says what is wrong, without any part of the URL that may be secret."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError("must begin with postgresql://")
    # As libpq does it: an @ before the first slash ends the user and the password, which may contain a raw `?`.
    before_slash, _, _ = rest.partition("/")
    credentials, at, _ = before_slash.rpartition("@")
    place, _, query = rest[len(credentials + at) :].partition("?")
    host_list, _, database = place.partition("/")
    if "@" in credentials + place:
        # After a raw slash in the password, the rest of it would be the name of the database.
        raise ValueError(f"{FORM}; in the user and the password, / is written %2F and @ is written %40")
    user, _, password = credentials.partition(":")
    hosts, ports = _hosts(host_list)
    given = {"user": _decode(user), "password": _decode(password), "dbname": _decode(database)}
    given |= _parameters(query)
    _check(given)
    if "host" in given:
        hosts = given["host"].split(",")
    if any(host.startswith("@") for host in hosts):  # asyncpg would ask DNS for it, for ever
        raise ValueError("names an abstract Unix socket, which is not supported; name the folder of a socket")
    if "port" in given:
        ports = [_port(port) for port in given["port"].split(",")] if given["port"] else []
    if _uses_tls(given, hosts):
        if os.environ.get("PGSSLROOTCERT") == "system":
            given.setdefault("sslrootcert", "system")
        _check_files_elsewhere(given)
    return Target(_arguments(given, hosts, ports), given.get("pgbouncer") == "true")


def _hosts(text: str) -> tuple[list[str], list[int]]:
    """The hosts of a list such as `db1:5432,[::1],%2Frun%2Fpostgresql`, and their ports if the list names any."""
    hosts, ports = [], []
    for item in text.split(",") if text else []:
        if item.startswith("["):
            host, bracket, port = item[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise ValueError(FORM)
            port = port[1:]
        else:
            host, _, port = item.partition(":")
        hosts.append(_decode(host))
        ports.append(port)
    return hosts, list(map(_port, ports)) if any(ports) else []


def _port(text: str) -> int:
    if not text:
        return 5432
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _MAX_PORT):
        raise ValueError(FORM)
    return int(text)


def _decode(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(FORM) from None
    if any(character < " " for character in decoded):
        raise ValueError(f"{FORM}, without control characters")
    return decoded


def _parameters(query: str) -> dict[str, str]:
    given = {}
    for item in query.split("&") if query else []:
        name, separator, value = item.partition("=")
        # The names that SQLAlchemy, asyncpg and JDBC use for the same thing.
        name = {"ssl": "sslmode", "database": "dbname"}.get(_decode(name), _decode(name))
        if name not in PARAMETERS:
            # After a raw `?` in the password, this may be the rest of the password. It must not be shown.
            shown = name if re.fullmatch("[a-z_]{1,40}", name) and "@" not in query else "?"
            raise ValueError(f"has the parameter {shown}, which is not supported; use only {', '.join(PARAMETERS)}")
        if not separator:
            raise ValueError(f"has the parameter {name} without a value")
        if name in given:
            raise ValueError(f"has the parameter {name} twice")
        given[name] = _decode(value)
    if given.get("sslmode") == "true":
        given["sslmode"] = "require"
    return given


def _check(given: Mapping[str, str]) -> None:
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise ValueError(f"has a wrong {name}; it must be one of {', '.join(sorted(choices))}")
    for name in sorted(_PEM_FILES & given.keys()):
        if not (name == "sslrootcert" and given[name] == "system") and not tls.is_pem(Path(given[name])):
            raise ValueError(f"has the {name} {given[name]}, which is not a readable file in PEM format")
    _check_tls_files(given)
    timeout = given.get("connect_timeout", "1")
    if not (timeout.isascii() and timeout.isdecimal() and 0 < int(timeout) <= MAX_CONNECT_TIMEOUT):
        raise ValueError(f"has a wrong connect_timeout; it must be from 1 to {MAX_CONNECT_TIMEOUT} seconds")


def _check_tls_files(given: Mapping[str, str]) -> None:
    """Raise ValueError if OpenSSL cannot use the files. A connection attempt would only say `[SSL] PEM lib`."""
    for name in sorted({"sslrootcert", "sslcrl"} & given.keys()):
        if given[name] != "system" and not tls.has_certificates(Path(given[name])):
            raise ValueError(f"has the {name} {given[name]}, which has no certificate that can be used")
    if "sslcert" in given:
        key = Path(given["sslkey"]) if "sslkey" in given else _key_elsewhere()
        if not tls.belong_together(Path(given["sslcert"]), key, given.get("sslpassword", "")):
            if "sslkey" not in given:
                raise ValueError(
                    f"has an sslcert without an sslkey, and {key or 'sslcert'} has no key that belongs to it"
                )
            raise ValueError("has an sslcert, sslkey and sslpassword that do not belong together")


def _uses_tls(given: Mapping[str, str], hosts: Iterable[str]) -> bool:
    """Whether asyncpg may encrypt the connection; without a mode it does so over TCP only."""
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE")
    hosts = list(hosts) or os.environ.get("PGHOST", "").split(",")
    return mode != "disable" if mode else not all(host.startswith("/") for host in hosts)


def _check_files_elsewhere(given: Mapping[str, str]) -> None:
    """Raise ValueError if OpenSSL cannot use a file that asyncpg takes from PGSSL* or from the home directory.

    The connection attempts would fail for ever, as if the server were away.
    """
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    read = {"sslcert"} if mode in _WITHOUT_CHECK else _AT_HOME.keys()
    for name in sorted(read - given.keys()):
        variable = f"PGSSL{name.removeprefix('ssl').upper()}"
        file = _elsewhere(variable, _AT_HOME[name])
        if file is None:
            continue
        if name != "sslcert" and not (tls.is_pem(file) and tls.has_certificates(file)):
            raise ValueError(f"cannot be used with the file {file} ({variable}), which has no certificate")
        key = Path(given["sslkey"]) if "sslkey" in given else _key_elsewhere()
        if name == "sslcert" and not tls.belong_together(file, key, given.get("sslpassword", "")):
            raise ValueError(f"cannot be used with the file {file} ({variable}): it has no certificate, or another key")


def _key_elsewhere() -> Path | None:
    """Where asyncpg looks for a key that the URL does not name; None if only the file of the certificate is left."""
    return _elsewhere("PGSSLKEY", "postgresql.key")


def _elsewhere(variable: str, name: str) -> Path | None:
    """The file that a variable names, or the one of this name in the home directory, if there is one."""
    named = os.environ.get(variable)
    if named:
        return Path(named)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        default = Path.home() / ".postgresql" / name
        return default if default.exists() else None
    return None


def _arguments(given: Mapping[str, str], hosts: list[str], ports: list[int]) -> dict[str, Any]:
    """The arguments of asyncpg. It takes what is missing from the PG* variables of the environment, as libpq does."""
    if len(ports) not in {0, 1, len(hosts)} or (len(hosts) > 1 and not all(hosts)):
        raise ValueError("must name each host, and one port for all of them or one for each")
    arguments: dict[str, Any] = _chosen(given, {"user", "password", "passfile", "target_session_attrs"})
    if given.get("dbname"):
        arguments["database"] = given["dbname"]
    if any(hosts):
        arguments["host"] = hosts
    if ports:
        arguments["port"] = ports
    if "connect_timeout" in given:
        arguments["timeout"] = float(given["connect_timeout"])
    arguments["server_settings"] = _chosen(given, _SERVER_SETTINGS)
    tls_parameters = _tls(_chosen(given, _TLS | _PEM_FILES))
    if tls_parameters:
        arguments["dsn"] = f"postgresql://?{urlencode(tls_parameters)}"
    return arguments


def _chosen(given: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: given[name] for name in sorted(names) if given.get(name)}


def _tls(given: dict[str, str]) -> dict[str, str]:
    """The TLS parameters, with `sslrootcert=system`, which asyncpg does not know, as the file that it stands for."""
    if given.get("sslrootcert") != "system":
        return given
    if given.setdefault("sslmode", "verify-full") != "verify-full":
        raise ValueError("has sslrootcert=system, which needs sslmode=verify-full")
    paths = ssl.get_default_verify_paths()
    return given | {"sslrootcert": paths.cafile or paths.openssl_cafile}
