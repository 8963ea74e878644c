"""The command `vmctl`: its groups, and how it ends."""

import os
import sys
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
    operations,
    projects,
    session,
    storage,
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
    try:
        app(prog_name="vmctl")
    except AcceptableError:
        session.current().say("The service would accept this. Nothing was changed.")
    except exits.ReportedError as error:
        sys.exit(error.code)
    except ClientError as error:
        sys.stderr.write(session.printable(f"vmctl: {exits.text_of(error)}\n"))
        sys.exit(exits.code_of(error))
    except BrokenPipeError:
        # Whoever read the output has ended. Python must not complain of it when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(exits.REFUSED)
    except SystemExit as end:
        # Scripts must be able to tell a mistyped command from an operation that has failed.
        raise SystemExit(exits.USAGE if end.code == _USAGE_BY_TYPER else end.code) from None
    finally:
        session.end()
