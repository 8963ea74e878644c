"""The shell blocks of docs/api.md run as they are written, in their order."""

import asyncio
import json
import re
import subprocess
from functools import partial
from pathlib import Path

from tests.support.stack import Stack
from tests.support.users import PASSWORD, add_account

DOCUMENT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
MARK = "\x1e"  # stands before what each block prints
# The stream of events ends by itself only after a quarter of an hour. Meanwhile something must happen.
CHANGE = """
{ sleep 1; curl -sS -X PATCH -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' "$API/vms/$VM" \\
  -d '{"name": "web-2"}' > /dev/null; } &
"""


async def test_the_examples_of_the_document_run_in_their_order(stack: Stack, tmp_path: Path) -> None:
    assert DOCUMENT.count('"$API/') == sum(block.count('"$API/') for block in BLOCKS)
    script = "".join(f"printf '{MARK}'\n{block}" for block in BLOCKS)
    script = script.replace("http://127.0.0.1:8000/api/v1", stack.url).replace("alice", await add_account(stack))
    [stream] = re.findall(r"curl .* -N .*", script)
    script = script.replace(stream, f"{CHANGE}timeout 3 {stream}")
    shell = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    done = await asyncio.to_thread(shell, ["bash", "-c", script])
    assert done.stderr == ""
    assert PASSWORD in script
    _, nothing, active, events, guarded, listed = done.stdout.split(MARK)
    assert nothing == ""
    assert json.loads(active)["status"] == "ACTIVE"
    assert "event: vm\n" in events
    assert '"name":"web-2"' in events
    changed, refused = [json.loads(line) for line in guarded.replace("}{", "}\n{").splitlines()]
    assert changed["labels"] == {"env": "prod"}
    assert (refused["status"], refused["code"]) == (412, "precondition_failed")
    assert [vm["name"] for vm in json.loads(listed)["items"]] == ["web-2"]
