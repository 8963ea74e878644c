"""`vmctl op`: operations."""

from itertools import islice
from typing import Annotated
from uuid import UUID

import typer

from vmctl.cli import names
from vmctl.cli.changes import Timeout, report
from vmctl.cli.exits import OPERATION_FAILED, ReportedError
from vmctl.cli.output import AGE, ID, Format, Output, field, print_list, print_one
from vmctl.cli.progress import follow
from vmctl.cli.session import current
from vmctl.client.models import OperationStatus
from vmctl.client.sending import Filter

app = typer.Typer(help="What was asked for, how far it is, and why it failed.", no_args_is_help=True)
COLUMNS = [
    field("action"),
    field("status"),
    field("resource_type", title="KIND", is_wide=True),
    field("step"),
    field("progress", title="%"),
    field("attempt", title="TRY"),
    AGE,
    field("resource_id", title="RESOURCE", is_wide=True),
    field("last_error", is_wide=True),
    field("actor", is_wide=True),
    field("request_id", is_wide=True),
    ID,
]
OperationId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the operation.")]


@app.command("list")
def list_operations(
    vm: names.VMOption = None,
    status: Annotated[
        list[OperationStatus] | None, typer.Option(help="Only with this status.", case_sensitive=False)
    ] = None,
    action: Annotated[list[str] | None, typer.Option(help="Only this action, for example resize.")] = None,
    project: names.ProjectOption = None,
    limit: names.Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """List what was asked for, newest first."""
    vm_id = names.vm_id(vm, project) if vm is not None else None
    filters: dict[str, Filter] = {"vm_id": vm_id, "status": status}
    if vm is None or project is not None:  # a VM that is named by its id may be in another project than the usual one
        filters["project_id"] = names.project_id(project)
    print_list(islice(current().client.operations.list(action=action, **filters), limit), COLUMNS, output)


@app.command()
def show(operation: OperationId, output: Output = Format.TABLE) -> None:
    """Show one operation."""
    print_one(current().client.operations.get(operation), output)


@app.command()
def wait(operation: Annotated[list[UUID], typer.Argument(metavar="ID...")], timeout: Timeout = None) -> None:
    """Wait until operations have ended, and show how far they are. Exits with 2 if one has not succeeded."""
    session = current()
    names_ = {id: str(id) for id in operation}
    if report(follow(session, names_, timeout)):
        raise ReportedError(OPERATION_FAILED)


@app.command()
def cancel(operation: OperationId, output: Output = Format.TABLE) -> None:
    """End an operation before its point of no return, and undo what it has done."""
    print_one(current().client.operations.cancel(operation), output)
