"""The README's shell blocks run as they are written."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.settings import Settings
from tests.support.stack import Stack

README = (Path(__file__).parents[2] / "README.md").read_text()
CREATE_AND_WAIT, WALK_THROUGH = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def run(stack: Stack, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user pastes it, but against the stack's port."""
    script = script.replace("http://127.0.0.1:8000/api/v1", stack.url)
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=300)


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The JSON objects that a script has printed."""
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_create_and_wait_ends_with_an_active_vm(stack: Stack) -> None:
    done = run(stack, f"set -euo pipefail\n{CREATE_AND_WAIT}")
    assert done.returncode == 0, done.stderr
    vm = answers(done)[-1]
    assert (vm["name"], vm["status"]) == ("web-1", "ACTIVE")


def test_vmctl_does_the_same_with_the_token_of_the_terminal(stack: Stack) -> None:
    [command] = re.findall(r"^\$ (VMCTL_TOKEN=.*)$", README, re.MULTILINE)
    command = command.replace(".venv/bin/vmctl", f"VMCTL_URL={stack.url} {sys.executable} -m vmctl")
    done = run(stack, f"{CREATE_AND_WAIT}\n{command}")
    assert done.returncode == 0, done.stderr
    assert "create web-2: succeeded" in done.stderr
    assert done.stdout.splitlines()[-1].split() == ["status", "ACTIVE"]


def test_the_walk_through_runs_as_written(stack: Stack) -> None:
    done = run(stack, CREATE_AND_WAIT + WALK_THROUGH)
    assert done.returncode == 0, done.stderr
    _, active, health, built, interfaces, volume, attached, resizing, confirming, snapshot, restoring, *rest = answers(
        done
    )
    stopping, refused, deleting, freed, operations = rest
    assert (active["status"], built["status"]) == ("ACTIVE", "ACTIVE")
    assert health["status"] == "ok"
    assert {"stop", "reboot", "resize", "snapshot", "attach-volume", "delete"} <= set(active["allowed_actions"])
    assert [interface["status"] for interface in interfaces["items"]] == ["ATTACHED"]
    assert (volume["name"], snapshot["name"]) == ("data-1", "before-upgrade")
    assert (attached["device"], attached["status"]) == ("/dev/vdb", "ATTACHING")
    assert resizing["status"] == "RESIZING"
    assert (confirming["status"], confirming["task_state"]) == ("VERIFY_RESIZE", "resize_confirming")
    assert (restoring["status"], restoring["task_state"]) == ("ACTIVE", "restoring")
    assert restoring["flavor_id"] != active["flavor_id"]
    assert (stopping["task_state"], stopping["flavor_id"]) == ("powering_off", restoring["flavor_id"])
    assert (refused["code"], refused["allowed_actions"]) == ("invalid_transition", ["delete"])
    assert "HTTP/1.1 204" in done.stdout
    assert deleting["status"] in {"DELETING", "DELETED"}
    assert (freed["status"], freed["vm_id"]) == ("AVAILABLE", None)
    expected = ["delete", "stop", "restore", "snapshot", "confirm-resize", "resize", "attach-volume", "create"]
    assert [operation["action"] for operation in operations["items"]] == expected


async def test_a_failed_build_stops_the_walk_through_with_the_reason(stack: Stack, cloud: Settings) -> None:
    await add_fault(cloud, "create_server", FaultMode.REFUSE)
    done = run(stack, CREATE_AND_WAIT + WALK_THROUGH)
    assert done.returncode != 0
    assert "Stopped. The operation is FAILED" in done.stderr
    assert "mock_refused" in done.stderr
    assert answers(done)[-1]["fault"]["code"] == "mock_refused"


def test_a_wait_that_takes_too_long_stops_the_walk_through(stack: Stack) -> None:
    impatient = (CREATE_AND_WAIT + WALK_THROUGH).replace("wait=60", "wait=0")
    done = run(stack, impatient)
    assert done.returncode != 0
    assert re.search(r"Stopped\. The operation is (QUEUED|RUNNING)", done.stderr)


def test_a_refused_request_stops_the_walk_through_with_the_reason(stack: Stack) -> None:
    refused = WALK_THROUGH.replace('"size_gb": 10', '"size_gb": -10')
    done = run(stack, CREATE_AND_WAIT + refused)
    assert done.returncode != 0
    assert "size_gb" in done.stderr
