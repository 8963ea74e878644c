"""`make up` as a whole: when it refuses to start, what its parts get, and how it stops."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import local
from migrations import embedded_postgres
from tests.support.stack import Stack, free_ports

STOP_ORDER = ["api", "worker", "temporal", "postgres"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """This module's stack; the last test stops it."""
    stack = Stack.at(tmp_path_factory.mktemp("up") / "data")
    stack.start()
    yield stack
    if stack.supervisor:
        stack.stop()


def start_error(**environment: str | int) -> str:
    """The one line that a start with these settings prints when it refuses to start anything."""
    settings = {name: str(value) for name, value in environment.items()}
    command = [sys.executable, str(local.ROOT / "local.py")]
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
        assert "SECRET_KEY" not in environment(stack, part)


def test_other_users_cannot_read_the_data_directory(stack: Stack) -> None:
    assert not stat.S_IMODE(stack.data_dir.stat().st_mode) & stat.S_IRWXO
    assert stat.S_IMODE((stack.data_dir / "postgres").stat().st_mode) == 0o700


def test_the_database_listens_on_a_unix_socket_only(stack: Stack) -> None:
    [pid] = stack.pids("postgres")
    inodes = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    assert not {f"socket:[{row[9]}]" for row in rows} & inodes
    assert (stack.data_dir / "postgres" / embedded_postgres.SOCKET_NAME).is_socket()


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


def test_all_servers_listen_on_loopback_only(stack: Stack) -> None:
    for port in (stack.api_port, stack.temporal_port, stack.ui_port):
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=1).close()


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
