"""What clients get while PostgreSQL is read-only, full or busy, and how the service finds its way back."""

import logging
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import readiness
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, running
from tests.api.test_problems import check_problem
from tests.conftest import make_settings

FUNCTION = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no room for %', NEW.name USING ERRCODE = '{state}'; END $$"""
OUTAGES = ["25006", "40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P03", "58030", "08006"]


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database that is not the service's."""
    url = make_url(settings.database_url)
    connection = await asyncpg.connect(host=url.query["host"], user="postgres", database=url.database)
    yield connection
    await connection.close()


async def fail_over(admin: asyncpg.Connection, *, read_only: bool) -> None:
    """Make all new sessions read-only, as those to a standby are, or able to write again.

    The sessions that are open keep what they have. So do those to a primary that has become a standby, and back.
    """
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if read_only else 'off'}")


async def cut_sessions(admin: asyncpg.Connection) -> None:
    """End all sessions of the database but this one."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await admin.execute(f"SELECT pg_terminate_backend(pid) {others}")


async def refuse_new_vms(engine: AsyncEngine, state: str) -> None:
    """Have the database refuse every new VM with this SQLSTATE."""
    async with engine.begin() as tx:
        await tx.execute(text(FUNCTION.format(state=state)))
        await tx.execute(text("CREATE TRIGGER refuse BEFORE INSERT ON vms FOR EACH ROW EXECUTE FUNCTION refuse()"))


@pytest.mark.parametrize("state", OUTAGES)
async def test_an_error_that_will_pass_is_503_with_a_time_to_retry(
    ada: Person, engine: AsyncEngine, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    await refuse_new_vms(engine, state)
    refused = await ada.http.post("/vms", json={"name": "web-1", "flavor_id": FLAVOR})
    check_problem(refused, 503, "database_unavailable")
    assert refused.headers["Retry-After"] == "1"
    [line] = [record.getMessage() for record in caplog.records if record.name == "api.background.readiness"]
    assert state in line
    assert "INSERT" not in caplog.text
    async with engine.begin() as tx:
        await tx.execute(text("DROP FUNCTION refuse() CASCADE"))
    await ada.create()


async def test_an_outage_that_fails_many_requests_is_one_line_with_its_reason(
    ada: Person, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await refuse_new_vms(engine, "53100")
    for _ in range(3):
        await ada.http.post("/vms", json={"name": "web-1", "flavor_id": FLAVOR})
    [line] = [record.getMessage() for record in caplog.records if record.name == "api.background.readiness"]
    assert line.startswith("the database is unavailable: DiskFullError 53100")


async def test_a_process_that_was_started_before_the_migrations_is_not_ready_and_answers_503(
    ada: Person, anyone: httpx.AsyncClient, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE operations RENAME TO renamed"))
    check = (await anyone.get("/health/ready")).json()["checks"]["postgres"]
    assert check == {"status": "unavailable", "error": "the database has no tables, run python -m migrations"}
    check_problem(await ada.http.get("/operations"), 503, "database_unavailable")
    assert "run python -m migrations" in caplog.text
    async with engine.begin() as tx:
        await tx.execute(text("ALTER TABLE renamed RENAME TO operations"))
        await tx.execute(text("ALTER TABLE vms RENAME COLUMN cloud_id TO newer"))
    check_problem(await ada.http.get("/vms"), 503, "database_unavailable")
    assert (await anyone.get("/health/ready")).json()["checks"]["postgres"]["status"] == "unavailable"


async def test_a_bug_is_still_500_and_its_statement_is_not_logged(
    ada: Person, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await refuse_new_vms(engine, "22012")
    answer = await ada.http.post("/vms", json={"name": "web-1", "flavor_id": FLAVOR})
    check_problem(answer, 500, "internal_error")
    formatted = "".join(logging.Formatter().format(record) for record in caplog.records)
    assert "no room for web-1" in formatted
    assert "INSERT INTO" not in formatted


async def test_writes_succeed_again_once_the_database_takes_them(
    ada: Person, anyone: httpx.AsyncClient, admin: asyncpg.Connection
) -> None:
    vm = await ada.create()
    await fail_over(admin, read_only=True)
    await cut_sessions(admin)
    for _ in range(3):
        refused = await ada.http.patch(f"/vms/{vm['id']}", json={"name": "new"})
        check_problem(refused, 503, "database_unavailable")
    answer = await anyone.get("/health/ready")
    check_problem(answer, 503, "not_ready")
    assert answer.json()["checks"]["postgres"] == {"status": "unavailable", "error": "the database is read-only"}
    assert (await ada.http.get(f"/vms/{vm['id']}")).status_code == 200

    await fail_over(admin, read_only=False)
    # The read-only sessions are still open. The first refusal drops all of them.
    statuses = [(await ada.http.patch(f"/vms/{vm['id']}", json={"name": "new"})).status_code for _ in range(40)]
    assert statuses.count(503) <= 2
    assert set(statuses[20:]) == {200}
    assert (await anyone.get("/health/ready")).json()["checks"]["postgres"]["status"] == "ok"


@pytest.mark.parametrize("state", ["53100", "53300", "57P03"])
async def test_a_database_that_is_full_or_shuts_down_is_not_ready_until_a_while_after_the_last_refusal(
    ada: Person, anyone: httpx.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    await refuse_new_vms(engine, state)
    await ada.http.post("/vms", json={"name": "web-1", "flavor_id": FLAVOR})
    check = (await anyone.get("/health/ready")).json()["checks"]["postgres"]
    assert check == {"status": "unavailable", "error": f"the database refuses to work, with SQLSTATE {state}"}
    monkeypatch.setattr(readiness, "REMEMBERED", 0.0)
    assert (await anyone.get("/health/ready")).json()["checks"]["postgres"]["status"] == "ok"


async def test_a_role_without_rights_is_not_ready_and_answers_503(settings: Settings, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(text("DROP ROLE IF EXISTS bare"))
        await tx.execute(text("CREATE ROLE bare LOGIN"))
    account = {"username": "berta", "email": "berta@example.com", "password": "Correct-Horse-1"}
    bare = make_settings(settings.database_url.replace("postgres@", "bare@"))
    async with running(bare) as app:
        check = (await client_of(app).get("/health/ready")).json()["checks"]["postgres"]
        answer = await client_of(app).post("/auth/register", json=account)
    async with engine.begin() as tx:
        await tx.execute(text("DROP ROLE bare"))
    assert (check["status"], check["error"].split(",")[0]) == (
        "unavailable",
        "the role of DATABASE_URL has no rights on the tables",
    )
    check_problem(answer, 503, "database_unavailable")
