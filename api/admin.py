"""`python -m api.admin`: what only somebody on the server may do with accounts.

It speaks to the database that the service uses: the one of DATABASE_URL or, without it, that of `make up`.
"""

import argparse
import asyncio
import getpass
import io
import sys

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from api.routes import requests
from api.web import security
from domain.commands import accounts, audit
from domain.commands.accounts import NewUser
from domain.commands.audit import Stranger
from domain.data import database, outages
from domain.data.outages import UnusableDatabaseError
from domain.rules.accounts import Event, Role
from domain.rules.errors import ServiceError
from domain.settings import Settings, load_settings
from migrations import embedded_postgres
from migrations.embedded_postgres import PostgresError

ROLES = {"grant": Role.ADMIN, "revoke": Role.USER}


def _text(argument: str) -> str:
    """An argument of the command; ArgumentTypeError if it has control characters or is not UTF-8."""
    if not argument.isprintable():
        raise argparse.ArgumentTypeError(f"{argument!a} has characters that cannot be printed")
    return argument


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command and its arguments."""
    parser = argparse.ArgumentParser(prog="python -m api.admin", description="Manage accounts on the server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in (("grant", "make a user an admin"), ("revoke", "make an admin a user")):
        commands.add_parser(name, help=what).add_argument("username", type=_text)
    create = commands.add_parser("create-user", help="make a user; the password is asked for")
    create.add_argument("username", type=_text)
    create.add_argument("email", type=_text)
    create.add_argument("--admin", action="store_true", help="make the user an admin, too")
    return parser.parse_args(arguments)


def with_database(settings: Settings) -> Settings:
    """The settings with the database of `make up`, if they name none and it has one."""
    cluster = settings.data_dir.resolve() / "postgres"
    if "database_url" in settings.model_fields_set or not cluster.is_dir():
        return settings
    try:
        url = embedded_postgres.database_url(embedded_postgres.socket_dir_of(cluster))
    except PostgresError as error:
        raise SystemExit(str(error)) from None
    return settings.model_copy(update={"database_url": url})


def ask_password() -> str:
    """The new password, from the terminal or, in a script, from the first line of the input."""
    typed = sys.stdin or io.StringIO()  # there is none if the command was started with a closed input
    try:
        if not typed.isatty():
            return typed.readline().rstrip("\n")
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") == password:
            return password
    except (EOFError, KeyboardInterrupt):
        raise SystemExit("\nNo password was given; nothing was changed.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"The password cannot be read: {error}.") from None
    raise SystemExit("The two passwords differ; nothing was changed.")


async def carry_out(settings: Settings, wanted: argparse.Namespace) -> str:
    """Run the command; returns a line that says what it has done."""
    registration = None if wanted.command in ROLES else _registration(wanted)
    engine = database.create_engine(settings)
    try:
        async with engine.begin() as tx:
            if registration is None:
                decides = settings.oidc_role_claim is not None
                role = ROLES[wanted.command]
                user = await accounts.set_role_on_server(tx, wanted.username, role, provider_decides=decides)
            else:
                hashed = await security.hash_password(registration.password.get_secret_value())
                role = Role.ADMIN if wanted.admin else Role.USER
                new = NewUser(registration.username, registration.email, hashed, role)
                user = await accounts.create_user(tx, Stranger(username=audit.SERVER), Event.CREATE_USER, new)
    finally:
        await database.close(engine)
    return f"{user.username} is {'an admin' if user.role == Role.ADMIN else 'a user'} now."


def _registration(wanted: argparse.Namespace) -> requests.Registration:
    try:
        return requests.Registration.model_validate(
            {"username": wanted.username, "email": wanted.email, "password": ask_password()}
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SystemExit(f"Wrong {first['loc'][0]}: {first['msg']}.") from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command; it ends with one clear line."""
    wanted = parse(arguments)
    settings = with_database(load_settings())
    try:
        sys.stdout.write(f"{asyncio.run(carry_out(settings, wanted))}\n")
    except ServiceError as error:
        raise SystemExit(str(error)) from None
    except (*outages.UNREACHABLE, DBAPIError, UnusableDatabaseError) as error:
        hint = "Start the service first: the database does not answer, or was not prepared by this version"
        raise SystemExit(f"{hint} ({outages.describe(error)}).") from None


if __name__ == "__main__":
    main()
