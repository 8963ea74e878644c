"""SSH keys for tests."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ED25519: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILtVUMcDwHPeMXvUiiGYGdZ9TzBuIeOHkAtxcvjsJdLR"


def new_key(comment: str = "") -> str:
    """Return the line of a new key."""
    return f"{_line(ed25519.Ed25519PrivateKey.generate().public_key())} {comment}".strip()


def keys_of_all_types() -> dict[str, str]:
    """Return the line of a new key of each type that a program can make."""
    curves = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
    keys = [ec.generate_private_key(curve).public_key() for curve in curves]
    lines = [new_key(), _line(rsa.generate_private_key(65_537, 2048).public_key()), *map(_line, keys)]
    return {line.split()[0]: line for line in lines}


def _line(key: ed25519.Ed25519PublicKey | rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
