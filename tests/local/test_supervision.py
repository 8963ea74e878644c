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
from migrations import children
from migrations.children import Child, StartError
from tests.support.waiting import block_until, poll

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
IGNORES_SIGTERM = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('set', flush=True); time.sleep(60)",
]
StartChild = Callable[..., Child]


@pytest.fixture
async def start_child(tmp_path: Path) -> AsyncIterator[StartChild]:
    """Starts children that are stopped after the test."""
    started: list[Child] = []

    def start(*command: str, stop_timeout: float = 5) -> Child:
        started.append(Child("child", command, tmp_path, local.PROCESS_OPTIONS, stop_timeout).start())
        return started[-1]

    yield start
    for child in started:
        await child.stop()


async def until(condition: Callable[[], object], deadline: float = 5) -> None:
    """Wait until the condition is true."""

    async def check() -> object:
        return condition()

    await poll(check, bool, deadline=deadline, interval=0.01)


def pid(child: Child) -> int:
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
    await asyncio.sleep(2 * children.RESTART_DELAY)
    assert pid(child) == 0
    assert not is_running(stopped)


async def test_a_child_that_ignores_the_stop_signal_is_killed(start_child: StartChild, tmp_path: Path) -> None:
    child = start_child(*IGNORES_SIGTERM, stop_timeout=0.3)
    await until(lambda: pid(child) and "set" in (tmp_path / "child.log").read_text())
    stopped, stopping_since = pid(child), time.monotonic()
    await child.stop()
    assert 0.3 <= time.monotonic() - stopping_since < 2
    assert not is_running(stopped)


async def test_a_start_that_cannot_succeed_is_given_up_with_the_end_of_the_log(start_child: StartChild) -> None:
    child = start_child("/bin/sh", "-c", "echo the disk is full; exit 3")
    with pytest.raises(StartError) as error:
        await child.until(child.has_not_settled)
    assert str(error.value).splitlines() == [
        f"child cannot be started: it ended (3). The end of {child.log}:",
        *["the disk is full"] * children.START_ATTEMPTS,
    ]


async def test_a_program_that_is_stopped_counts_only_once_it_is_continued(start_child: StartChild) -> None:
    child = start_child(*SLEEP)
    await until(lambda: pid(child))
    os.kill(pid(child), signal.SIGSTOP)
    child.started_at -= children.SETTLED_AFTER
    await until(lambda: children.is_stopped(pid(child)))
    assert await child.has_not_settled() == "it does not keep running"
    os.kill(pid(child), signal.SIGCONT)
    await until(lambda: not children.is_stopped(pid(child)))
    assert await child.has_not_settled() == ""


async def test_a_start_whose_log_cannot_be_written_is_given_up(start_child: StartChild, tmp_path: Path) -> None:
    (tmp_path / "child.log").mkdir()
    child = start_child(*SLEEP)
    with pytest.raises(StartError, match=r"child cannot be started: .*Is a directory"):
        await child.until(child.has_not_settled)


async def test_a_start_that_takes_too_long_is_given_up_with_its_reason(
    start_child: StartChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "START_TIMEOUT", 0)

    async def problem() -> str:
        return "no Temporal"

    child = start_child("/bin/sh", "-c", "echo waiting; sleep 60")
    await until(lambda: pid(child) and "waiting" in child.log.read_text())
    with pytest.raises(StartError, match=r"child is not ready after 0 s: no Temporal. The end of .*\nwaiting"):
        await child.until(problem)


async def test_a_program_that_dies_once_during_the_start_is_restarted(start_child: StartChild) -> None:
    child = start_child(*SLEEP)
    await until(lambda: pid(child))
    os.kill(pid(child), signal.SIGKILL)
    await child.until(child.has_not_settled)
    assert child.failures == 1


async def test_a_probe_that_hangs_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "PROBE_TIMEOUT", 0.1)
    assert not await children.succeeds(SLEEP, local.PROCESS_OPTIONS)


def test_a_reader_of_our_output_that_goes_away_does_not_fail_the_exit() -> None:
    """As in `make up | head -3`."""
    code = "from migrations.children import say; say('Stopping'); say('more')"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-E", "-c", code], cwd=local.ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_ctrl_c_while_the_supervisor_is_loaded_prints_no_traceback() -> None:
    code = """
import importlib.abc, os, runpy, signal, sys
class CtrlC(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("domain"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
runpy.run_path("local.py", run_name="__main__")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=local.ROOT, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from migrations.children import Child\n"
        "async def main():\n"
        f"    child = Child('child', {SLEEP!r}, pathlib.Path(sys.argv[1]), {{}}, 5).start()\n"
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
