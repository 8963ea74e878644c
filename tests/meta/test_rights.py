"""What the roles of the API and of the workers may do with every table of the real schema."""

import itertools
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from activities.backends.openstack.schema import create_schema
from domain.data import database
from domain.settings import Settings
from migrations.__main__ import migrate, prepare_backend
from migrations.rights import FUNCTIONS, RIGHTS, OwnerError, Rights, grant

KINDS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
ALL_ROWS = {"SELECT", "INSERT", "UPDATE", "DELETE"}
SCHEMAS = "schemaname NOT IN ('pg_catalog', 'information_schema')"
TABLES = f"SELECT schemaname, tablename FROM pg_tables WHERE {SCHEMAS}"  # noqa: S608


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with two roles of their own, as roles belong to the whole server."""
    suffix = uuid4().hex[:12]
    return settings.model_copy(update={"db_api_role": f"api {suffix}", "db_worker_role": f"worker_{suffix}"})


@pytest.fixture
async def owner(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """The owner's connection to a database that is migrated, with the schemas of both clouds."""
    engine = database.create_engine(settings)
    async with engine.begin() as tx:
        await create_schema(tx)
    await engine.dispose()
    await migrate(settings)
    await prepare_backend(settings)
    owner = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
    yield owner
    for role in {settings.db_api_role, settings.db_worker_role} - {None}:
        await owner.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
    await owner.close()


async def rights_of(owner: asyncpg.Connection, role: str | None) -> dict[tuple[str, str], set[str]]:
    """What the role may do with each table."""
    granted = {}
    for schema, table in await owner.fetch(TABLES):
        rows = await owner.fetch(
            "SELECT kind FROM unnest($1::text[]) AS kind WHERE has_table_privilege($2, $3, kind)",
            *(list(KINDS), role, f'{schema}."{table}"'),
        )
        granted[schema, table] = {row["kind"] for row in rows}
    return granted


async def test_each_table_of_the_schema_has_a_line_that_says_who_may_do_what(owner: asyncpg.Connection) -> None:
    """A new table needs one in migrations/rights.py."""
    listed = {(schema, table) for schema, tables in RIGHTS.items() for table in tables}
    assert {tuple(row) for row in await owner.fetch(TABLES)} == listed


async def test_each_role_may_do_what_its_lines_say_and_nothing_else(
    owner: asyncpg.Connection, settings: Settings
) -> None:
    api, worker = await rights_of(owner, settings.db_api_role), await rights_of(owner, settings.db_worker_role)
    for schema, tables in RIGHTS.items():
        for table, rights in tables.items():
            assert Rights(*map(frozenset, (api[schema, table], worker[schema, table]))) == rights, table
            assert rights.api | rights.worker <= ALL_ROWS


async def test_what_must_never_be_granted(owner: asyncpg.Connection, settings: Settings) -> None:
    """The rules of docs/security.md, whatever the lines say."""
    api, worker = await rights_of(owner, settings.db_api_role), await rights_of(owner, settings.db_worker_role)
    assert api["public", "alembic_version"] == worker["public", "alembic_version"] == set()
    for table in ("users", "refresh_tokens", "program_tokens", "idempotency_keys"):
        assert worker["public", table] == set()
    for schema, table in api:
        assert schema == "public" or api[schema, table] == set()
        assert not (api[schema, table] | worker[schema, table]) & {"TRUNCATE", "REFERENCES", "TRIGGER"}
    assert "DELETE" not in api["public", "users"]
    uses = "SELECT has_schema_privilege($1, 'mock_cloud', 'USAGE')"
    assert not await owner.fetchval(uses, settings.db_api_role)
    assert await owner.fetchval(uses, settings.db_worker_role)


async def test_no_role_changes_the_schema(owner: asyncpg.Connection, settings: Settings) -> None:
    statements = [
        *("DROP TABLE vms", "CREATE TABLE mine ()", "CREATE SCHEMA mine", "ALTER TABLE vms ADD mine int"),
        *("TRUNCATE vms", "UPDATE alembic_version SET version_num = '0001'", "CREATE INDEX ON vms (name)"),
        *("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "ALTER TABLE vms DISABLE TRIGGER ALL"),
    ]
    for role, statement in itertools.product((settings.db_api_role, settings.db_worker_role), statements):
        outcome = "allowed"
        transaction = owner.transaction()
        await transaction.start()
        try:
            await owner.execute(f'SET LOCAL ROLE "{role}"')
            await owner.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            outcome = "refused"
        await transaction.rollback()
        assert (role, statement, outcome) == (role, statement, "refused")


async def test_one_role_for_both_may_do_what_either_needs(owner: asyncpg.Connection, settings: Settings) -> None:
    both = settings.model_copy(update={"db_worker_role": settings.db_api_role})
    await migrate(both)
    granted = await rights_of(owner, both.db_api_role)
    for schema, tables in RIGHTS.items():
        for table, rights in tables.items():
            assert granted[schema, table] == rights.api | rights.worker


async def test_what_an_earlier_version_has_granted_is_taken_back(owner: asyncpg.Connection, settings: Settings) -> None:
    role = f'"{settings.db_api_role}"'
    await owner.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public, mock_cloud TO {role}")
    await owner.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}")
    await migrate(settings)
    await owner.execute("CREATE TABLE of_a_later_version ()")
    granted = await rights_of(owner, settings.db_api_role)
    assert granted.pop(("public", "of_a_later_version")) == set()
    expected = {(schema, table): rights.api for schema, tables in RIGHTS.items() for table, rights in tables.items()}
    assert granted == expected


