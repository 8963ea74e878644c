"""The bodies of answers about SSH keys and consoles."""

from datetime import datetime

from pydantic import Field

from api.web.models import Answer, Page


class SSHKey(Answer):
    """A public SSH key; `fingerprint` is the one that `ssh-keygen -l` shows."""

    name: str
    type: str = Field(examples=["ssh-ed25519"])
    fingerprint: str
    public_key: str
    created_at: datetime


class ConsoleLog(Answer):
    """What a console has shown. `is_truncated`: the lines have more than 256 KiB, and the first of them are missing."""

    output: str
    is_truncated: bool


class Console(Answer):
    """A console that can be used at an address, which is secret; its type in Nova's words."""

    type: str = Field(examples=["novnc"])
    url: str


class SSHKeyPage(Page[SSHKey]):
    """SSH keys."""
