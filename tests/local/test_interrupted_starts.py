"""A start that was killed in the middle never keeps the next one from succeeding."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import local
from migrations import embedded_postgres, embedded_temporal
from migrations.children import Child
from tests.local.test_checks import settings
from tests.support.stack import free_ports
from tests.support.waiting import block_until, poll

INIT_CLUSTER = (
    "import pathlib, sys; from migrations import embedded_postgres as e; e.init_cluster(pathlib.Path(sys.argv[1]))"
)


@pytest.mark.parametrize("reached", ["PG_VERSION", "global/pg_control", "base/4"])
def test_a_cluster_can_be_made_right_after_its_making_was_killed(reached: str, private_folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", INIT_CLUSTER, str(private_folder)], cwd=local.ROOT) as first:
        block_until((private_folder / "postgres.new" / reached).exists, deadline=20)
        first.kill()
    embedded_postgres.init_cluster(private_folder)
    assert {path.name for path in private_folder.iterdir()} == {"postgres"}


def test_what_an_initdb_has_started_is_found_before_it_enters_the_folder(private_folder: Path) -> None:
    unfinished = private_folder / "postgres.new"
    writes = f'while :; do mkdir -p "{unfinished}/base"; : > "{unfinished}/base/1"; done'
    environment = {embedded_postgres.MAKES: str(unfinished)}
    with subprocess.Popen(["/bin/sh", "-c", writes], env=environment, cwd="/") as left:
        block_until((unfinished / "base" / "1").exists, deadline=20)
        embedded_postgres.init_cluster(private_folder)
        assert left.wait(timeout=0) == -signal.SIGKILL
    assert {path.name for path in private_folder.iterdir()} == {"postgres"}


def test_programs_of_others_that_know_the_cluster_go_on(private_folder: Path) -> None:
    """PGDATA is what people set for their own tools."""
    embedded_postgres.init_cluster(private_folder)
    cluster = private_folder / "postgres"
    with subprocess.Popen(["sleep", "60"], env=os.environ | {"PGDATA": str(cluster)}) as theirs:
        embedded_postgres.prepare_start(cluster)
        assert theirs.poll() is None
        theirs.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_whose_initdb_hangs_stops_at_once(number: signal.Signals, private_folder: Path) -> None:
    (programs := private_folder / "bin").mkdir()
    # With a child that has its output, as the real one has.
    (programs / "initdb").write_text(f"#!/bin/sh\ntouch {programs}/begun\nsleep 60\n:\n")
    (programs / "initdb").chmod(0o755)
    programs.chmod(0o777)
    code = f"import local, pathlib; local.embedded_postgres.BIN = pathlib.Path({str(programs)!r}); local.main()"
    api, temporal, web_ui = map(str, free_ports(3))
    ports = {"API_PORT": api, "TEMPORAL_PORT": temporal, "TEMPORAL_UI_PORT": web_ui}
    environment = os.environ | ports | {"DATA_DIR": str(private_folder / "data")}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=local.ROOT, env=environment, stdout=subprocess.PIPE, text=True) as start:
        block_until((programs / "begun").exists, deadline=20)
        start.send_signal(number)
        output, _ = start.communicate(timeout=10)
    assert start.returncode == 0
    assert output.splitlines()[-1] == "Stopping"


async def test_a_temporal_server_that_is_killed_while_it_makes_its_tables_does_not_fail_for_ever(
    tmp_path: Path,
) -> None:
    server = local.temporal_server(settings(), tmp_path, tmp_path).start()
    try:
        await kill_when_its_state_appears(server, tmp_path / embedded_temporal.DATABASE)
        await server.until(server.does_not_serve)
    finally:
        await server.stop()
    assert server.failures == 1


async def kill_when_its_state_appears(server: Child, state: Path) -> None:
    """Kill a server in the moment in which it has made the file of its state."""

    async def exists() -> bool:
        return await asyncio.to_thread(state.exists)

    await poll(exists, bool, deadline=10, interval=0.001)
    assert server.process
    server.process.kill()


def test_a_state_that_was_served_once_is_kept(tmp_path: Path) -> None:
    embedded_temporal.discard_unfinished_state(tmp_path)
    (tmp_path / embedded_temporal.DATABASE).write_text("state")
    embedded_temporal.keep_state(tmp_path)
    embedded_temporal.discard_unfinished_state(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [embedded_temporal.DATABASE]
    assert (tmp_path / embedded_temporal.DATABASE).read_text() == "state"
