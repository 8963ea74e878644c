"""A page in a headless Chromium, which is driven through a pipe by the Chrome DevTools Protocol."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.waiting import block_until

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium")
FIRST_FREE = 10  # the browser reads from descriptor 3 and writes to 4, so ours must be others


class Page:
    """A page of the browser."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands = commands
        self._answers = answers
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def open(self, url: str) -> None:
        """Go to an address, and wait until its scripts have run."""
        self._send("Page.navigate", url=url)
        block_until(lambda: self.run("document.readyState") == "complete")

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        result = self._send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        block_until(lambda: self.run(script))

    def _send(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while (message := self._read()).get("id") != number:
            pass
        assert "result" in message, message
        return message["result"]

    def _read(self) -> dict[str, Any]:
        text = b""
        while not text.endswith(b"\0"):
            part = self._answers.read(1)
            assert part, "the browser has ended"
            text += part
        message: dict[str, Any] = json.loads(text[:-1])
        return message


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A page of a new browser, whose files are in the folder."""
    assert PROGRAM
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
    command = [PROGRAM, *options, "--remote-debugging-pipe", "about:blank"]
    (to_read, commands), (answers, to_write) = os.pipe(), os.pipe()
    theirs = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, FIRST_FREE) for descriptor in (to_read, to_write)]
    shell = f'exec "$0" "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
    process = subprocess.Popen(["bash", "-c", shell, *command], pass_fds=theirs, stderr=subprocess.DEVNULL)
    for descriptor in (*theirs, to_read, to_write):
        os.close(descriptor)
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait)
        stack.callback(process.terminate)
        yield Page(stack.enter_context(os.fdopen(commands, "wb")), stack.enter_context(os.fdopen(answers, "rb")))
