"""What cloud-init gets in a new VM: the user data of its owner and the SSH keys, as one document.

Nova has one field for it. User data alone goes through unchanged. Keys alone are a cloud-config. Both together are a
MIME message with two parts, which cloud-init carries out one after the other.
"""

import email.encoders
import hashlib
import json
from collections.abc import Iterable, Sequence
from email.message import Message
from email.mime.base import MIMEBase
from email.mime.text import MIMEText
from typing import Final

from domain.rules.errors import UserDataTooLargeError

LARGEST: Final = 49_149  # bytes: as base64 they fill Nova's field of 65,535 characters
# Bytes for all VMs of a request. A body alone has fewer, but a few bytes of it name keys that each VM gets whole.
LARGEST_TOGETHER: Final = 1_310_720
# cloud-init looks only here for the header, to tell a MIME message from everything else.
_HEAD: Final = 4096
# How the keys join a cloud-config of the user data that has keys, too: both lists count. By default one would win.
_MERGE: Final = "list(append)+dict(recurse_array)+str()"


def render(user_data: str | None, public_keys: Sequence[str], at: str = "") -> bytes | None:
    """The document, or None if there is nothing to say; UserDataTooLargeError if Nova would refuse it.

    `at` is the place of the VM in the request's body, such as `vms/3/`.
    """
    if not public_keys:
        document = user_data or ""
    elif not user_data:
        document = _cloud_config(public_keys)
    else:
        document = _both(user_data, public_keys)
    content = document.encode()
    if len(content) > LARGEST:
        raise UserDataTooLargeError(len(content), LARGEST, at + ("user_data" if user_data else "ssh_keys"))
    return content or None


def check_together(documents: Iterable[bytes | None]) -> None:
    """Raise UserDataTooLargeError if the documents of a request's VMs are more than one request may store."""
    size = sum(len(document) for document in documents if document)
    if size > LARGEST_TOGETHER:
        raise UserDataTooLargeError(size, LARGEST_TOGETHER, "vms")


def _cloud_config(public_keys: Sequence[str]) -> str:
    # A JSON string is a YAML string, too.
    lines = (f"  - {json.dumps(key, ensure_ascii=False)}\n" for key in public_keys)
    return f"#cloud-config\nssh_authorized_keys:\n{''.join(lines)}"


def _both(user_data: str, public_keys: Sequence[str]) -> str:
    config = _cloud_config(public_keys)
    keys = MIMEText(config, "cloud-config", _charset(config))
    keys["Merge-Type"] = _MERGE
    # A MIME message becomes a part as it stands. Reading one that somebody has nested a thousand times would fail.
    first = user_data if is_mime(user_data) else _part(user_data).as_string()
    parts = [first, keys.as_string()]  # the keys last, because the merge type says how a part joins those before it
    boundary = f"=={hashlib.sha256(''.join(parts).encode()).hexdigest()}=="  # no part can contain its own hash
    body = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f'Content-Type: multipart/mixed; boundary="{boundary}"\nMIME-Version: 1.0\n\n{body}--{boundary}--\n'


def _part(user_data: str) -> Message:
    """The user data as a part of a type that cloud-init looks into, to find out whether it is a script or what else."""
    if user_data.isascii() and "\r" not in user_data:
        return MIMEText(user_data, "plain", "us-ascii")
    # Base64. cloud-init would read other characters wrongly, and the message would lose carriage returns.
    part = MIMEBase("text", "plain", charset="utf-8")
    part.set_payload(user_data.encode())
    email.encoders.encode_base64(part)
    return part


def is_mime(document: str) -> bool:
    """Whether cloud-init takes the document for a MIME message."""
    return "mime-version:" in document.encode()[:_HEAD].decode(errors="ignore").lower()


def _charset(text: str) -> str:
    return "us-ascii" if text.isascii() else "utf-8"
