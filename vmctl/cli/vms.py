"""`vmctl vm`: virtual machines."""

import re
from itertools import islice
from typing import Annotated

import typer

from vmctl.cli import names
from vmctl.cli.changes import Timeout, Wait, Yes, each
from vmctl.cli.output import AGE, WIDE_ID, Column, Fields, Format, Output, field, print_list, print_one
from vmctl.cli.session import current
from vmctl.client.models import Status
from vmctl.client.sending import Filter

app = typer.Typer(help="Virtual machines.", no_args_is_help=True)

# Values as the service reads them: without white space of any kind around them, and a backslash takes away the meaning
# of a comma or a parenthesis after it. Quotes are a part of the value, but `""` is meant as an empty one.
_EMPTY = r"\s*(\"\"|'')?\s*"
_NEARLY_ALL = re.compile(rf"!={_EMPTY}(,|$)|\bnotin\s*\(((\\.|[^)\\])*,)?{_EMPTY}[,)]")
Labels = Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE; several times for several.")]


def _addresses(vm: Fields) -> object:
    return [address["ip_address"] for address in vm["addresses"]]


COLUMNS = [
    field("name"),
    field("status"),
    field("task_state", title="TASK"),
    Column("FLAVOR", lambda vm: vm["flavor"]["name"]),
    Column("ADDRESSES", _addresses),
    AGE,
    field("labels", is_wide=True),
    field("availability_zone", title="ZONE", is_wide=True),
    WIDE_ID,
]


@app.command("list")
def list_vms(
    selector: names.Selector = None,
    status: Annotated[list[Status] | None, typer.Option(help="Only with this status.", case_sensitive=False)] = None,
    name: Annotated[str | None, typer.Option(help="Only with this part in the name.")] = None,
    project: names.ProjectOption = None,
    sort: names.Sort = None,
    limit: names.Limit = None,
    output: Output = Format.TABLE,
) -> None:
    """List the VMs of all your projects, or of one."""
    filters: dict[str, Filter] = {"status": status, "name": name, "project_id": names.project_id(project)}
    vms = current().client.vms.list(labels=selector, sort=sort, **filters)
    print_list(islice(vms, limit), COLUMNS, output)


@app.command()
def show(vm: names.VM, output: Output = Format.TABLE) -> None:
    """Show one VM."""
    print_one(current().client.vms.get(names.vm_id(vm)), output)


@app.command()
def delete(
    vms: names.VMs = None,
    selector: names.Selector = None,
    project: names.ProjectOption = None,
    yes: Yes = False,
    wait: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Delete VMs: those that are named, or all that have the labels, in one project if there is one."""
    session = current()
    if bool(vms) == bool(selector):
        raise typer.BadParameter("Name the VMs, or say which with --selector.")
    if project is not None and not selector:
        raise typer.BadParameter("--project chooses among the VMs of --selector.")
    if selector:
        if any(map(_NEARLY_ALL.search, selector)):
            raise typer.BadParameter("An empty value after != or in notin means nearly all VMs.")
        found = session.client.vms.list(labels=selector, project_id=names.project_id(project))
        chosen = {vm.id: vm.name for vm in found}
    else:
        chosen = {names.vm_id(vm): vm for vm in vms or []}
    if not chosen:
        session.say("No VM has these labels.")
        return
    session.confirm(f"Delete {len(chosen)} VM{'s'[: len(chosen) > 1]}: {', '.join(chosen.values())}?", yes=yes)
    each(chosen, session.client.vms.delete, wait, timeout)


@app.command()
def rename(vm: names.VM, name: str, output: Output = Format.TABLE) -> None:
    """Give a VM another name."""
    vms = current().client.vms
    print_one(vms.change(names.vm_id(vm), name=name), output)


@app.command()
def label(
    vm: names.VM,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE | KEY-", help="To set, or with - to remove.")],
    output: Output = Format.TABLE,
) -> None:
    """Set and remove labels."""
    vms = current().client.vms
    removed = [change for change in labels if change.endswith("-") and "=" not in change]
    changes: dict[str, str | None] = dict.fromkeys(change[:-1] for change in removed)
    changes |= labels_of([change for change in labels if change not in removed])
    print_one(vms.change(names.vm_id(vm), labels=changes), output)


def labels_of(pairs: list[str] | None) -> dict[str, str]:
    """The labels of KEY=VALUE pairs."""
    labels = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair}: write a label as KEY=VALUE.")
        labels[key] = value
    return labels
