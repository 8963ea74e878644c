"""What the roles of the API and of the workers may do in the database, and the statements that grant exactly that.

The owner of the tables, who runs the migrations, may do everything. The two other roles change rows where their code
does, and nothing else: they create, alter and truncate no table. They may be one role, which then may do what either
needs. A new table needs a line here; `tests/meta/test_rights.py` fails without one. ADR 057 says why.
"""

import logging
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.settings import Settings

logger = logging.getLogger(__name__)

READ, ADD = frozenset({"SELECT"}), frozenset({"INSERT"})
CHANGE, REMOVE = frozenset({"UPDATE"}), frozenset({"DELETE"})
NOTHING = frozenset[str]()
ROWS = READ | ADD | CHANGE | REMOVE
_OF_SEQUENCES, _OF_FUNCTIONS = frozenset({"USAGE"}), frozenset({"EXECUTE"})


class OwnerError(Exception):
    """A role that should be able to do less than the owner of the tables could do the same; the message says so."""


class Rights(NamedTuple):
    """What each role may do with a table. To lock a row, a role needs the right to update it."""

    api: frozenset[str]
    worker: frozenset[str]


# The workers of a real cloud renew it. The API locks and removes what the cloud has not offered for long.
_CATALOGUE = Rights(READ | CHANGE | REMOVE, READ | ADD | CHANGE)
_ONLY_API, _ONLY_WORKERS = Rights(ROWS, NOTHING), Rights(NOTHING, ROWS)

HOME: Final = "public"
RIGHTS: Final[Mapping[str, Mapping[str, Rights]]] = {
    HOME: {
        "alembic_version": Rights(NOTHING, NOTHING),
        # Accounts, and what proves who somebody is. No worker can read a password's hash.
        "users": Rights(READ | ADD | CHANGE, NOTHING),
        "refresh_tokens": _ONLY_API,
        "program_tokens": _ONLY_API,
        "rate_uses": _ONLY_API,
        "api_processes": _ONLY_API,
        "identities": Rights(READ | ADD, NOTHING),
        "audit_events": Rights(READ | ADD, NOTHING),  # a function of the owner deletes old rows
        "idempotency_keys": _ONLY_API,
        # Projects. A trigger of users makes the personal one, and triggers of resources count for the quotas.
        "projects": Rights(ROWS, READ),
        "project_members": _ONLY_API,
        "default_quotas": Rights(READ, READ),
        "project_quotas": Rights(READ | ADD | CHANGE, READ),
        "project_usage": Rights(ROWS, READ | CHANGE),
        # What can be asked for.
        "flavors": Rights(ROWS, READ | ADD | CHANGE),  # a server that is adopted may have an unknown one
        "images": Rights(ROWS, READ | ADD | CHANGE),
        "networks": _CATALOGUE,
        "security_groups": _CATALOGUE,
        "availability_zones": _CATALOGUE,
        # Resources and their operations. Only the API removes those that are gone, when their time has come. A worker
        # adds an attachment or an interface again if the cloud did not show it for a while.
        "vms": Rights(ROWS, READ | CHANGE),
        "snapshots": Rights(ROWS, READ | CHANGE),
        "volumes": Rights(ROWS, READ | CHANGE),
        "attachments": Rights(ROWS, ROWS),
        "interfaces": Rights(ROWS, ROWS),
        "operations": Rights(ROWS, READ | ADD | CHANGE),
        "search_terms": _ONLY_API,  # triggers write them when it changes names and labels
        # Of guests.
        "ssh_keys": _ONLY_API,
        "user_data": Rights(READ | ADD | REMOVE, READ | REMOVE),
        "console_answers": Rights(READ | CHANGE | REMOVE, READ | ADD | CHANGE),
        # What workers have seen in the cloud.
        "found_servers": Rights(READ | CHANGE | REMOVE, ROWS),
        "bound_cloud": Rights(NOTHING, READ | ADD | CHANGE),
        "findings": Rights(READ | CHANGE | REMOVE, READ | ADD | CHANGE),
    },
    "mock_cloud": dict.fromkeys(
        (
            *("servers", "ports", "images", "volumes", "migrations"),
            *("calls", "hiccups", "revocations", "faults"),
        ),
        _ONLY_WORKERS,
    ),
    "openstack_cloud": dict.fromkeys(("calls", "revocations"), _ONLY_WORKERS),
}
"""By schema and table. The last two schemas are the clouds' own; each exists only with its cloud.

The owner's `search_path` may have put the tables of the first one into another schema, such as one of the owner's name.
"""

FUNCTIONS: Final[Mapping[str, frozenset[str]]] = {
    "delete_old_audit_events": frozenset({"api"}),
    **dict.fromkeys(("refuse_beyond", "search_terms_of", "use_quota"), frozenset({"api", "worker"})),
}
"""Which roles call these functions of the first schema.

Triggers call most of them, with the rights of whoever changes the row. The owner may have taken EXECUTE from PUBLIC.
The functions of the triggers themselves need no right. Those that are not listed belong to others and stay as they are.
"""

