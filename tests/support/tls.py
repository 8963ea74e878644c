"""Certificates of an authority of the test's own, and a relay that speaks TLS in front of a server that does not."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Identity:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority that signs certificates for this machine and for clients."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.file = folder / "ca.pem"
        self.file.write_bytes(_pem(self._signed(self._name, self._key, is_authority=True)))

    def identity(self, name: str) -> Identity:
        """A new certificate with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        files.certificate.write_bytes(_pem(self._signed(subject, key, is_authority=False)))
        form = serialization.PrivateFormat.PKCS8
        files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return files

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass
class Relay:
    """A running relay: its address, what clients have sent, and how many of them it has refused."""

    target: str
    address: str = ""
    received: bytearray = field(default_factory=bytearray)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy both ways until one side ends."""
        host, _, port = self.target.rpartition(":")
        from_server, to_server = await asyncio.open_connection(host, int(port))
        copies = [self._copy(reader, to_server, self.received), self._copy(from_server, writer, None)]
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
            await asyncio.gather(*copies)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: bytearray | None) -> None:
        while data := await source.read(65_536):
            if seen is not None:
                seen += data
            sink.write(data)
            await sink.drain()
        sink.close()


@contextlib.asynccontextmanager
async def tls_in_front_of(target: str, server: Identity, clients: Path | None) -> AsyncIterator[Relay]:
    """A relay to the target that, with `clients`, wants certificates of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.set_alpn_protocols(["h2"])
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    relay = Relay(target)
    listening = await asyncio.start_server(relay.serve, "127.0.0.1", 0, ssl=context)
    relay.address = f"localhost:{listening.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        listening.close()
