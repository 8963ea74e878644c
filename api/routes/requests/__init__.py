"""The bodies that clients send."""

from api.routes.requests.accounts import (
    Credentials,
    NewSSHKey,
    NewToken,
    PasswordChange,
    RefreshRequest,
    Registration,
    RoleChange,
)
from api.routes.requests.base import NoInput, Request
from api.routes.requests.changes import SnapshotChanges, VMChanges, VolumeChanges
from api.routes.requests.projects import Membership, NewProject, QuotaChanges
from api.routes.requests.storage import Extension, NewSnapshot, NewVolume
from api.routes.requests.vms import (
    Adoption,
    NewAttachment,
    NewInterface,
    NewVM,
    NewVMs,
    Reboot,
    ResetState,
    Resize,
)

__all__ = [
    "Adoption",
    "Credentials",
    "Extension",
    "Membership",
    "NewAttachment",
    "NewInterface",
    "NewProject",
    "NewSSHKey",
    "NewSnapshot",
    "NewToken",
    "NewVM",
    "NewVMs",
    "NewVolume",
    "NoInput",
    "PasswordChange",
    "QuotaChanges",
    "Reboot",
    "RefreshRequest",
    "Registration",
    "Request",
    "ResetState",
    "Resize",
    "RoleChange",
    "SnapshotChanges",
    "VMChanges",
    "VolumeChanges",
]
