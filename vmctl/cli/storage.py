"""`vmctl volume` and `vmctl snapshot`."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from vmctl.cli import names, numbers
from vmctl.cli.changes import Timeout, Wait, Yes, conclude, each
from vmctl.cli.output import AGE, WIDE_ID, Format, Output, field, print_list, print_one
from vmctl.cli.session import current
from vmctl.cli.vms import Labels, labels_of
from vmctl.client.models import Snapshot, SnapshotStatus, VolumeStatus
from vmctl.client.requests import NewVolume
from vmctl.client.sending import Filter

volumes = typer.Typer(help="Volumes.", no_args_is_help=True)
snapshots = typer.Typer(help="Snapshots of VMs.", no_args_is_help=True)
Size = Annotated[int, numbers.whole("--size", help="In GiB.")]

VOLUME_COLUMNS = [
    field("name"),
    field("status"),
    field("size_gb", title="GIB"),
    field("vm_id", title="VM"),
    field("device"),
    AGE,
    field("bootable", is_wide=True),
    field("image_id", is_wide=True),
    WIDE_ID,
]
SNAPSHOT_COLUMNS = [
    field("name"),
    field("status"),
    field("size_gb", title="GIB"),
    field("vm_id", title="VM"),
    AGE,
    field("image_id", is_wide=True),
    field("flavor_id", is_wide=True),
    WIDE_ID,
]


@volumes.command("list")
def list_volumes(
    status: Annotated[
        list[VolumeStatus] | None, typer.Option(help="Only with this status.", case_sensitive=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only with this part in the name.")] = None,
    selector: names.Selector = None,
    project: names.ProjectOption = None,
    sort: names.Sort = None,
    limit: names.Limit = None,
    output: Output = Format.TABLE,
) -> None:
    """List the volumes of all your projects, or of one."""
    filters: dict[str, Filter] = {"status": status, "name": name, "project_id": names.project_id(project)}
    found = current().client.volumes.list(labels=selector, sort=sort, **filters)
    print_list(islice(found, limit), VOLUME_COLUMNS, output)


@volumes.command("show")
def show_volume(volume: names.VolumeName, output: Output = Format.TABLE) -> None:
    """Show one volume."""
    print_one(current().client.volumes.get(names.volume_id(volume)), output)


@volumes.command("create")
def create_volume(
    name: str,
    size: Size,
    image: names.ImageOption = None,
    label: Labels = None,
    project: names.ProjectOption = None,
    wait: Wait = False,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a volume; with --image VMs can boot from it."""
    client = current().client
    new: NewVolume = {"name": name, "size_gb": size, "labels": labels_of(label)}
    if image is not None:
        new["image_id"] = client.images.find_id(image)
    if id := names.project_id(project):
        new["project_id"] = id
    conclude(client.volumes.create(**new), name, output, wait=wait, timeout=timeout)


@volumes.command()
def extend(
    volume: names.VolumeName, size: Size, wait: Wait = False, timeout: Timeout = None, output: Output = Format.TABLE
) -> None:
    """Make a volume larger."""
    accepted = current().client.volumes.extend(names.volume_id(volume), size_gb=size)
    conclude(accepted, volume, output, wait=wait, timeout=timeout)


@volumes.command()
def attach(
    volume: names.VolumeName,
    vm: names.VM,
    delete_with_vm: Annotated[bool, typer.Option("--delete-with-vm", help="Delete it together with the VM.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
) -> None:
    """Attach a volume to a VM."""
    client = current().client
    accepted = client.vms.attach_volume(
        names.vm_id(vm), volume_id=names.volume_id(volume), delete_on_termination=delete_with_vm
    )
    conclude(accepted, volume, output, wait=wait, timeout=timeout)


@volumes.command()
def detach(volume: names.VolumeName, wait: Wait = False, timeout: Timeout = None) -> None:
    """Detach a volume from its VM."""
    client = current().client
    found = client.volumes.get(names.volume_id(volume))
    if found.vm_id is None:
        raise typer.BadParameter(f"{volume} is attached to no VM.")
    vm_id = found.vm_id
    each({found.id: found.name}, lambda found_id: client.vms.detach_volume(vm_id, found_id), wait, timeout)


@volumes.command("delete")
def delete_volumes(
    volume: Annotated[list[str], typer.Argument(help="Names or ids.")],
    yes: Yes = False,
    wait: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Delete volumes that are attached to no VM."""
    session = current()
    chosen = {names.volume_id(one): one for one in volume}
    session.confirm(f"Delete {', '.join(chosen.values())} with all data?", yes=yes)
    each(chosen, session.client.volumes.delete, wait, timeout)


@snapshots.command("list")
def list_snapshots(
    vm: names.VMOption = None,
    selector: names.Selector = None,
    project: names.ProjectOption = None,
    sort: names.Sort = None,
    status: Annotated[
        list[SnapshotStatus] | None, typer.Option(help="Only with this status.", case_sensitive=False)
    ] = None,
    limit: names.Limit = None,
    output: Output = Format.TABLE,
) -> None:
    """List the snapshots of all your projects or of one, also those whose VM is gone."""
    if vm is not None and project is not None:
        raise typer.BadParameter("Name the VM or the project: a VM has one project.")
    filters: dict[str, Filter] = {"status": status, "labels": selector, "sort": sort}
    print_list(islice(_snapshots(vm, project, filters), limit), SNAPSHOT_COLUMNS, output)


def _snapshots(vm: str | None, project: str | None, filters: dict[str, Filter]) -> Iterator[Snapshot]:
    client = current().client
    if vm is not None:
        return client.vms.snapshots(names.vm_id(vm), **filters)
    return client.snapshots.list(project_id=names.project_id(project), **filters)


@snapshots.command("show")
def show_snapshot(snapshot: names.SnapshotName, output: Output = Format.TABLE) -> None:
    """Show one snapshot."""
    print_one(current().client.snapshots.get(names.snapshot_id(snapshot)), output)


@snapshots.command("create")
def create_snapshot(
    vm: names.VM, name: str, wait: Wait = False, timeout: Timeout = None, output: Output = Format.TABLE
) -> None:
    """Take a snapshot of a VM."""
    vms = current().client.vms
    conclude(vms.create_snapshot(names.vm_id(vm), name=name), name, output, wait=wait, timeout=timeout)


@snapshots.command()
def restore(
    snapshot: names.SnapshotName,
    yes: Yes = False,
    wait: Wait = False,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
) -> None:
    """Put the VM of a snapshot back to it. What its disk has now is lost."""
    session = current()
    found = session.client.snapshots.get(names.snapshot_id(snapshot))
    session.confirm(f"Put VM {found.vm_id} back to {snapshot}, and lose what its disk has now?", yes=yes)
    accepted = session.client.vms.restore(found.vm_id, found.id)
    conclude(accepted, accepted.resource.name, output, wait=wait, timeout=timeout)


@snapshots.command("delete")
def delete_snapshots(
    snapshot: Annotated[list[str], typer.Argument(help="Names or ids.")],
    yes: Yes = False,
    wait: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Delete snapshots."""
    session = current()
    chosen = {names.snapshot_id(one): one for one in snapshot}
    session.confirm(f"Delete {', '.join(chosen.values())}?", yes=yes)
    each(chosen, session.client.snapshots.delete, wait, timeout)
