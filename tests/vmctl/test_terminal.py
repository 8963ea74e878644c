"""The command in a real terminal: what a person sees, types and interrupts."""

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.settings import Settings
from tests.support.stack import Stack
from tests.support.users import PASSWORD
from tests.vmctl.conftest import Command

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")


class Terminal:
    """A bash in a tmux of its own."""

    def __init__(self, command: Command) -> None:
        self._tmux = ("tmux", "-L", f"vmctl-{uuid4().hex}", "-f", "/dev/null")
        shell = ("env", "PS1=$ ", "bash", "--norc")
        size = ("-x", "160", "-y", "50")
        subprocess.run(
            [*self._tmux, "new-session", "-d", *size, shlex.join(shell)], env=command.environment, check=True
        )

    def type(self, *keys: str) -> None:
        """Press keys; a text is typed."""
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def enter(self, line: str) -> None:
        """Type a line."""
        self.type("-l", line)
        self.type("Enter")

    def screen(self) -> str:
        """What the terminal shows; lines that it has wrapped are whole."""
        shown = subprocess.run([*self._tmux, "capture-pane", "-p", "-J"], capture_output=True, text=True, check=True)
        return shown.stdout

    def until(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Wait until the terminal shows something."""
        give_up_at = time.monotonic() + seconds
        while not (found := re.search(pattern, self.screen(), re.MULTILINE)):
            assert time.monotonic() < give_up_at, f"{pattern} is not on the screen:\n{self.screen()}"
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """End the terminal."""
        subprocess.run([*self._tmux, "kill-server"], check=False)


@pytest.fixture
def terminal(vmctl: Command) -> Iterator[Terminal]:
    """A terminal of a user who has logged in."""
    terminal = Terminal(vmctl)
    yield terminal
    terminal.close()


def test_a_wait_shows_the_steps_and_ends_with_the_vm(terminal: Terminal) -> None:
    terminal.enter("vmctl vm create web-1 -f m1.tiny --wait")
    terminal.until(r"^. create web-1: spawning, 66 %, \d s")
    terminal.until(r"^✓ create web-1: succeeded after [\d.]+ s")
    terminal.until(r"^status +ACTIVE")


async def test_a_wait_shows_the_next_attempt_without_asking_for_it(
    terminal: Terminal, vmctl: Command, stack: Stack, cloud: Settings
) -> None:
    name = vmctl.json("whoami")["username"]
    await add_fault(cloud, "create_server", FaultMode.FAIL, times=3)
    terminal.enter("vmctl vm create web-1 -f m1.tiny --wait")
    terminal.until(r"create web-1: spawning, 66 %, attempt \d, next attempt in \d+ s \(.+\)")
    terminal.until(r"^✓ create web-1: succeeded")
    log = (stack.data_dir / "logs" / "api.log").read_text().splitlines()
    requests = [line for line in log if f"user={name}" in line and "GET /api/v1/operations" in line]
    assert len(requests) <= 3, requests  # when the events begin, a look after that, and a wait for the end


def test_a_watch_begins_with_what_is_there(terminal: Terminal, vmctl: Command) -> None:
    vmctl.run("vm", "create", "web-1", "-f", "m1.tiny", "--wait")
    terminal.enter("vmctl vm watch web-1")
    terminal.until(r"^web-1 +ACTIVE")
    vmctl.run("vm", "stop", "web-1", "--wait")
    terminal.until(r"^\d\d:\d\d:\d\d vm +web-1 ACTIVE powering_off")
    terminal.until(r"^\d\d:\d\d:\d\d operation stop SUCCEEDED")
    terminal.until(r"^\d\d:\d\d:\d\d vm +web-1 SHUTOFF")


def test_an_interrupted_wait_says_how_to_go_on(terminal: Terminal) -> None:
    terminal.enter("vmctl vm create web-1 -f m1.tiny --wait; echo code $?")
    terminal.until(r"create web-1: \w+")
    terminal.type("C-c")
    again = terminal.until(
        r"^Interrupted\. What was asked for goes on\. Wait again with: (vmctl op wait [0-9a-f-]{36})"
    )
    terminal.until(r"^code 130$")
    terminal.enter(f"{again[1]}; echo code $?")
    terminal.until(r"^code 0$")


def test_a_delete_asks_first(terminal: Terminal, vmctl: Command) -> None:
    vmctl.run("vm", "create", "web-1", "-f", "m1.tiny", "--wait")
    terminal.enter("vmctl vm delete web-1; echo code $?")
    terminal.until(r"^Delete 1 VM: web-1\? \[y/N\]:")
    terminal.enter("n")
    terminal.until(r"^code 1$")
    assert vmctl.names("vm", "list") == ["web-1"]


def test_a_password_is_not_shown(terminal: Terminal, vmctl: Command) -> None:
    name = vmctl.json("whoami")["username"]
    terminal.enter("vmctl login")
    terminal.until(r"^Username:")
    terminal.enter(name)
    terminal.until(r"^Password:")
    terminal.enter(PASSWORD)
    terminal.until(rf"^Logged in to http://\S+ as {name}\.")
    assert PASSWORD not in terminal.screen()


def test_bash_completes_commands_and_names(terminal: Terminal, vmctl: Command) -> None:
    vmctl.run("vm", "create", "frontend-1", "-f", "m1.tiny", "--wait")
    terminal.enter("source <(vmctl completion bash); echo ready")
    terminal.until(r"^ready$")
    terminal.type("-l", "vmctl vm sh")
    terminal.type("Tab")
    terminal.until(r"^\$ vmctl vm show")
    terminal.type("-l", " fro")
    terminal.type("Tab")
    terminal.until(r"^\$ vmctl vm show +frontend-1")


@pytest.mark.parametrize(("shell", "check"), [("bash", "bash -n"), ("zsh", "zsh -n"), ("fish", "fish --no-execute")])
def test_each_shell_gets_a_script_that_it_can_read(vmctl: Command, shell: str, check: str) -> None:
    script = vmctl.run("completion", shell).stdout
    assert "vmctl" in script
    if shutil.which(shell):
        subprocess.run(shlex.split(check), input=script, text=True, check=True)
