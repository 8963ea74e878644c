"""`vmctl vm start` and the other actions of VMs."""

from time import monotonic
from typing import Annotated

import typer

from vmctl.cli import names, numbers
from vmctl.cli.changes import Timeout, Wait, conclude, wait_for
from vmctl.cli.output import Format, Output, print_one
from vmctl.cli.session import current
from vmctl.cli.vms import app


@app.command()
def start(vm: names.VM, wait: Wait = False, timeout: Timeout = None, output: Output = Format.TABLE) -> None:
    """Switch a VM on."""
    vms = current().client.vms
    conclude(vms.start(names.vm_id(vm)), vm, output, wait=wait, timeout=timeout)


@app.command()
def stop(vm: names.VM, wait: Wait = False, timeout: Timeout = None, output: Output = Format.TABLE) -> None:
    """Switch a VM off."""
    vms = current().client.vms
    conclude(vms.stop(names.vm_id(vm)), vm, output, wait=wait, timeout=timeout)


@app.command()
def reboot(
    vm: names.VM,
    hard: Annotated[bool, typer.Option("--hard", help="Cycle its power instead of asking the guest.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
) -> None:
    """Restart a VM."""
    vms = current().client.vms
    conclude(vms.reboot(names.vm_id(vm), type="HARD" if hard else "SOFT"), vm, output, wait=wait, timeout=timeout)


@app.command()
def resize(
    vm: names.VM,
    flavor: names.FlavorOption,
    confirm: Annotated[bool, typer.Option("--confirm", help="Wait, and keep the new flavor at once.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a VM another flavor. Then confirm or revert that."""
    client = current().client
    id = names.vm_id(vm)
    accepted = client.vms.resize(id, flavor=flavor)
    if confirm:
        begun_at = monotonic()
        wait_for(accepted, vm, timeout)
        timeout = None if timeout is None else max(0.0, timeout - (monotonic() - begun_at))
        accepted = client.vms.confirm_resize(id)
    conclude(accepted, vm, output, wait=wait or confirm, timeout=timeout)
    if not confirm:
        current().say(f"Then keep the new flavor with `vmctl vm confirm-resize {id}`, or go back with revert-resize.")


@app.command()
def confirm_resize(vm: names.VM, wait: Wait = False, timeout: Timeout = None, output: Output = Format.TABLE) -> None:
    """Keep the new flavor."""
    vms = current().client.vms
    conclude(vms.confirm_resize(names.vm_id(vm)), vm, output, wait=wait, timeout=timeout)


@app.command()
def revert_resize(vm: names.VM, wait: Wait = False, timeout: Timeout = None, output: Output = Format.TABLE) -> None:
    """Go back to the old flavor."""
    vms = current().client.vms
    conclude(vms.revert_resize(names.vm_id(vm)), vm, output, wait=wait, timeout=timeout)


@app.command()
def log(vm: names.VM, lines: Annotated[int | None, numbers.whole(help="The last so many lines.")] = None) -> None:
    """Print what the console of a VM has shown."""
    session = current()
    shown = session.client.vms.console_log(names.vm_id(vm), lines=lines).output
    # Into a pipe, too: it often ends at a terminal, which the guest must not steer.
    typer.echo("".join(sign for sign in shown if sign.isprintable() or sign in "\n\t"))


@app.command()
def console(vm: names.VM, output: Output = Format.TABLE) -> None:
    """Get an address to use the console of a VM. It is secret."""
    vms = current().client.vms
    print_one(vms.open_console(names.vm_id(vm)), output)
