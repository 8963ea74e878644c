"""Encrypts the payloads that Temporal keeps: inputs, results, failures, signals, memos, summaries, details (ADR 058).

The form is that of Temporal's own samples, so that their tools can read it, too: the metadata say `binary/encrypted`
and the id of the key, and the data are a nonce of twelve bytes, the payload encrypted with AES-256-GCM, and its tag.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from domain.payload_keys import PLAIN, PayloadKey

ENCRYPTED: Final = b"binary/encrypted"
_NONCE_SIZE = 12  # bytes, as NIST SP 800-38D recommends


class UnreadablePayloadError(Exception):
    """A payload is encrypted with a key that this process does not have, or was damaged."""


class EncryptingCodec(PayloadCodec):
    """Encrypts with the first key, decrypts with the one that a payload names, and lets plain payloads pass.

    So histories that began before there were keys go on. Without keys, or with PLAIN as the first, it encrypts nothing.
    """

    def __init__(self, keys: Sequence[PayloadKey]) -> None:
        self._ciphers = {key.id: AESGCM(key.secret) for key in keys if key is not PLAIN}
        self._first = keys[0].id if _encrypts(keys) else None

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt the payloads."""
        return self.encrypted(payloads)

    def encrypted(self, payloads: Sequence[Payload]) -> list[Payload]:
        """The payloads, encrypted if there is a key for it."""
        return [self._encrypt(payload, self._first) for payload in payloads] if self._first else list(payloads)

    def _encrypt(self, payload: Payload, key_id: str) -> Payload:
        nonce = os.urandom(_NONCE_SIZE)
        data = nonce + self._ciphers[key_id].encrypt(nonce, payload.SerializeToString(), None)
        return Payload(metadata={"encoding": ENCRYPTED, "encryption-key-id": key_id.encode()}, data=data)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt the payloads that are encrypted; UnreadablePayloadError if one cannot be."""
        return self.decrypted(payloads)

    def decrypted(self, payloads: Sequence[Payload]) -> list[Payload]:
        """The payloads in plain form; UnreadablePayloadError if one cannot be decrypted."""
        return [self._decrypt(p) if p.metadata.get("encoding") == ENCRYPTED else p for p in payloads]

    def _decrypt(self, payload: Payload) -> Payload:
        key_id = payload.metadata.get("encryption-key-id", b"").decode(errors="replace")
        if key_id not in self._ciphers:
            raise UnreadablePayloadError(f"TEMPORAL_PAYLOAD_KEYS lacks the key {key_id!r}, which encrypts a payload.")
        nonce, encrypted = payload.data[:_NONCE_SIZE], payload.data[_NONCE_SIZE:]
        try:
            return Payload.FromString(self._ciphers[key_id].decrypt(nonce, encrypted, None))
        except (InvalidTag, ValueError):  # ValueError: the nonce is too short
            text = f"The key {key_id!r} of TEMPORAL_PAYLOAD_KEYS is not the one that encrypted a payload."
            raise UnreadablePayloadError(text) from None


def _encrypts(keys: Sequence[PayloadKey]) -> bool:
    return bool(keys) and keys[0] is not PLAIN


def converter(keys: Sequence[PayloadKey]) -> DataConverter:
    """The converter of a Temporal client. If it encrypts, it also moves the texts of failures into payloads."""
    # Without keys, the codec still says clearly what is wrong with a payload that is encrypted.
    plain = replace(DataConverter.default, payload_codec=EncryptingCodec(keys))
    if not _encrypts(keys):
        return plain
    return replace(plain, failure_converter_class=DefaultFailureConverterWithEncodedAttributes)
