"""Public SSH keys: which ones are valid, their one form, and their fingerprints.

A server's sshd ignores a line of `authorized_keys` that it cannot read, and the owner only notices that no login works.
So a key is checked before a VM gets it. Whether its numbers are a good key, only the program that made it knows.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from domain.rules import text

LONGEST_COMMENT: Final = 255  # characters
# Normalizing takes a time that grows with the square of the accents in a row, and joins at most four characters.
_LONGEST_SENT: Final = 4 * LONGEST_COMMENT
SMALLEST_RSA, LARGEST_RSA = 1024, 16_384  # bits; OpenSSH refuses others
_PRIVATE: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_POINTS: Final = {b"nistp256": 65, b"nistp384": 97, b"nistp521": 133}  # bytes of a point, uncompressed
_UNCOMPRESSED: Final = b"\x04"
_ED25519: Final = 32  # bytes


class InvalidKeyError(ValueError):
    """The text is no public key that servers accept; the message says why, and repeats nothing of the text."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its type, such as `ssh-ed25519`, its data as base64, and its comment, which may be empty."""

    type: str
    data: str
    comment: str

    @property
    def line(self) -> str:
        """The key as one line of `authorized_keys`."""
        return " ".join(filter(None, (self.type, self.data, self.comment)))

    @property
    def fingerprint(self) -> str:
        """The fingerprint, as `ssh-keygen -l` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.data)).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def parse(line: str) -> PublicKey:
    """The key of a line in the format of OpenSSH; InvalidKeyError if it is not one."""
    if _PRIVATE.search(line):
        raise InvalidKeyError("This is a private key; send the public one, and make a new pair if others saw this")
    type, data, comment = [*line.split(maxsplit=2), "", "", ""][:3]
    is_too_long = len(comment.strip()) > _LONGEST_SENT
    comment = "" if is_too_long else text.tidy(comment)
    if not data or len(line.strip().splitlines()) > 1:
        raise InvalidKeyError("Send one line in the format of OpenSSH: a type, the key in base64, a comment")
    if type not in _CHECKS:
        raise InvalidKeyError(f"The line must begin with a type that servers accept: {', '.join(_CHECKS)}")
    if is_too_long or len(comment) > LONGEST_COMMENT or text.find_unseen(comment) is not None:
        raise InvalidKeyError(f"The comment has at most {LONGEST_COMMENT} characters, all of them visible")
    name, *parts = _parts(data)
    if name != type.encode():
        raise InvalidKeyError("The key is of another type than the line says")
    if not _CHECKS[type](parts):
        raise InvalidKeyError(f"The key is damaged, or has a size that servers do not accept for {type}")
    return PublicKey(type, data, comment)


def _parts(data: str) -> Sequence[bytes]:
    """The parts of the key, each of which has its length before it (RFC 4253, section 6.6)."""
    try:
        rest = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKeyError("The key is not valid base64") from None
    parts: list[bytes] = []
    while rest:
        length = int.from_bytes(rest[:4])
        parts.append(rest[4 : 4 + length])
        if len(rest) < 4 + length:
            raise InvalidKeyError("The key is cut off")
        rest = rest[4 + length :]
    return parts or [b""]


def _is_rsa(parts: Sequence[bytes]) -> bool:
    numbers = [int.from_bytes(part, signed=True) for part in parts]
    match numbers:
        case [exponent, modulus]:
            return exponent > 1 and modulus > 0 and SMALLEST_RSA <= modulus.bit_length() <= LARGEST_RSA
    return False


def _is_ed25519(parts: Sequence[bytes]) -> bool:
    return [len(part) for part in parts] == [_ED25519]


def _is_ecdsa(curve: bytes) -> Callable[[Sequence[bytes]], bool]:
    def check(parts: Sequence[bytes]) -> bool:
        match parts:
            case [name, point]:
                return name == curve and len(point) == _POINTS[curve] and point.startswith(_UNCOMPRESSED)
        return False

    return check


def _with_application(check: Callable[[Sequence[bytes]], bool]) -> Callable[[Sequence[bytes]], bool]:
    """The check of a key that is in a piece of hardware: it ends with the application that it is for."""
    return lambda parts: len(parts) > 1 and bool(parts[-1]) and check(parts[:-1])


_CHECKS: Final[Mapping[str, Callable[[Sequence[bytes]], bool]]] = {
    "ssh-ed25519": _is_ed25519,
    **{f"ecdsa-sha2-{curve.decode()}": _is_ecdsa(curve) for curve in _POINTS},
    "ssh-rsa": _is_rsa,
    "sk-ssh-ed25519@openssh.com": _with_application(_is_ed25519),
    "sk-ecdsa-sha2-nistp256@openssh.com": _with_application(_is_ecdsa(b"nistp256")),
}
"""The types that servers accept, each with its check of the parts after the type."""
