"""`vmctl vm watch`: what happens, as it happens."""

import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from vmctl.cli import names
from vmctl.cli.output import Fields, Format, Output, as_json, fields_of, print_list, styled
from vmctl.cli.session import current
from vmctl.cli.vms import COLUMNS, app
from vmctl.client.sync.events import Event

OneVM = Annotated[str | None, typer.Argument(metavar="[VM]", help="Only this VM.")]


@app.command()
def watch(vm: OneVM = None, output: Output = Format.TABLE) -> None:
    """Print every change of your VMs, and of what belongs to them, until Ctrl-C. With -o json, one line each.

    With VMCTL_PROJECT only those of that project.
    """
    client = current().client
    vm_id = names.vm_id(vm) if vm is not None else None
    project_id = names.project_id() if vm is None else None
    for event in client.events(vm_id=vm_id):
        if event.resource is not None and project_id not in {None, event.resource.project_id}:
            continue
        if event.resource is None and output is not Format.JSON:
            # Without a look at what is there now, nobody would know what the changes are about.
            vms = [client.vms.get(vm_id)] if vm_id else client.vms.list(project_id=project_id)
            print_list(vms, COLUMNS, output)
        elif output is Format.JSON:
            data = {"event": event.kind, "resource": event.resource and fields_of(event.resource)}
            sys.stdout.write(as_json(data) + "\n")
            sys.stdout.flush()
        else:
            current().out.print(_line(event))


def _line(event: Event) -> Text:
    fields = fields_of(event.resource) if event.resource else {}
    words = [Text(f"{datetime.now().astimezone():%H:%M:%S}"), Text(event.kind.ljust(9))]
    words += [styled(word) for word in _words(event.kind, fields)]
    return Text(" ").join(words)


def _words(kind: str, fields: Fields) -> list[object]:
    """What a line says of a resource."""
    if kind == "operation":
        attempt = f"attempt {fields['attempt']}" if fields["attempt"] > 1 else None
        named = [fields["action"], fields["status"], fields["step"], attempt, fields["last_error"]]
    else:
        named = [fields["name"], fields["status"], fields.get("task_state")]
    return [word for word in named if word is not None]
