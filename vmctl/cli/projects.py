"""`vmctl project` and `vmctl quota`: what is shared with whom, and how much of it there may be."""

import re
from typing import Annotated, cast
from uuid import UUID

import typer

from vmctl.cli import names
from vmctl.cli.changes import Yes
from vmctl.cli.output import AGE, ID, Column, Fields, Format, Output, field, fields_of, print_list, print_one
from vmctl.cli.session import current
from vmctl.client.base import Answer
from vmctl.client.models import ProjectRole, Quota, Quotas
from vmctl.client.requests import QuotaChanges

app = typer.Typer(help="Projects: groups of resources that several users share.", no_args_is_help=True)
quotas = typer.Typer(help="How much a project may have, and has.", no_args_is_help=True)

COLUMNS = [field("name"), field("role"), field("personal"), AGE, ID]
QUOTA_COLUMNS = [field("quota"), field("used"), Column("LIMIT", lambda row: row["limit"] or "none")]
_LIMIT = re.compile("default|[0-9]{1,18}")
User = Annotated[str, typer.Argument(metavar="USERNAME", help="Name of the user.")]


class _Row(Answer):
    """A quota of a project, as a row of the table."""

    quota: str
    limit: int | None
    used: int


@app.command("list")
def list_projects(output: Output = Format.TABLE) -> None:
    """List the projects of which you are a member, with your role."""
    print_list(current().client.projects.list(), COLUMNS, output)


@app.command()
def create(name: str, output: Output = Format.TABLE) -> None:
    """Make a project. You own it."""
    print_one(current().client.projects.create(name=name), output)


@app.command()
def show(project: names.ProjectName, output: Output = Format.TABLE) -> None:
    """Show one project, and your role in it."""
    print_one(current().client.projects.find(project), output)


@app.command()
def delete(project: names.ProjectName, yes: Yes = False) -> None:
    """Delete a project that has no VMs, volumes and snapshots any more."""
    session = current()
    id = session.client.projects.find_id(project)
    session.confirm(f"Delete the project {project}?", yes=yes)
    session.client.projects.delete(id)


@app.command()
def members(project: names.ProjectName, output: Output = Format.TABLE) -> None:
    """List the members of a project."""
    projects = current().client.projects
    columns = [field("username"), field("role"), field("accepted", is_wide=True), AGE]
    print_list(projects.members(projects.find_id(project)), columns, output)


@app.command()
def add_member(
    project: names.ProjectName,
    username: User,
    role: Annotated[
        ProjectRole,
        typer.Option(help="reader: see everything. operator: change everything but the members. owner: everything."),
    ] = ProjectRole.READER,
    output: Output = Format.TABLE,
) -> None:
    """Add a user to a project, or change the role of a member. Owners accept to be one by adding themselves."""
    projects = current().client.projects
    print_one(projects.set_member(projects.find_id(project), username, role=role.value), output)


@app.command()
def remove_member(project: names.ProjectName, username: User, yes: Yes = False) -> None:
    """Remove a member from a project, who loses access at once."""
    session = current()
    id = session.client.projects.find_id(project)
    session.confirm(f"Remove {username} from the project {project}?", yes=yes)
    session.client.projects.remove_member(id, username)


@app.command()
def leave(project: names.ProjectName, yes: Yes = False) -> None:
    """Leave a project."""
    session = current()
    id = session.client.projects.find_id(project)
    session.confirm(f"Leave the project {project}?", yes=yes)
    session.client.projects.remove_member(id, session.client.account.me().username)


@quotas.command("show")
def show_quotas(
    project: names.ProjectOption = None,
    as_admin: Annotated[
        bool, typer.Option("--as-admin", help="Of a project that is not yours. --project is its id.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show how much a project may have, and has; without a project your personal one."""
    client = current().client
    if as_admin and project is None:
        raise typer.BadParameter("Name the project with --project.")
    id = names.project_id(project)
    _print_quotas(client.admin.quotas(id) if as_admin and id else client.projects.quotas(id), output)


@quotas.command("set")
def set_quotas(
    project: Annotated[UUID, typer.Argument(metavar="PROJECT_ID", help="Id of any project.")],
    limits: Annotated[
        list[str],
        typer.Argument(metavar="QUOTA=LIMIT...", help="For example vms=10; 0 is no limit, `default` the service's."),
    ],
    output: Output = Format.TABLE,
) -> None:
    """Set limits of a project, for admins. Those that are not named stay."""
    _print_quotas(current().client.admin.set_quotas(project, **_changes(limits)), output)


def _changes(limits: list[str]) -> QuotaChanges:
    changes: dict[str, int | None] = {}
    for change in limits:
        quota, equals, limit = change.partition("=")
        if not equals or quota not in set(Quota) or not _LIMIT.fullmatch(limit):
            raise typer.BadParameter(f"{change}: write QUOTA=LIMIT, with one of {', '.join(Quota)}.")
        changes[quota] = None if limit == "default" else int(limit)
    return cast("QuotaChanges", changes)


def _print_quotas(found: Quotas, output: Format) -> None:
    if output in {Format.JSON, Format.YAML}:
        print_one(found, output)
        return
    fields: Fields = fields_of(found)
    print_list([_Row(quota=quota, **fields[quota]) for quota in Quota], QUOTA_COLUMNS, output)
