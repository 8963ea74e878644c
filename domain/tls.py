"""Whether OpenSSL can use files of certificates and keys. A connection attempt would not say which file is wrong."""

import ssl
from pathlib import Path


def is_pem(file: Path) -> bool:
    """Whether the file is there, may be read and is in PEM format."""
    try:
        return file.is_file() and b"-----BEGIN " in file.read_bytes()  # a pipe could be read only once
    except (OSError, ValueError):  # ValueError: no path can have a NUL
        return False


def has_certificates(file: Path) -> bool:
    """Whether the file has a certificate, or a revocation list, that can be used."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        return False
    return True


def belong_together(certificate: Path, key: Path | None, password: str = "") -> bool:
    """Whether the key is that of the certificate and opens with the password; it may be in the certificate's file."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, lambda: password)
    except (OSError, ValueError):
        return False
    return True
