"""`vmctl token`: tokens for programs."""

from typing import Annotated

import typer

from vmctl.cli import names, numbers
from vmctl.cli.changes import Yes
from vmctl.cli.output import AGE, ID, Format, Output, field, print_list, print_one
from vmctl.cli.session import current
from vmctl.client.requests import NewToken

app = typer.Typer(help="Tokens for programs, which set VMCTL_TOKEN.", no_args_is_help=True)
COLUMNS = [field("name"), field("scopes"), field("last_used_at"), field("expires_at"), AGE, ID]


@app.command("list")
def list_tokens(output: Output = Format.TABLE) -> None:
    """List your tokens, and when each was last used."""
    print_list(current().client.tokens.list(), COLUMNS, output)


@app.command()
def create(
    name: str,
    write: Annotated[bool, typer.Option("--write", help="It may change things; otherwise it may only read.")] = False,
    expires_in_days: Annotated[int | None, numbers.whole(help="By default it never expires.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a token. It is shown now and never again."""
    new: NewToken = {"name": name, "scopes": ["write" if write else "read"]}
    if expires_in_days:
        new["expires_in_days"] = expires_in_days
    print_one(current().client.tokens.create(**new), output)


@app.command()
def delete(
    token: Annotated[str, typer.Argument(help="Name or id.", autocompletion=names.completion("token"))],
    yes: Yes = False,
) -> None:
    """Delete a token. It stops at once."""
    session = current()
    session.confirm(f"Delete the token {token}?", yes=yes)
    session.client.tokens.delete(session.client.tokens.find_id(token))
