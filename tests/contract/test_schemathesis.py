"""Generated requests to a real stack: examples, edges of every schema, random ones, and sequences that follow links.

`FUZZ` are the seconds that they may take, `SEED` chooses others. schemathesis.toml and hooks.py say what is judged.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.stack import QUICK_CLOUD, Stack
from tests.support.users import PASSWORD

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IS_LONG = "FUZZ" in os.environ
SECONDS = os.environ.get("FUZZ", "10")
SEED = os.environ.get("SEED", "16")
ADMIN = "fuzzer"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose admin sends any number of requests, with tokens that do not expire meanwhile."""
    settings = {"ACCESS_TOKEN_EXPIRE_MINUTES": "1440", **QUICK_CLOUD}
    settings |= {f"RATE_LIMIT_{who}_{what}": "0" for who in ("USER", "ADDRESS") for what in ("READS", "WRITES")}
    stack = Stack.at(tmp_path_factory.mktemp("stack"), **settings)
    stack.start()
    yield stack
    stack.stop()


def _token(stack: Stack) -> str:
    login = {"username": ADMIN, "password": PASSWORD}
    with httpx.Client(base_url=stack.url, timeout=30) as http:
        http.post("/auth/register", json=login | {"email": f"{ADMIN}@example.com"}).raise_for_status()
        stack.grant(ADMIN)
        token: str = http.post("/auth/login", json=login).raise_for_status().json()["access_token"]
    return token


@pytest.mark.timeout(600 + 2 * int(SECONDS))
def test_no_generated_request_gets_an_answer_that_the_document_does_not_promise(stack: Stack, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("st")
    login = f"Authorization: Bearer {_token(stack)}"
    options = ["--max-time", SECONDS, "--seed", SEED, "--header", login, "--no-shrink"]
    command: list[str | Path] = [
        program,
        "--config-file",
        HERE / "schemathesis.toml",
        "run",
        f"{stack.url}/openapi.json",
    ]
    log = tmp_path / "schemathesis.log"
    with log.open("w") as output:
        # Or another checkout in the environment could have the module with the hooks.
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, *options], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    report = log.read_text()
    sys.stdout.write(report)
    assert done.returncode == 0, report[report.find("FAILURES") :][:8000]
    counts = re.search(r"Selected: (\d+)/\d+\s+Tested: (\d+)", report)
    assert counts
    # On a busy machine the short time may be over before all operations had their turn.
    assert counts[1] == counts[2] if IS_LONG else int(counts[2]) > 0
