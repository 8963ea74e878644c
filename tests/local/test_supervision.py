"""The supervisor restarts children that die, and no child outlives the supervisor."""

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
from tests.support.waiting import block_until, poll

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
IGNORES_SIGTERM = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('set', flush=True); time.sleep(60)",
]
StartChild = Callable[..., local.Child]


@pytest.fixture
async def start_child(tmp_path: Path) -> AsyncIterator[StartChild]:
    """Starts children that are stopped after the test."""
    children: list[local.Child] = []

    def start(*command: str, stop_timeout: float = 5) -> local.Child:
        children.append(local.Child("child", command, tmp_path, stop_timeout).start())
        return children[-1]

    yield start
    for child in children:
        await child.stop()


async def until(condition: Callable[[], object], deadline: float = 5) -> None:
    """Wait until the condition is true."""

    async def check() -> object:
        return condition()

    await poll(check, bool, deadline=deadline, interval=0.01)


def pid(child: local.Child) -> int:
    """The process id of the child's current process, 0 if none is running."""
    return child.process.pid if child.process and child.process.returncode is None else 0


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_a_killed_child_is_restarted_within_a_second(start_child: StartChild) -> None:
    child = start_child(*SLEEP)
    for _ in range(3):
        await until(lambda: pid(child))
        killed = pid(child)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: pid(child) not in {0, killed}, deadline=1)  # noqa: B023 - awaited here


async def test_a_child_that_exits_immediately_is_restarted_every_time(
    start_child: StartChild, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start_child("/bin/sh", "-c", "echo started; exit 3")
    log = tmp_path / "child.log"
    await until(lambda: log.exists() and log.read_text().count("started") > 3)
    assert f"child ended (3) and is restarted; its log: {log}" in capfd.readouterr().out


async def test_a_missing_program_is_tried_until_it_exists(
    start_child: StartChild, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program"
    child = start_child(str(program))
    await asyncio.sleep(0.1)
    assert "child could not be started and is tried again" in capfd.readouterr().out
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    await until(lambda: pid(child))


async def test_a_child_gets_no_signals_sent_to_our_process_group(start_child: StartChild) -> None:
    child = start_child(*SLEEP)
    await until(lambda: pid(child))
    assert os.getsid(pid(child)) == pid(child)


async def test_a_stopped_child_is_not_restarted(start_child: StartChild) -> None:
    child = start_child(*SLEEP)
    await until(lambda: pid(child))
    stopped = pid(child)
    await child.stop()
    await asyncio.sleep(2 * local.RESTART_DELAY)
    assert pid(child) == 0
    assert not is_running(stopped)


async def test_a_child_that_ignores_the_stop_signal_is_killed(start_child: StartChild, tmp_path: Path) -> None:
    child = start_child(*IGNORES_SIGTERM, stop_timeout=0.3)
    await until(lambda: pid(child) and "set" in (tmp_path / "child.log").read_text())
    stopped, stopping_since = pid(child), time.monotonic()
    await child.stop()
    assert 0.3 <= time.monotonic() - stopping_since < 2
    assert not is_running(stopped)


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
        assert is_running(child)
        supervisor.kill()
    block_until(lambda: not is_running(child), deadline=2)
