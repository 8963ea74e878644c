"""The command `vmctl`: its groups, and how it ends."""

import sys
from contextlib import suppress
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated

import typer
from typer._completion_shared import get_completion_script

from vmctl.cli import (
    accounts,
    admin,
    catalogue,
    exits,
    interfaces,
    names,
    operations,
    projects,
    session,
    stops,
    storage,
    streams,
    tokens,
    vm_actions,
    vm_create,
    vms,
)
from vmctl.cli import watch as vm_watch
from vmctl.client import ClientError
from vmctl.client.sync.transport import AcceptableError

app = typer.Typer(
    help="Virtual machines from the command line.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_USAGE_BY_TYPER = 2


class Shell(StrEnum):
    """A shell with completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.callback()
def main(
    url: Annotated[
        str | None, typer.Option(envvar="VMCTL_URL", help="The service, for example https://vm.example.")
    ] = None,
    validate_only: Annotated[
        bool,
        typer.Option("--validate-only", help="Only ask whether the change would be accepted."),
    ] = False,
) -> None:
    """Virtual machines from the command line."""
    session.begin(url, is_trial=validate_only)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("openstack-vm-api"))


@app.command()
def completion(shell: Shell) -> None:
    """Print the completion for a shell, for example for `source <(vmctl completion bash)` in ~/.bashrc."""
    typer.echo(get_completion_script(prog_name="vmctl", complete_var="_VMCTL_COMPLETE", shell=shell.value))


for command in (accounts.login, accounts.logout, accounts.register, accounts.whoami, accounts.password):
    app.command()(command)
for name, group in {
    "vm": vms.app,
    "volume": storage.volumes,
    "snapshot": storage.snapshots,
    "interface": interfaces.app,
    "op": operations.app,
    "network": catalogue.networks,
    "flavor": catalogue.flavors,
    "image": catalogue.images,
    "zone": catalogue.zones,
    "security-group": catalogue.groups,
    "project": projects.app,
    "quota": projects.quotas,
    "token": tokens.app,
    "ssh-key": accounts.keys,
    "user": admin.users,
    "audit": admin.audit,
}.items():
    app.add_typer(group, name=name)
_COMMANDS_OF_VMS = (vm_actions, vm_create, vm_watch)  # they have added themselves to `vm`


def run() -> None:
    """Run the command, and end with its exit code."""
    streams.prepare()
    try:
        with stops.raised():
            code = _run()
            sys.stdout.flush()  # if the disk is full, it may show only now
    except stops.StoppedError as stop:
        code = stop.code
    except KeyboardInterrupt:
        code = exits.INTERRUPTED
    except BrokenPipeError:  # whoever read the output has ended
        streams.discard_output()
        code = exits.REFUSED
    except OSError as error:
        streams.discard_output()
        code = _fail(f"Input or output has failed: {error.strerror or error}", exits.REFUSED)
    sys.exit(code)


def _run() -> int:
    """Run the command, and return its exit code."""
    try:
        names.refuse_empty(sys.argv[1:])
        app(prog_name="vmctl")
    except AcceptableError:
        session.current().say("The service would accept this. Nothing was changed.")
    except exits.ReportedError as error:
        return error.code
    except ClientError as error:
        return _fail(exits.text_of(error), exits.code_of(error))
    except UnicodeError as error:
        return _fail(f"An argument or the input is no text in UTF-8: {error}", exits.USAGE)
    except SystemExit as end:
        # Scripts must be able to tell a mistyped command from an operation that has failed.
        return exits.USAGE if end.code == _USAGE_BY_TYPER else int(end.code or 0)
    finally:
        session.end()
    return 0


def _fail(text: str, code: int) -> int:
    with suppress(OSError):  # nobody can be told
        sys.stderr.write(session.printable(f"vmctl: {text}\n"))
    return code
