"""`vmctl interface`: the connections of VMs to networks."""

from typing import Annotated

import typer

from vmctl.cli import names
from vmctl.cli.changes import Timeout, Wait, conclude, each
from vmctl.cli.output import ID, Format, Output, field, print_list
from vmctl.cli.session import current
from vmctl.client.requests import NewInterface

app = typer.Typer(help="Connections of VMs to networks.", no_args_is_help=True)
COLUMNS = [field("ip_address", title="IP"), field("mac_address", title="MAC"), field("status"), field("network_id"), ID]


@app.command("list")
def list_interfaces(vm: names.VM, output: Output = Format.TABLE) -> None:
    """List the interfaces of a VM."""
    vms = current().client.vms
    print_list(vms.interfaces(names.vm_id(vm)), COLUMNS, output)


@app.command()
def attach(
    vm: names.VM,
    network: names.NetworkName,
    ip: Annotated[str | None, typer.Option(help="The address it gets; by default any.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
) -> None:
    """Attach a VM to a network."""
    client = current().client
    new: NewInterface = {"network": network}
    if ip is not None:
        new["ip_address"] = ip
    accepted = client.vms.attach_interface(names.vm_id(vm), **new)
    conclude(accepted, f"{vm} to {network}", output, wait=wait, timeout=timeout)


@app.command()
def detach(
    vm: names.VM,
    interface: Annotated[str, typer.Argument(help="Its id, or its IP address.")],
    wait: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Take an interface away."""
    client = current().client
    vm_id = names.vm_id(vm)
    found = {one.id: interface for one in client.vms.interfaces(vm_id) if interface in {one.ip_address, str(one.id)}}
    if not found:
        raise typer.BadParameter(f"{vm} has no interface {interface}.")
    if len(found) > 1:
        ids = ", ".join(map(str, found))
        raise typer.BadParameter(
            f"{vm} has several interfaces {interface}. Give the id of the one that you mean: {ids}"
        )
    each(found, lambda found_id: client.vms.detach_interface(vm_id, found_id), wait, timeout)