async def test_functions_can_be_called_even_if_the_owner_has_taken_them_from_public(
    owner: asyncpg.Connection, settings: Settings
) -> None:
    """Triggers call them with the rights of whoever changes a row. What others have made stays as it is."""
    await owner.execute("CREATE FUNCTION secret() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
    await owner.execute("CREATE PROCEDURE nightly() LANGUAGE sql AS 'SELECT 1'")
    roles = (settings.db_api_role, settings.db_worker_role)
    await owner.execute("REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA public FROM PUBLIC")
    for role in roles:
        await owner.execute(f'REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA public FROM "{role}"')
    await migrate(settings)
    allowed = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND"
    for role, kind in zip(roles, ("api", "worker"), strict=True):
        found = await owner.fetch(f"{allowed} has_function_privilege($1, oid, 'EXECUTE')", role)
        assert {row["proname"] for row in found} == {name for name, kinds in FUNCTIONS.items() if kind in kinds}
    body = "SELECT prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname <> 'secret'"
    sources = " ".join(row["prosrc"] for row in await owner.fetch(body))
    names = {row["proname"] for row in await owner.fetch(allowed.removesuffix("AND"))}
    called = {name for name in names if f"{name}(" in sources}
    assert called <= FUNCTIONS.keys(), "what our functions call needs a line in migrations/rights.py"


async def test_names_may_have_any_characters(settings: Settings) -> None:
    """Those of the roles, and those of other tables and sequences in our schema."""
    engine, odd = database.create_engine(settings), settings.model_copy(update={"db_api_role": 'odd :role "%s"'})
    await migrate(settings.model_copy(update={"db_api_role": None, "db_worker_role": None}))
    async with engine.connect() as tx:  # rolled back
        for name in ("foo :bar", 'we""ird', "%(x)s", "Größe"):
            await tx.exec_driver_sql(f'CREATE TABLE "{name}" (id serial)')
        await grant(tx, odd.model_copy(update={"db_worker_role": None}))
        allowed = text("SELECT has_table_privilege(:role, 'vms', 'INSERT')")
        assert await tx.scalar(allowed, {"role": odd.db_api_role})
    await engine.dispose()


async def test_a_second_run_changes_nothing(owner: asyncpg.Connection, settings: Settings) -> None:
    before = await rights_of(owner, settings.db_worker_role)
    await migrate(settings)
    assert await rights_of(owner, settings.db_worker_role) == before


async def test_a_role_that_may_do_what_the_owner_may_is_refused(settings: Settings) -> None:
    engine, another = database.create_engine(settings), settings.model_copy(update={"db_api_role": "another"})
    async with engine.connect() as tx:
        await tx.exec_driver_sql("CREATE ROLE another SUPERUSER")  # rolled back
        with pytest.raises(OwnerError, match="must not name another, which may do all that the owner may"):
            await grant(tx, another)
    await engine.dispose()


async def test_an_account_that_is_owner_and_service_at_once_keeps_its_rights(
    owner: asyncpg.Connection, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate(settings.model_copy(update={"db_api_role": "postgres", "db_worker_role": None}))
    assert "postgres owns the tables" in caplog.text
    assert await owner.fetchval("SELECT has_table_privilege('vms', 'TRUNCATE')")


async def test_an_owner_who_may_make_no_roles_is_told_of_a_missing_one(
    owner: asyncpg.Connection, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    plain = f"owner_{uuid4().hex[:12]}"
    name = settings.database_url.partition("@/")[2].partition("?")[0]
    await owner.execute(f"CREATE ROLE {plain} LOGIN; GRANT ALL ON DATABASE {name} TO {plain}")
    url = settings.database_url.replace("//postgres@", f"//{plain}@")
    engine = database.create_engine(settings.model_copy(update={"database_url": url}))
    async with engine.begin() as tx:
        await grant(tx, settings.model_copy(update={"db_api_role": "nobody_yet", "db_worker_role": None}))
    await engine.dispose()
    assert "there is no role nobody_yet" in caplog.text
    await owner.execute(f"DROP OWNED BY {plain}; DROP ROLE {plain}")


async def test_without_the_settings_nothing_is_granted(owner: asyncpg.Connection, settings: Settings) -> None:
    await owner.execute(f'REVOKE ALL ON vms FROM "{settings.db_api_role}"')
    await migrate(settings.model_copy(update={"db_api_role": None, "db_worker_role": None}))
    assert (await rights_of(owner, settings.db_api_role))["public", "vms"] == set()


async def test_rights_are_granted_on_the_tables_wherever_the_search_path_has_put_them(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """For example into a schema of the owner's name, which PostgreSQL prefers to `public`."""
    caplog.set_level("INFO", "migrations.rights")
    engine = database.create_engine(settings)
    async with engine.connect() as tx:
        await tx.exec_driver_sql('ALTER SCHEMA public RENAME TO "the owner"')  # rolled back
        await tx.exec_driver_sql('SET LOCAL search_path = "the owner"')
        await grant(tx, settings)
        for role, right, expected in (
            (settings.db_api_role, "INSERT", True),
            (settings.db_worker_role, "SELECT", True),
            (settings.db_worker_role, "INSERT", False),
        ):
            allowed = await tx.exec_driver_sql("SELECT has_table_privilege($1, 'vms', $2)", (role, right))
            assert allowed.scalar() is expected
    await engine.dispose()
    assert f"in the schema the owner, which the search_path of the role {settings.db_api_role} must" in caplog.text
