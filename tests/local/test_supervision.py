"""Children come back whenever they die, and never outlive the supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import local

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


@pytest.fixture
async def keep(tmp_path: Path) -> AsyncIterator[Callable[..., local.Child]]:
    """Start children that are stopped after the test."""
    children: list[local.Child] = []

    def start(*command: str, patience: float = 5) -> local.Child:
        children.append(local.Child("child", command, tmp_path, patience).start())
        return children[-1]

    yield start
    for child in children:
        await child.stop()


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait for a condition, not for ever."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


def pid(child: local.Child) -> int:
    """The process id of the child that runs now, 0 if none does."""
    return child.process.pid if child.process and child.process.returncode is None else 0


def runs(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be reaped."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_a_killed_child_is_back_within_a_second(keep: Callable[..., local.Child]) -> None:
    child = keep(*SLEEP)
    for _ in range(3):
        await until(lambda: pid(child))
        killed = pid(child)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: pid(child) not in {0, killed}, seconds=1)  # noqa: B023 - awaited here


async def test_a_child_that_dies_at_once_is_started_again_and_again(
    keep: Callable[..., local.Child], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keep("/bin/sh", "-c", "echo tried; exit 3")
    log = tmp_path / "child.log"
    await until(lambda: log.exists() and log.read_text().count("tried") > 3)
    assert f"child ended (3) and is started again; its log: {log}" in capfd.readouterr().out


async def test_a_program_that_is_missing_is_tried_until_it_is_there(
    keep: Callable[..., local.Child], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program"
    child = keep(str(program))
    await asyncio.sleep(0.1)
    assert "child could not be started and is tried again" in capfd.readouterr().out
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    await until(lambda: pid(child))


async def test_a_child_is_out_of_reach_of_signals_to_our_group(keep: Callable[..., local.Child]) -> None:
    child = keep(*SLEEP)
    await until(lambda: pid(child))
    assert os.getsid(pid(child)) == pid(child)


async def test_a_stopped_child_stays_stopped(keep: Callable[..., local.Child]) -> None:
    child = keep(*SLEEP)
    await until(lambda: pid(child))
    stopped = pid(child)
    await child.stop()
    await asyncio.sleep(2 * local.RESTART_DELAY)
    assert pid(child) == 0
    assert not runs(stopped)


async def test_a_child_that_does_not_listen_is_killed(keep: Callable[..., local.Child], tmp_path: Path) -> None:
    child = keep(*STUBBORN, patience=0.3)
    await until(lambda: pid(child) and "deaf" in (tmp_path / "child.log").read_text())
    stubborn, began = pid(child), time.monotonic()
    await child.stop()
    assert 0.3 <= time.monotonic() - began < 2
    assert not runs(stubborn)


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, local, pathlib, sys\n"
        "async def main():\n"
        f"    child = local.Child('child', {SLEEP!r}, pathlib.Path(sys.argv[1]), 5).start()\n"
        "    while not child.process: await asyncio.sleep(0.01)\n"
        "    print(child.process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=local.ROOT) as supervisor:
        assert supervisor.stdout
        child = int(supervisor.stdout.readline())
        assert runs(child)
        supervisor.kill()
    give_up_at = time.monotonic() + 2
    while runs(child):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
