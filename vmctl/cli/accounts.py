"""`vmctl login`, `logout`, `register`, `whoami`, `password` and `ssh-key`."""

import os
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import httpx
import typer

from vmctl.cli import config, exits, names, streams
from vmctl.cli.changes import Yes
from vmctl.cli.output import AGE, Format, Output, field, print_list, print_one
from vmctl.cli.session import Session, current
from vmctl.cli.vm_create import read_public_key
from vmctl.client import ClientError, ProblemError
from vmctl.client.service import base_url, is_local

keys = typer.Typer(help="Public SSH keys, for logins in new VMs.", no_args_is_help=True)
Username = Annotated[str, typer.Option("--username", "-u", prompt=True, help="Your username.")]
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from the standard input.")]


def login(username: Username, password_stdin: FromStdin = False) -> None:
    """Log in. Later commands use this login, and this service."""
    session = current()
    _warn_of_plain_http(session)
    session.client.account.log_in(username, _password(password_stdin))
    _keep(session, username)
    session.say(f"Logged in to {session.url} as {username}.")


def register(
    username: Username,
    email: Annotated[str, typer.Option(prompt=True, help="Your e-mail address.")],
    password_stdin: FromStdin = False,
) -> None:
    """Make an account, and log in."""
    session = current()
    _warn_of_plain_http(session)
    password = _password(password_stdin, confirm=True)
    session.client.account.register(username=username, email=email, password=password)
    if _log_in_after(session, "The account is made", username, password):
        session.say(f"Logged in to {session.url} as {username}.")


def logout(
    everywhere: Annotated[bool, typer.Option("--everywhere", help="All your logins, on other machines too.")] = False,
) -> None:
    """End the login."""
    session = current()
    is_kept_login = not os.environ.get("VMCTL_TOKEN", "").strip()  # else it is another login that ends, if any does
    if everywhere:
        session.client.account.log_out_everywhere()
    else:
        _log_out(session, is_kept_login=is_kept_login)
    if is_kept_login:
        config.change(session.url, None)


def _log_out(session: Session, *, is_kept_login: bool) -> None:
    try:
        session.client.account.log_out()
    except ProblemError as error:
        if error.problem.status != HTTPStatus.UNAUTHORIZED or not is_kept_login:
            raise
        session.say(f"The service knew no such login: {error}")


def whoami(output: Output = Format.TABLE) -> None:
    """Show your account."""
    print_one(current().client.account.me(), output)


def password(
    password_stdin: Annotated[
        bool,
        typer.Option("--password-stdin", help="Read the password and the new one, a line each, from the input."),
    ] = False,
) -> None:
    """Change your password. All your logins end, and you are logged in again here."""
    session = current()
    _warn_of_plain_http(session)
    account = session.client.account
    username = account.me().username
    present = _password(password_stdin)
    new = _password(password_stdin, "New password", confirm=True)
    account.change_password(current_password=present, new_password=new)
    if _log_in_after(session, "The password is changed", username, new):
        session.say(f"The password of {username} is changed, and all other logins have ended.")


def _log_in_after(session: Session, done: str, username: str, password: str) -> bool:
    """Log in after a change that needs it. If that fails, say so and go on: what the command is for is done."""
    try:
        session.client.account.log_in(username, password)
    except ClientError as error:
        session.say(f"{done}, but you are not logged in. Try `vmctl login -u {username}`. {exits.text_of(error)}")
        return False
    _keep(session, username)
    return True


def _keep(session: Session, username: str) -> None:
    tokens = session.client.transport.tokens.read()
    if tokens:
        kept = {"username": username, "tokens": tokens.model_dump(mode="json")}
        config.change(session.url, kept, current=True)


def _password(from_stdin: bool, prompt: str = "Password", *, confirm: bool = False) -> str:  # noqa: FBT001
    if from_stdin:
        return streams.read_line(prompt.lower())
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def _warn_of_plain_http(session: Session) -> None:
    url = httpx.URL(base_url(session.url))
    if url.scheme == "http" and not is_local(url.host):
        session.say(f"Warning: {session.url} is not encrypted. Others on the way can read your password.")


@keys.command("list")
def list_keys(output: Output = Format.TABLE) -> None:
    """List your keys."""
    columns = [field("name"), field("type"), field("fingerprint"), AGE, field("public_key", is_wide=True)]
    print_list(current().client.ssh_keys.list(), columns, output)


@keys.command("add")
def add_key(
    name: str,
    file: Annotated[Path, typer.Argument(help="File of the public key.")],
    output: Output = Format.TABLE,
) -> None:
    """Keep a public key."""
    print_one(current().client.ssh_keys.add(name=name, public_key=read_public_key(file)), output)


@keys.command("delete")
def delete_key(key: names.KeyName, yes: Yes = False) -> None:
    """Forget a key. VMs that were created with it keep it."""
    current().confirm(f"Forget the key {key}?", yes=yes)
    current().client.ssh_keys.delete(key)