_OWNER = text("SELECT current_user")
_MAKE = text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
_QUOTED = text("SELECT quote_ident(:name)")
_EXISTS = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :name)")
_IS_OURS = text("SELECT pg_has_role(:name, current_user, 'MEMBER')")
_OURS = text("""
SELECT tablename AS name, quote_ident(tablename) AS quoted, 'TABLE' AS kind FROM pg_tables
WHERE schemaname = :schema AND pg_has_role(tableowner, 'USAGE')
UNION ALL SELECT sequencename, quote_ident(sequencename), 'SEQUENCE' FROM pg_sequences
WHERE schemaname = :schema AND pg_has_role(sequenceowner, 'USAGE')
UNION ALL SELECT proname, quote_ident(proname) || '(' || pg_get_function_identity_arguments(oid) || ')', 'FUNCTION'
FROM pg_proc WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema)
    AND pg_has_role(proowner, 'USAGE') AND proname = ANY(:functions)
ORDER BY 1""")
_HOME = text("""
SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = to_regclass('alembic_version')""")
_CAN_USE = text("SELECT has_schema_privilege(:role, :schema, 'USAGE')")


async def grant(tx: AsyncConnection, settings: Settings) -> None:
    """Give the roles of the settings their rights on all tables that there are, and take all others.

    Nothing that a role keeps is away for a moment, because it is one transaction. OwnerError if a role can do
    what the owner can.
    """
    wanted: dict[str, list[str]] = {}
    for kind, role in (("api", settings.db_api_role), ("worker", settings.db_worker_role)):
        if role is not None:
            wanted.setdefault(role, []).append(kind)
    home = str(await tx.scalar(_HOME))
    for role, kinds in wanted.items():
        if await _is_there(tx, role):
            if home != HOME:
                logger.info(
                    "the tables are in the schema %s, which the search_path of the role %s must name", home, role
                )
            for statement in await _statements(tx, role, kinds, home):
                await tx.exec_driver_sql(statement)  # `text` would take ` :role` in a name for a parameter


async def _is_there(tx: AsyncConnection, role: str) -> bool:
    """Whether there is such a role beside the owner; it is made if that is possible.

    OwnerError if it is another role that can do what the owner can.
    """
    if role == await tx.scalar(_OWNER):
        logger.warning("%s owns the tables, so with it the API and the workers may do everything", role)
        return False
    if not await tx.scalar(_EXISTS, {"name": role}):
        if not await tx.scalar(_MAKE):
            logger.warning("there is no role %s, so nothing is granted to it; make it, then run this again", role)
            return False
        await tx.exec_driver_sql(f"CREATE ROLE {await _quoted(tx, role)} LOGIN")  # without a password
    if await tx.scalar(_IS_OURS, {"name": role}):
        raise OwnerError(f"DB_API_ROLE and DB_WORKER_ROLE must not name {role}, which may do all that the owner may")
    return True


async def _quoted(tx: AsyncConnection, name: str) -> str:
    return str(await tx.scalar(_QUOTED, {"name": name}))


async def _statements(tx: AsyncConnection, role: str, kinds: list[str], home: str) -> list[str]:
    name = await _quoted(tx, role)
    # An earlier version has granted rights in advance, on tables that were not made yet.
    statements = [f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM {name}" for kind in ("TABLES", "SEQUENCES")]
    for listed, tables in RIGHTS.items():
        name_of_schema = home if listed == HOME else listed
        schema = await _quoted(tx, name_of_schema)
        needed = {table: frozenset[str]().union(*(getattr(r, kind) for kind in kinds)) for table, r in tables.items()}
        ours = (await tx.execute(_OURS, {"schema": name_of_schema, "functions": list(FUNCTIONS)})).all()
        if ours and any(needed.values()) and not await tx.scalar(_CAN_USE, {"role": role, "schema": name_of_schema}):
            statements.append(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        for row in ours:
            # A table that is not listed was made by a later version.
            match row.kind:
                case "SEQUENCE":
                    wanted = _OF_SEQUENCES if any(needed.values()) else NOTHING
                case "FUNCTION":
                    wanted = _OF_FUNCTIONS if FUNCTIONS[row.name] & set(kinds) else NOTHING
                case _:
                    wanted = needed.get(row.name, NOTHING)
            its_name = f"{row.kind} {schema}.{row.quoted}"
            statements.append(f"REVOKE ALL ON {its_name} FROM {name}")
            if wanted:
                statements.append(f"GRANT {', '.join(sorted(wanted))} ON {its_name} TO {name}")
    return statements
