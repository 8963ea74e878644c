"""TLS to PostgreSQL, as libpq's `sslmode` describes it."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from domain.data import database
from domain.settings import Settings
from migrations import embedded_postgres
from tests.conftest import make_settings
from tests.support.names import of_addresses

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # the message with which a client asks for TLS


@dataclass
class TLSFront:
    """Adds TLS, with a certificate for `localhost`, to a PostgreSQL server that was built without it."""

    target: Path
    root: Path
    url: str = ""
    encrypted: list[bool] = field(default_factory=list)  # one for each connection

    async def start(self) -> asyncio.Server:
        """Make the certificate, and listen on a free port."""
        key = self.root.with_name("server.key")
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, "-keyout", str(key)]
        await asyncio.to_thread(subprocess.run, [*command, "-out", str(self.root)], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.root, key)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(len(SSL_REQUEST))
        wants_tls = first == SSL_REQUEST
        try:
            if wants_tls:
                writer.write(b"S")
                await writer.start_tls(self._context)
                first = b""
            self.encrypted.append(wants_tls)
            server_reader, server_writer = await asyncio.open_unix_connection(self.target)
            server_writer.write(first)
            await asyncio.gather(_pump(reader, server_writer), _pump(server_reader, writer))
        except OSError:  # the client did not accept the certificate, or cut the connection
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def front(tmp_path: Path, postgres: Path) -> AsyncIterator[TLSFront]:
    """A TLS front of the session's server."""
    front = TLSFront(postgres / embedded_postgres.SOCKET_NAME, tmp_path / "root.crt")
    async with await front.start():
        yield front


async def is_encrypted(front: TLSFront, settings: Settings, host: str, parameters: str) -> bool:
    """Whether a connection with these parameters uses TLS."""
    url = f"postgresql://postgres@{host}:{front.port}/{make_url(settings.database_url).database}?{parameters}"
    engine = database.create_engine(make_settings(url))
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    finally:
        await database.close(engine)
    return front.encrypted[-1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_sslmode_means_what_libpq_says(
    front: TLSFront, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")  # where libpq would look for certificates
    assert not await is_encrypted(front, settings, "localhost", "sslmode=disable")
    assert await is_encrypted(front, settings, "localhost", "sslmode=prefer")
    assert await is_encrypted(front, settings, "localhost", "sslmode=require")
    assert await is_encrypted(front, settings, "127.0.0.1", f"sslmode=verify-ca&sslrootcert={front.root}")
    assert await is_encrypted(front, settings, "localhost", f"sslmode=verify-full&sslrootcert={front.root}")
    for parameters in (f"sslmode=verify-full&sslrootcert={front.root}", "sslrootcert=system"):
        with pytest.raises(ssl.SSLCertVerificationError):
            await is_encrypted(front, settings, "127.0.0.1", parameters)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_the_certificate_has_the_name_of_the_host_whichever_of_its_addresses_is_used(
    front: TLSFront, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", of_addresses("127.0.0.71", "127.0.0.1"))  # nothing listens on the first
    assert await is_encrypted(front, settings, "localhost", f"sslmode=verify-full&sslrootcert={front.root}")
    with pytest.raises(ssl.SSLCertVerificationError):
        await is_encrypted(front, settings, "db.example.com", f"sslmode=verify-full&sslrootcert={front.root}")
