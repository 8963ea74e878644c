"""Names of resources in a shell: what completion offers, and ids of things with names."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from threading import Thread
from typing import Annotated, Any
from uuid import UUID

import typer

from vmctl.cli import numbers, session
from vmctl.client import AmbiguousNameError, ClientError, NotFoundError, UnusableError
from vmctl.client.base import as_id
from vmctl.client.sync.collections import SharedCollection

_MOST = 100  # that completion offers
_LONGEST = 3.0  # seconds that completion reads a list, which may be slow or have no end
_PLAIN = re.compile(r"\w[\w.@+,/-]*")  # what no shell takes for anything but letters
_HIGHEST_LIMIT = 1_000_000_000
_EMPTY_OPTION = re.compile(r"--[a-z-]+=\s*|-[a-z]+\s+")


def refuse_empty(arguments: Sequence[str]) -> None:
    """UnusableError if an argument is empty, for example an unset variable of a script.

    No command may take it for "all of them", or for a default. White space of any kind alone is empty, too: the service
    removes it.
    """
    for before, argument in pairwise(["vmctl", *arguments]):
        if not argument.strip() or _EMPTY_OPTION.fullmatch(argument):
            what = argument.strip().rstrip("=") or (before if before.startswith("-") else f"What follows {before}")
            raise UnusableError(f"{what} is empty. Give it a value, or leave it out.")


def completion(kind: str) -> Callable[[typer.Context, str], list[str]]:
    """Offer the names that begin with what was typed. Completion must not print errors.

    Shells take an offer as if it had been typed: a name could be a command that somebody else has written.
    """

    def offer(context: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []
        arguments = (kind, context.params.get("project"), incomplete, found)
        reading = Thread(target=_read_names, args=arguments, daemon=True)
        reading.start()
        reading.join(_LONGEST)
        return found[:_MOST]

    return offer


def _read_names(kind: str, project: str | None, beginning: str, found: list[str]) -> None:
    """Add names that have this beginning to those that were found."""
    with suppress(ClientError):
        reader = session.Session(os.environ.get("VMCTL_URL"), is_completion=True)
        with reader.client:
            for item in _LISTS[kind](reader, project):
                name = str(getattr(item, "name", ""))
                if name.startswith(beginning) and _PLAIN.fullmatch(name):
                    found.append(name)
                if len(found) == _MOST:
                    return


_LISTS: dict[str, Callable[[session.Session, str | None], Iterable[object]]] = {
    "vm": lambda at, project: at.client.vms.list(project_id=at.project_id(project)),
    "volume": lambda at, project: at.client.volumes.list(project_id=at.project_id(project)),
    "snapshot": lambda at, project: at.client.snapshots.list(project_id=at.project_id(project)),
    "flavor": lambda at, _: at.client.flavors.list(),
    "image": lambda at, _: at.client.images.list(),
    "network": lambda at, _: at.client.networks.list(),
    "key": lambda at, _: at.client.ssh_keys.list(),
    "token": lambda at, _: at.client.tokens.list(),
    "project": lambda at, _: at.client.projects.list(),
}
VM = Annotated[str, typer.Argument(metavar="VM", help="Name or id of the VM.", autocompletion=completion("vm"))]
VMs = Annotated[
    list[str] | None, typer.Argument(metavar="[VM]...", help="Names or ids.", autocompletion=completion("vm"))
]
VolumeName = Annotated[
    str, typer.Argument(metavar="VOLUME", help="Name or id of the volume.", autocompletion=completion("volume"))
]
SnapshotName = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Name or id of the snapshot.", autocompletion=completion("snapshot"))
]
NetworkName = Annotated[
    str, typer.Argument(metavar="NETWORK", help="Name or id of the network.", autocompletion=completion("network"))
]
KeyName = Annotated[str, typer.Argument(metavar="KEY", help="Name of the key.", autocompletion=completion("key"))]
FlavorOption = Annotated[
    str, typer.Option("--flavor", "-f", help="Name or id of the flavor.", autocompletion=completion("flavor"))
]
ImageOption = Annotated[
    str | None, typer.Option("--image", help="Name or id of the image.", autocompletion=completion("image"))
]
NetworksOption = Annotated[
    list[str] | None,
    typer.Option(
        "--network", help="Name or id of a network; several times for several.", autocompletion=completion("network")
    ),
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option("--ssh-key", help="Name of a key, or the file of a public key.", autocompletion=completion("key")),
]
VMOption = Annotated[
    str | None, typer.Option("--vm", help="Only of this VM: its name or id.", autocompletion=completion("vm"))
]
ProjectName = Annotated[
    str, typer.Argument(metavar="PROJECT", help="Name or id of the project.", autocompletion=completion("project"))
]
ProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project",
        "-p",
        help="Name or id of a project; otherwise that of VMCTL_PROJECT.",
        autocompletion=completion("project"),
    ),
]
Selector = Annotated[
    list[str] | None,
    typer.Option("--selector", "-l", help="Only with these labels, as env=prod,tier; several times for all of them."),
]
Sort = Annotated[str | None, typer.Option(help="For example name, or -created_at for the newest first.")]
Limit = Annotated[int | None, numbers.whole(help="Print at most so many.", most=_HIGHEST_LIMIT)]


def project_id(name_or_id: str | None = None) -> UUID | None:
    """The id of the project that a command means: the named one, or that of VMCTL_PROJECT, or none."""
    return session.current().project_id(name_or_id)


def vm_id(name_or_id: str, project: str | None = None) -> UUID:
    """The id of the VM that is meant, in the project that the command means."""
    return _id_of(session.current().client.vms, name_or_id, project)


def volume_id(name_or_id: str, project: str | None = None) -> UUID:
    """The id of the volume that is meant, in the project that the command means."""
    return _id_of(session.current().client.volumes, name_or_id, project)


def snapshot_id(name_or_id: str, project: str | None = None) -> UUID:
    """The id of the snapshot that is meant, in the project that the command means."""
    return _id_of(session.current().client.snapshots, name_or_id, project)


def _id_of(kind: SharedCollection[Any], name_or_id: str, project: str | None) -> UUID:
    if id := as_id(name_or_id):
        return id
    wanted = project_id(project)
    try:
        return kind.find_id(name_or_id, project_id=wanted)
    except AmbiguousNameError as error:
        if wanted is None:
            error.add_note("Or set VMCTL_PROJECT to the project of the one that you mean.")
        raise
    except NotFoundError as error:
        if wanted is not None:
            where = "VMCTL_PROJECT" if project is None else "--project"
            error.add_note(f"It was looked for only in the project that {where} names.")
        raise
