"""The public keys of the identity provider, read from its discovery document and kept.

A request with a token of a known key waits for nobody. One with an unknown key asks the provider, because it may have a
new one; but nobody can make the process ask more often than once in PAUSE seconds.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from domain.identity_provider import is_loopback, is_safe

logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for each request

REFRESH: Final = 300.0  # seconds from one reading to the next; a key that the provider withdraws is refused after that
RETRY: Final = 10.0  # seconds, after a reading that failed
PAUSE: Final = 5.0  # seconds from one reading to the next if tokens with unknown keys come
MOST_WAITING: Final = 100  # requests for one reading; their senders are not known yet, and each may have a large body
TIMEOUT: Final = 5.0  # seconds for a whole reading
MAX_DOCUMENT: Final = 256 * 1024  # bytes
MAX_KEYS: Final = 100
_LONGEST_ID = 512  # characters
# Characters of the modulus (8192 bits) and the exponent of an RSA key. A larger key would make each check slow.
_LONGEST: Final = {"n": 1400, "e": 16}
_SMALLEST_RSA: Final = 2048  # bits, RFC 7518 section 3.3
# The accepted algorithms, and the kind of key of each. For none of them would we share a secret with the provider.
ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
_PUBLIC: Final = ("kty", "crv", "n", "e", "x", "y")


class ProviderAwayError(Exception):
    """The provider cannot be asked for its keys, and without it nobody knows whether a token is right."""


class _UnusableError(Exception):
    """What the provider answers cannot be used."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of one reading by their id and algorithm; `only` has those of algorithms with a single key."""

    by_id: Mapping[tuple[str | None, str], jwt.PyJWK]
    only: Mapping[str, jwt.PyJWK]

    def find(self, id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key that a token names; a token may name none if there is only one (OpenID Connect Core 10.1)."""
        return self.only.get(algorithm) if id is None else self.by_id.get((id, algorithm))


class ManyWaitError(Exception):
    """So many requests wait for the provider's keys that no further one may."""


class ProviderKeys:
    """The keys of one provider; `version` changes when they do."""

    def __init__(self, issuer: str) -> None:
        self.version = 0
        self._issuer = issuer
        self._client = httpx.AsyncClient(
            follow_redirects=False,  # one could lead to an address that only this machine reaches
            headers={"Accept-Encoding": "identity"},
            timeout=TIMEOUT,
            trust_env=not is_loopback(issuer),  # a proxy of the environment leads out of this machine
        )
        self._keys = _Keys({}, {})
        self._documents: list[Any] = []
        self._failure: str | None = "it has not been asked yet"
        self._read_at = -PAUSE
        self._reading: asyncio.Task[None] | None = None
        self._waiting = 0  # requests

    async def run(self) -> None:
        """Read the keys now and every REFRESH seconds."""
        try:
            while True:
                await self._read_together()
                await asyncio.sleep(RETRY if self._failure else REFRESH)
        finally:
            if self._reading:
                self._reading.cancel()
            await self._client.aclose()

    def find(self, id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key with this id for this algorithm; None if the provider has none, ProviderAwayError if it is away."""
        key = self._keys.find(id, algorithm)
        if key is None and self._failure:
            raise ProviderAwayError
        return key

    async def look_for(self, id: str | None, algorithm: str) -> None:
        """Read the keys anew if this one is unknown. This may take TIMEOUT; ManyWaitError if too many wait for it."""
        is_due = self._reading is not None or time.monotonic() >= self._read_at + PAUSE
        if not is_due or self._keys.find(id, algorithm) is not None:
            return
        if self._waiting >= MOST_WAITING:
            raise ManyWaitError
        self._waiting += 1
        try:
            await self._read_together()
        finally:
            self._waiting -= 1

    async def _read_together(self) -> None:
        """Read the keys; those who come meanwhile wait for the same reading."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)  # a request that goes away must not end the reading of the others

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                documents = await self._fetch()
            if documents != self._documents:
                self._keys = await asyncio.to_thread(_usable_keys, *documents)
                self._documents = documents
                self.version += 1
        except TimeoutError:
            self._note(f"it takes more than {TIMEOUT:.0f} s")
        except (httpx.HTTPError, httpx.InvalidURL, _UnusableError) as error:
            self._note(str(error) or type(error).__name__)
        except Exception:  # a bug must not end the readings
            logger.exception("the keys of the identity provider could not be read")
            self._note("a bug")
        else:
            self._note(None)
        finally:
            self._read_at = time.monotonic()
            self._reading = None

    def _note(self, failure: str | None) -> None:
        """Log the beginning of an outage, each new reason, and its end."""
        if failure is not None and failure != self._failure:
            logger.warning("the keys of the identity provider %s cannot be read: %s", self._issuer, failure)
        if failure is None and self._failure is not None:
            logger.info("the keys of the identity provider %s are read", self._issuer)
        self._failure = failure

    async def _fetch(self) -> list[Any]:
        """The algorithms of the provider, and its key set."""
        metadata = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != self._issuer:
            raise _UnusableError(f"it calls itself {str(metadata.get('issuer'))[:200]!r}; set OIDC_ISSUER to that")
        url = metadata.get("jwks_uri")
        if not isinstance(url, str) or not is_safe(url, loopback=is_loopback(self._issuer)):
            raise _UnusableError(f"the address of its keys is {str(url)[:200]!r} and not an https URL")
        # The document demands this member. Only RS256 is supported by every provider.
        return [metadata.get("id_token_signing_alg_values_supported", ["RS256"]), await self._get(url)]

    async def _get(self, url: str) -> dict[str, Any]:
        async with self._client.stream("GET", url) as answer:
            if answer.status_code != httpx.codes.OK:
                raise _UnusableError(f"{url} answers {answer.status_code}")
            if "Content-Encoding" in answer.headers:  # a small body could become a huge one
                raise _UnusableError(f"{url} is compressed, which we did not ask for")
            body = bytearray()
            async for part in answer.aiter_raw():
                body += part
                if len(body) > MAX_DOCUMENT:
                    raise _UnusableError(f"{url} has more than {MAX_DOCUMENT} bytes")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise _UnusableError(f"{url} is not JSON") from None
        if not isinstance(document, dict):
            raise _UnusableError(f"{url} is not a JSON object")
        return document


def _usable_keys(provider_algorithms: Any, key_set: dict[str, Any]) -> _Keys:
    """The keys that the provider may sign with and we accept; others are left out."""
    entries = key_set.get("keys")
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise _UnusableError(f"its key set is no list of at most {MAX_KEYS} keys")
    allowed = [name for name in ALGORITHMS if isinstance(provider_algorithms, list) and name in provider_algorithms]
    by_id: dict[tuple[str | None, str], jwt.PyJWK] = {}
    number = Counter[str]()
    only: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        for algorithm in allowed:
            if isinstance(entry, dict) and (key := _usable_key(entry, algorithm)):
                by_id.setdefault((entry.get("kid"), algorithm), key)
                only[algorithm] = key
                number[algorithm] += 1
    if not by_id:
        raise _UnusableError(f"it has no key for any of {', '.join(ALGORITHMS)} that its metadata allows")
    return _Keys(by_id, {name: key for name, key in only.items() if number[name] == 1})


def _usable_key(entry: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    kind, curve = ALGORITHMS[algorithm]
    is_for_this = (entry.get("kty"), entry.get("alg", algorithm), entry.get("use", "sig")) == (kind, algorithm, "sig")
    if not is_for_this or (curve is not None and entry.get("crv") != curve):
        return None
    operations, id = entry.get("key_ops", ["verify"]), entry.get("kid")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(id, str | None):
        return None
    if len(id or "") > _LONGEST_ID or any(len(str(entry.get(name, ""))) > most for name, most in _LONGEST.items()):
        return None
    try:
        # Without the members of a private key, which PyJWT would take for one, and which nobody should publish.
        key = jwt.PyJWK({name: entry[name] for name in _PUBLIC if name in entry}, algorithm)
    except (jwt.PyJWTError, UnsupportedAlgorithm, KeyError, ValueError, TypeError):
        return None
    return key if kind != "RSA" or key.key.key_size >= _SMALLEST_RSA else None
