"""The bodies of answers; each reads its fields from a row."""

from api.routes.answers.accounts import (
    Account,
    AccountPage,
    CreatedToken,
    SSHKey,
    SSHKeyPage,
    Token,
    TokenPage,
    TokenPair,
    User,
)
from api.routes.answers.audit import SecurityEvent, SecurityEventPage
from api.routes.answers.catalogue import Flavor, FlavorPage, Image, ImagePage, Network, NetworkPage
from api.routes.answers.health import Health, Liveness, Readiness
from api.routes.answers.operations import Attention, AttentionPage, Fault, Operation, OperationPage
from api.routes.answers.projects import Member, MemberPage, Project, ProjectPage, Quotas, QuotaUse
from api.routes.answers.storage import Attachment, AttachmentPage, Snapshot, SnapshotPage, Volume, VolumePage
from api.routes.answers.vms import VM, Console, ConsoleLog, Interface, InterfacePage, VMPage, VMs

__all__ = [
    "VM",
    "Account",
    "AccountPage",
    "Attachment",
    "AttachmentPage",
    "Attention",
    "AttentionPage",
    "Console",
    "ConsoleLog",
    "CreatedToken",
    "Fault",
    "Flavor",
    "FlavorPage",
    "Health",
    "Image",
    "ImagePage",
    "Interface",
    "InterfacePage",
    "Liveness",
    "Member",
    "MemberPage",
    "Network",
    "NetworkPage",
    "Operation",
    "OperationPage",
    "Project",
    "ProjectPage",
    "QuotaUse",
    "Quotas",
    "Readiness",
    "SSHKey",
    "SSHKeyPage",
    "SecurityEvent",
    "SecurityEventPage",
    "Snapshot",
    "SnapshotPage",
    "Token",
    "TokenPage",
    "TokenPair",
    "User",
    "VMPage",
    "VMs",
    "Volume",
    "VolumePage",
]
