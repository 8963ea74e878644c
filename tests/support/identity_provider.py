"""An identity provider on this machine with keys of its own, which can also do what no real one should."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "vm-api"
DISCOVERY, KEY_SET = "/.well-known/openid-configuration", "/keys"
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class Key:
    """A key pair of a provider."""

    id: str
    algorithm: str
    private: Any

    @property
    def public(self) -> dict[str, Any]:
        """The public key as the key set has it."""
        kind: Any = {"ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}.get(self.algorithm, RSAAlgorithm)
        jwk: dict[str, Any] = kind.to_jwk(self.private.public_key(), as_dict=True)
        jwk.pop("key_ops", None)
        return jwk | {"kid": self.id, "alg": self.algorithm, "use": "sig"}


@cache  # an RSA key takes a tenth of a second
def key(id: str = "first", algorithm: str = "RS256", size: int = 2048) -> Key:
    """A key with this id, always the same one in a process."""
    if algorithm == "ES256":
        return Key(id, algorithm, generate_private_key(SECP256R1()))
    if algorithm == "EdDSA":
        return Key(id, algorithm, Ed25519PrivateKey.generate())
    return Key(id, algorithm, generate_rsa_key(65537, size))


@dataclass
class Answer:
    """What the provider answers to a path; one that `is_held` stops in the middle until the provider is let go."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    is_held: bool = False


class Provider:
    """The provider; `asked` counts the requests of each path, and `let_go` ends the wait of answers that are held."""

    def __init__(self, port: int, *keys: Key) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.asked = Counter[str]()
        self.let_go = asyncio.Event()
        self.answers: dict[str, Answer] = {}
        self.metadata = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}{KEY_SET}",
            "id_token_signing_alg_values_supported": [*ALGORITHMS],
        }
        self.publish(*keys)

    def publish(self, *keys: Key, **metadata: Any) -> None:
        """Have these keys from now on, and say this about itself."""
        self.metadata |= metadata
        self.answers[DISCOVERY] = Answer(json.dumps(self.metadata).encode())
        self.answers[KEY_SET] = Answer(json.dumps({"keys": [key.public for key in keys]}).encode())

    def token(self, signer: Key | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of the user `u-1`, with these claims and members of the header; None removes one."""
        signer = signer or key()
        now = int(time.time())
        all_claims = {"iss": self.issuer, "aud": AUDIENCE, "sub": "u-1", "iat": now, "exp": now + 300} | claims
        kept = {name: value for name, value in all_claims.items() if value is not None}
        members = {"kid": signer.id} | (header or {})
        headers = {name: value for name, value in members.items() if value is not None}
        # `jwt.encode` refuses to sign some claims that a provider could.
        payload = json.dumps(kept).encode()
        return jwt.PyJWS().encode(payload, signer.private, signer.algorithm, headers={"typ": "JWT"} | headers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            self.asked[path] += 1
            answer = self.answers.get(path, Answer(b"{}", 404))
            headers = {"Content-Length": str(len(answer.body)), "Connection": "close"} | answer.headers
            lines = [f"HTTP/1.1 {answer.status} x", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            half = len(answer.body) // 2
            writer.write("\r\n".join(lines).encode() + answer.body[:half])
            await writer.drain()
            if answer.is_held:
                await self.let_go.wait()
            writer.write(answer.body[half:])
            await writer.drain()


@contextlib.asynccontextmanager
async def running_provider(*keys: Key) -> AsyncIterator[Provider]:
    """A provider with these keys, or with the first one."""
    provider: Provider

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await provider.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1")
    provider = Provider(server.sockets[0].getsockname()[1], *(keys or (key(),)))
    try:
        yield provider
    finally:
        provider.let_go.set()
        server.close()
