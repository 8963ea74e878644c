"""The command `python -m activities.backends.faults`, which scripts faults of the mock cloud."""

import asyncio
import inspect
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends import faults
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode
from activities.backends.mock.schema import faults as faults_table
from activities.backends.protocol import ComputeBackend
from domain.settings import Settings

ROOT = Path(__file__).parents[2]


async def run(monkeypatch: pytest.MonkeyPatch, settings: Settings, *arguments: str) -> None:
    """Run the command line in this process, against the test's database."""
    monkeypatch.setattr(sys, "argv", ["faults", *arguments])
    monkeypatch.setattr(faults, "load_settings", lambda: settings)
    await asyncio.to_thread(faults.main)


async def scripted_faults(engine: AsyncEngine) -> list[tuple[object, ...]]:
    """Return the scripted faults in their order."""
    columns = (faults_table.c.verb, faults_table.c.mode, faults_table.c.times, faults_table.c.vm_id)
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(*columns).order_by(faults_table.c.id))]


@pytest.mark.usefixtures("no_cloud_yet")
async def test_faults_are_added_and_cleared(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, engine: AsyncEngine
) -> None:
    vm_id = uuid4()
    await run(monkeypatch, settings, "add", "stop_server", "fail")
    await run(monkeypatch, settings, "add", "create_server", "never-answer", "--times", "3", "--vm", str(vm_id))
    await run(monkeypatch, settings, "add", "delete_server", "refuse", "--always")
    assert await scripted_faults(engine) == [
        ("stop_server", "fail", 1, None),
        ("create_server", "never-answer", 3, vm_id),
        ("delete_server", "refuse", None, None),
    ]
    await run(monkeypatch, settings, "clear")
    assert await scripted_faults(engine) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["add"],
        ["add", "stop_server"],
        ["add", "fly", "fail"],
        ["add", "stop_server", "explode"],
        ["add", "stop_server", "fail", "--vm", "not-an-id"],
        ["add", "stop_server", "fail", "--times", "2", "--always"],
        ["add", "stop_server", "fail", "--times", "0"],
        ["add", "stop_server", "fail", "--times", "-1"],
    ],
)
async def test_a_wrong_command_prints_the_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        await run(monkeypatch, settings, *arguments)
    assert end.value.code == 2
    assert "usage: python -m activities.backends.faults" in capsys.readouterr().err


@pytest.mark.usefixtures("no_cloud_yet")
async def test_the_command_runs_as_a_module_before_any_worker_has_started(
    settings: Settings, engine: AsyncEngine
) -> None:
    environment = os.environ | {"DATABASE_URL": settings.database_url}
    command = [sys.executable, "-m", "activities.backends.faults", "add", "stop_server", "fail-after-effect"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert await scripted_faults(engine) == [("stop_server", "fail-after-effect", 1, None)]


def test_every_verb_that_changes_the_cloud_can_have_a_fault() -> None:
    verbs = inspect.getmembers(ComputeBackend, inspect.isfunction)
    changing = {name for name, verb in verbs if "token" in inspect.signature(verb).parameters}
    assert set(faults.VERBS) == changing
    assert changing <= set(dir(MockBackend))


def test_the_fault_modes_have_these_names() -> None:
    assert {mode.value for mode in FaultMode} == {"fail", "refuse", "fail-after-effect", "never-answer"}
