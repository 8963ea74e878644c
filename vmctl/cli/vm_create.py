"""`vmctl vm create`."""

from pathlib import Path
from typing import Annotated

import typer

from vmctl.cli import names, streams
from vmctl.cli.changes import Timeout, Wait, conclude, conclude_all
from vmctl.cli.output import Format, Output
from vmctl.cli.session import current
from vmctl.cli.vms import COLUMNS, Labels, app, labels_of
from vmctl.client.requests import NewVM

UserData = Annotated[
    Path | None, typer.Option(help="File of a script or a cloud-config for the first boot; - is the standard input.")
]
Groups = Annotated[list[str] | None, typer.Option("--security-group", help="Name or id; several times for several.")]


@app.command()
def create(
    name: Annotated[list[str], typer.Argument(metavar="NAME...", help="Several names make several VMs, all or none.")],
    flavor: names.FlavorOption,
    image: names.ImageOption = None,
    snapshot: Annotated[str | None, typer.Option(help="Copy the disk of this snapshot instead of an image.")] = None,
    boot_volume: Annotated[str | None, typer.Option(help="Boot from this volume instead of an image.")] = None,
    network: names.NetworksOption = None,
    no_network: Annotated[bool, typer.Option("--no-network", help="Attach it to no network.")] = False,
    ssh_key: names.KeysOption = None,
    user_data: UserData = None,
    volume: Annotated[list[str] | None, typer.Option(help="Attach this volume; several times for several.")] = None,
    label: Labels = None,
    security_group: Groups = None,
    zone: Annotated[str | None, typer.Option(help="Name of the availability zone.")] = None,
    project: names.ProjectOption = None,
    wait: Wait = False,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
) -> None:
    """Create VMs."""
    if network and no_network:
        raise typer.BadParameter("Name networks, or say --no-network.")
    client = current().client
    new: NewVM = {"name": name[0], "flavor": flavor, "labels": labels_of(label)}
    _choose_disk(new, image, snapshot, boot_volume, project)
    if network or no_network:
        new["networks"] = network or []
    if volume:
        new["volumes"] = [{"volume_id": names.volume_id(one, project)} for one in volume]
    if ssh_key:
        new["ssh_keys"] = [key for key in map(_key_named, ssh_key) if key]
    if user_data:
        new["user_data"] = streams.read(user_data)
    if security_group:
        new["security_groups"] = security_group
    if zone is not None:
        new["availability_zone"] = zone
    if id := names.project_id(project):
        new["project_id"] = id
    if len(name) == 1:
        conclude(client.vms.create(**new), name[0], output, wait=wait, timeout=timeout)
        return
    accepted = client.vms.create_all([{**new, "name": one} for one in name])
    conclude_all(accepted, COLUMNS, output, wait=wait, timeout=timeout)


def _choose_disk(
    new: NewVM, image: str | None, snapshot: str | None, boot_volume: str | None, project: str | None
) -> None:
    if image is not None:
        new["image"] = image
    if snapshot is not None:
        new["snapshot_id"] = names.snapshot_id(snapshot, project)
    if boot_volume is not None:
        new["boot_volume"] = {"volume_id": names.volume_id(boot_volume, project)}


def _key_named(name_or_file: str) -> str | None:
    """The name of a key of the service. The public key of a file is added if the service does not have it yet.

    A trial adds nothing, so it goes without the key.
    """
    if "/" not in name_or_file and not name_or_file.endswith(".pub"):
        return name_or_file
    try:
        file = Path(name_or_file).expanduser()
    except RuntimeError as error:  # ~ and a name that no user has
        raise typer.BadParameter(f"Cannot read {name_or_file}: {error}") from None
    line = read_public_key(file)
    keys = current().client.ssh_keys
    kind_and_key = line.split()[:2]
    for key in keys.list():
        if key.public_key.split()[:2] == kind_and_key:
            return key.name
    if current().is_trial:
        return None
    name = keys.add(name=file.stem, public_key=line).name
    current().say(f"Added the SSH key {name}.")
    return name


def read_public_key(file: Path) -> str:
    """The line of a public key's file."""
    text = streams.read(file).strip()
    if "PRIVATE KEY" in text:
        raise typer.BadParameter(f"{file} is a private key, which must stay with you. Its public key is {file}.pub.")
    return text
