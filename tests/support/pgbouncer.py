"""A real PgBouncer in transaction mode, in front of a PostgreSQL server that listens on a Unix socket."""

import shutil
import socket
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from migrations import embedded_postgres
from tests.support.waiting import block_until

PORT = 6432
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer: apt-get install pgbouncer")


@contextmanager
def running(socket_dir: Path, *options: str, pool_size: int = 4) -> Iterator[Path]:
    """Run PgBouncer with a few connections to the server, which all clients share; yields its socket directory."""
    assert PROGRAM
    folder = Path(tempfile.mkdtemp(prefix="vmapi-bouncer-"))
    if embedded_postgres.AS_ROOT:
        shutil.chown(folder, embedded_postgres.USER)
    config = folder / "pgbouncer.ini"
    lines = [
        "[databases]",
        f"* = host={socket_dir} port={embedded_postgres.PORT} user=postgres",
        "[pgbouncer]",
        *("listen_addr =", f"listen_port = {PORT}", f"unix_socket_dir = {folder}"),
        *("auth_type = any", "pool_mode = transaction", f"default_pool_size = {pool_size}", "max_client_conn = 500"),
        *options,
    ]
    config.write_text("\n".join(lines) + "\n")
    command = [PROGRAM, "-q", str(config)]
    process = subprocess.Popen(command, **embedded_postgres.PROCESS_OPTIONS, stderr=subprocess.DEVNULL)
    try:
        block_until(lambda: _listens(folder))
        yield folder
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def _listens(folder: Path) -> bool:
    """Whether PgBouncer takes connections: its socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(folder / f".s.PGSQL.{PORT}"))
        return True
    return False


def through(folder: Path, database: str, **parameters: str) -> str:
    """DATABASE_URL of a database behind PgBouncer."""
    query = urllib.parse.urlencode({"host": str(folder), "port": PORT} | parameters)
    return f"postgresql://postgres@/{database}?{query}"
