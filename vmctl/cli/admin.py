"""`vmctl user` and `vmctl audit`, for admins."""

from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from vmctl.cli import names
from vmctl.cli.changes import Yes
from vmctl.cli.output import AGE, WIDE_ID, Format, Output, field, print_list, print_one
from vmctl.cli.session import current
from vmctl.client.models import Outcome

users = typer.Typer(help="Users, for admins.", no_args_is_help=True)
audit = typer.Typer(help="Security events, for admins.", no_args_is_help=True)

USER_COLUMNS = [field("username"), field("role"), field("email"), field("disabled_at", title="DISABLED"), AGE, WIDE_ID]
EVENT_COLUMNS = [
    field("at"),
    field("event"),
    field("outcome"),
    field("actor"),
    field("target"),
    field("address"),
    field("count"),
    field("details", is_wide=True),
    field("user_agent", is_wide=True),
    field("request_id", is_wide=True),
]
Name = Annotated[str, typer.Argument(metavar="USERNAME", help="Name of the user.")]


class Role(StrEnum):
    """What a user may do."""

    USER = "user"
    ADMIN = "admin"


@users.command("list")
def list_users(
    name: Annotated[str | None, typer.Option(help="Only with this part in the name.")] = None,
    role: Annotated[Role | None, typer.Option(help="Only with this role.")] = None,
    disabled: Annotated[bool | None, typer.Option("--disabled/--enabled", help="Only these.")] = None,
    limit: names.Limit = None,
    output: Output = Format.TABLE,
) -> None:
    """List all users, oldest first."""
    found = current().client.admin.users(username=name, role=role, disabled=disabled)
    print_list(islice(found, limit), USER_COLUMNS, output)


@users.command()
def disable(username: Name, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Keep a user out, with all logins and tokens. What the user has stays."""
    current().confirm(f"Disable {username}, and end all logins and tokens?", yes=yes)
    print_one(current().client.admin.disable(username), output)


@users.command()
def enable(username: Name, output: Output = Format.TABLE) -> None:
    """Let a disabled user in again."""
    print_one(current().client.admin.enable(username), output)


@users.command()
def role(
    username: Name, role: Annotated[Role, typer.Argument(help="The new role.")], output: Output = Format.TABLE
) -> None:
    """Make a user an admin, or an admin a user."""
    print_one(current().client.admin.change_role(username, role=role.value), output)


@audit.callback()
def group() -> None:
    """Security events, for admins."""  # makes `list` a command of its own, although it is the only one


@audit.command("list")
def list_events(
    actor: Annotated[str | None, typer.Option(help="Only what this user did.")] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to this user or thing.")] = None,
    event: Annotated[str | None, typer.Option(help="Only events of this kind, for example login.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only what was done, or refused.")] = None,
    address: Annotated[str | None, typer.Option(help="Only what came from this address.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this local time on.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only before this local time.")] = None,
    limit: names.Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """List security events, newest first: logins, tokens, roles, and what admins did."""
    found = current().client.admin.audit(
        actor=actor,
        target=target,
        event=event,
        outcome=outcome,
        address=address,
        since=since and _here(since),
        until=until and _here(until),
    )
    print_list(islice(found, limit), EVENT_COLUMNS, output)


def _here(time: datetime) -> datetime:
    """A local time with its offset."""
    try:
        return time.astimezone()
    except (OverflowError, ValueError, OSError):  # a time zone away from the first or the last day there is
        raise typer.BadParameter(f"{time} is out of range.") from None
