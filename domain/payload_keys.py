"""The keys of TEMPORAL_PAYLOAD_KEYS, which encrypt what Temporal keeps. domain/payload_codec.py uses them."""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

KEY_SIZE: Final = 32  # bytes, for AES-256
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORM = "must have the form id:key, separated by commas; make a key with: openssl rand -base64 32"


@dataclass(frozen=True, slots=True)
class PayloadKey:
    """A key and its id. Every payload names its key, so that it can be decrypted after other keys have come."""

    id: str
    secret: bytes = field(repr=False)


PLAIN: Final = PayloadKey("plain", b"")
"""In the place of the first key: nothing is encrypted, yet or any more, and the other keys decrypt."""


def parse(text: str) -> tuple[PayloadKey, ...]:
    """The keys in a setting such as `2026-11:a2V5...,2026-05:b2xk...`; ValueError if it has another form."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    is_plain = parts[:1] == [PLAIN.id]
    keys = (*([PLAIN] if is_plain else []), *(_parse_key(part) for part in parts[is_plain:]))
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("must not have two keys with one id")
    return keys


def _parse_key(text: str) -> PayloadKey:
    id, _, encoded = text.partition(":")
    try:
        secret = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError(_FORM) from None
    if not _ID.fullmatch(id) or not encoded:
        raise ValueError(_FORM)
    if len(secret) != KEY_SIZE:
        raise ValueError(f"must have keys of {KEY_SIZE} bytes; make one with: openssl rand -base64 {KEY_SIZE}")
    return PayloadKey(id, secret)
