"""A whole stack behind a real PgBouncer in transaction mode, with fewer connections to PostgreSQL than transactions."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from activities.recovery import reconciler
from domain.data import database
from tests.conftest import make_settings
from tests.support import pgbouncer
from tests.support.stack import QUICK_CLOUD, Stack
from tests.support.users import register

pytestmark = pgbouncer.needs_pgbouncer


@pytest.fixture
def url(postgres: Path, database_url: str) -> Iterator[str]:
    """DATABASE_URL of a fresh database behind PgBouncer."""
    with pgbouncer.running(postgres) as folder:
        yield pgbouncer.through(folder, str(make_url(database_url).database), pgbouncer="true")


async def test_vms_live_and_race_behind_pgbouncer(tmp_path: Path, url: str) -> None:
    stack = Stack.at(tmp_path, DATABASE_URL=url, **QUICK_CLOUD)
    stack.start()
    try:
        async with register(stack) as user:
            vms = await asyncio.gather(*(user.create_active(f"web-{number}") for number in range(6)))
            for vm in vms:
                stops = [user.http.post(f"/vms/{vm}/actions/stop", timeout=30) for _ in range(10)]
                assert Counter(answer.status_code for answer in await asyncio.gather(*stops)) == {202: 1, 409: 9}
                assert (await user.until(vm))["status"] == "SHUTOFF"
            resized = await user.create_resized("grows")
            await user.act(resized["id"], "confirm-resize")
            await user.until(resized["id"], "ACTIVE")
            deletes = [user.http.delete(f"/vms/{vm}", timeout=30) for vm in vms for _ in range(3)]
            assert {answer.status_code for answer in await asyncio.gather(*deletes)} == {204}
            for vm in vms:
                assert (await user.until(vm))["status"] == "DELETED"
        logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.log"))
        assert "Traceback" not in logs
        assert "prepared statement" not in logs
    finally:
        stack.stop()


async def test_the_lock_of_the_reconciler_is_free_again_after_each_round(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock of the session would stay with a connection of PgBouncer that somebody else gets next."""
    settings = make_settings(url)
    engine, rounds = database.create_engine(settings), []

    async def reconcile(self: reconciler.Reconciler) -> None:
        rounds.append(self)
        await asyncio.sleep(0.1)

    async def keep_busy() -> None:
        async with engine.begin() as tx:
            await tx.execute(text("SELECT pg_sleep(0.05)"))

    monkeypatch.setattr(reconciler.Reconciler, "reconcile", reconcile)
    workers = [reconciler.Reconciler(engine, None, None) for _ in range(3)]  # type: ignore[arg-type]
    for _ in range(4):
        calls = [worker._reconcile_unless_locked() for worker in workers]
        await asyncio.gather(*calls, *(keep_busy() for _ in range(8)))
    assert len(rounds) >= 4
    async with engine.begin() as tx:
        assert await tx.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
    await database.close(engine)
