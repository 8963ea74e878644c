"""README's walk-through runs as it is written."""

import json
import re
import subprocess
from pathlib import Path

from tests.support.stack import Stack

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def test_the_walk_through_runs_as_written(stack: Stack) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    script = blocks[0].replace("http://127.0.0.1:8000/api/v1", stack.url)
    # curl prints its answers back to back; a line of its own each makes them readable to a test
    script = script.replace("curl -s ", "curl -s -w '\\n' ")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    health, alice, active, interfaces, attached, resizing, confirming, restoring, stopping, refused, volume, trail = (
        answers
    )
    assert health["status"] == "ok"
    assert alice["username"] == "alice"
    assert active["status"] == "ACTIVE"
    assert {"stop", "reboot", "resize", "snapshot", "attach-volume", "delete"} <= set(active["allowed_actions"])
    assert [one["status"] for one in interfaces["items"]] == ["ATTACHED"]
    assert (attached["device"], attached["status"]) == ("/dev/vdb", "ATTACHING")
    assert resizing["status"] == "RESIZING"
    assert (confirming["status"], confirming["task_state"]) == ("VERIFY_RESIZE", "resize_confirming")
    assert (restoring["status"], restoring["task_state"]) == ("ACTIVE", "restoring")
    assert (stopping["task_state"], stopping["flavor_id"]) == ("powering_off", active["flavor_id"])
    assert (refused["code"], refused["allowed_actions"]) == ("invalid_transition", ["delete"])
    assert "HTTP/1.1 204" in done.stdout
    assert (volume["status"], volume["vm_id"]) == ("AVAILABLE", None)
    asked = ["delete", "stop", "restore", "confirm-resize", "resize", "snapshot", "attach-volume", "create"]
    assert [operation["action"] for operation in trail["items"]] == asked
