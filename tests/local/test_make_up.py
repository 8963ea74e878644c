"""`make up` as a whole: when it refuses to start, what its parts get, and how it stops."""

import json
import os
import signal
import stat
import string
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import local
from migrations import embedded_postgres, embedded_temporal
from tests.local.test_checks import FOREIGN
from tests.support.stack import Stack, free_ports
from tests.support.waiting import block_until

STOP_ORDER = ["api", "worker", "temporal", "postgres"]
ODD_NAME = "".join(sorted(set(string.printable) - set(string.whitespace) - {"/"})) + " %41"
LOOPBACK = "0100007F"  # 127.0.0.1 in /proc/net/tcp
SOME_PAGE = {"Origin": "http://page.example", "Content-Type": "text/plain"}  # what a browser sends without asking first


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """This module's stack, which the last test stops. Its folder's name is odd, and so is its environment."""
    stack = Stack.at(tmp_path_factory.mktemp("up") / ODD_NAME, **FOREIGN)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what it starts inherits this
    stack.start()
    signal.signal(signal.SIGCHLD, handler)
    yield stack
    if stack.supervisor:
        stack.stop()


def start_error(**environment: str | int) -> str:
    """The one line that a start with these settings prints when it refuses to start anything."""
    settings = {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-E", str(local.ROOT / "local.py")]
    result = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=10, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    return line


def environment(stack: Stack, part: str) -> dict[str, str]:
    """The environment of one of the stack's processes."""
    [pid] = stack.pids(part)
    entries = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(entry.split("=", 1) for entry in entries)


def test_a_second_start_on_the_same_data_directory_is_refused(stack: Stack) -> None:
    api, temporal, web_ui = free_ports(3)
    ports = {"API_PORT": api, "TEMPORAL_PORT": temporal, "TEMPORAL_UI_PORT": web_ui}
    line = start_error(DATA_DIR=str(stack.data_dir), **ports)
    assert line.startswith("Another `make up`, process ")
    assert str(stack.data_dir) in line


def test_a_taken_port_is_reported_in_one_line(stack: Stack, tmp_path: Path) -> None:
    line = start_error(DATA_DIR=str(tmp_path), API_PORT=stack.api_port)
    assert f"Port {stack.api_port}" in line
    assert "API_PORT" in line
    assert not (tmp_path / "postgres").exists()


def test_an_invalid_setting_is_reported_in_one_line(tmp_path: Path) -> None:
    assert "MOCK_ERROR_RATE" in start_error(DATA_DIR=str(tmp_path), MOCK_ERROR_RATE=2)


def test_only_the_api_gets_the_secret_key(stack: Stack) -> None:
    secret = (stack.data_dir / "secret_key").read_text()
    assert environment(stack, "api")["SECRET_KEY"] == secret
    for part in ("worker", "temporal", "postgres"):
        assert not {"SECRET_KEY", "SECRET_KEY_FALLBACKS"} & environment(stack, part).keys()


def test_all_state_is_in_the_data_directory(stack: Stack) -> None:
    assert [path.name for path in stack.data_dir.parent.iterdir()] == [ODD_NAME]
    assert {"temporal.db", "postgres", "logs", "secret_key"} <= {path.name for path in stack.data_dir.iterdir()}


def test_other_users_cannot_read_the_data_directory(stack: Stack) -> None:
    assert not stat.S_IMODE(stack.data_dir.stat().st_mode) & stat.S_IRWXO
    readable = [path for path in stack.data_dir.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert readable == []


def listening(stack: Stack, part: str) -> list[tuple[str, int]]:
    """The addresses, in hexadecimal, and ports on which a part listens."""
    [pid] = stack.pids(part)
    sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    found = [row[1].split(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return [(address, int(port, 16)) for address, port in found]


def test_the_database_listens_on_a_unix_socket_only(stack: Stack) -> None:
    assert listening(stack, "postgres") == []
    assert (stack.socket_dir / embedded_postgres.SOCKET_NAME).is_socket()
    assert stat.S_IMODE(stack.socket_dir.stat().st_mode) == 0o700


def test_all_ports_are_on_loopback_only(stack: Stack) -> None:
    ports = [*listening(stack, "api"), *listening(stack, "temporal")]
    assert {stack.api_port, stack.temporal_port, stack.ui_port} < {port for _, port in ports}
    assert {address for address, _ in ports} == {LOOPBACK}


def test_a_page_of_another_site_cannot_end_the_workflows(stack: Stack) -> None:
    batch = {"jobId": "job", "reason": "none", "visibilityQuery": "VMName = 'x'", "terminationOperation": {}}
    answers = set()
    for _, port in listening(stack, "temporal"):
        for path in ("/namespaces/default/batch-operations/job", "/api/v1/namespaces/default/batch-operations/job"):
            url = f"http://127.0.0.1:{port}{path}"
            request = urllib.request.Request(url, json.dumps(batch).encode(), SOME_PAGE)
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                    answers.add(answer.status)
            except urllib.error.HTTPError as error:
                answers.add(error.code)
            except OSError:  # this port does not speak HTTP/1.1
                continue
    assert 403 in answers
    assert not [status for status in answers if status < 400]


def test_an_address_that_is_registered_twice_stands_in_no_log(stack: Stack) -> None:
    answers = []
    for name in ("alice", "another-alice"):
        user = {"username": name, "email": "alice.private@example.com", "password": "Correct-Horse-1"}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{stack.url}/auth/register", json.dumps(user).encode(), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                answers.append(answer.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)
    logs = {path.name: path.read_text() for path in (stack.data_dir / "logs").iterdir()}
    assert answers == [201, 409]
    assert "uq_users_email" in logs["postgres.log"]
    assert [name for name, log in logs.items() if "alice.private" in log] == []


async def test_the_printed_link_lists_what_waits(stack: Stack) -> None:
    assert stack.supervisor
    assert stack.supervisor.stdout
    [link] = [
        line.split()[-1] for line in iter(stack.supervisor.stdout.readline, "Stop with Ctrl-C.\n") if "waits" in line
    ]
    address, _, query = link.partition("?query=")
    assert address == f"http://127.0.0.1:{stack.ui_port}/namespaces/default/workflows"
    assert (await (await stack.temporal()).count_workflows(urllib.parse.unquote(query))).count == 0


def test_closed_workflows_are_kept_for_thirty_days(stack: Stack) -> None:
    address = f"--address=127.0.0.1:{stack.temporal_port}"
    describe = [
        embedded_temporal.TEMPORAL,
        "operator",
        "namespace",
        "describe",
        "--namespace=default",
        address,
        "--output=json",
    ]
    described = json.loads(subprocess.run(describe, capture_output=True, check=True).stdout)
    assert described["config"]["workflowExecutionRetentionTtl"] == f"{30 * 24 * 3600}s"


def test_a_temporal_whose_state_is_removed_while_it_runs_keeps_the_new_one(stack: Stack) -> None:
    for path in stack.data_dir.glob(f"{embedded_temporal.DATABASE}*"):
        path.unlink()
    stack.kill("temporal")
    block_until((stack.data_dir / embedded_temporal.DATABASE).exists)
    assert not (stack.data_dir / embedded_temporal.UNFINISHED).exists()


def test_repeated_signals_stop_the_parts_once_and_in_order(stack: Stack) -> None:
    supervisor = stack.supervisor
    assert supervisor
    alive = {part: stack.pids(part)[0] for part in STOP_ORDER}
    ended: list[str] = []
    give_up_at = time.monotonic() + 30
    while alive:
        supervisor.send_signal(signal.SIGTERM if int(time.monotonic() * 100) % 2 else signal.SIGINT)
        for part in [part for part, pid in alive.items() if not Path(f"/proc/{pid}").exists()]:
            del alive[part]
            ended.append(part)
        assert time.monotonic() < give_up_at, f"still alive: {list(alive)}"
        time.sleep(0.005)
    assert ended == STOP_ORDER
    assert supervisor.wait(5) == 0
    stack.forget_supervisor()
