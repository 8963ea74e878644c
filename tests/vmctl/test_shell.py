"""The command in shells and scripts that make mistakes, or that close, fill and end what it needs."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from unittest import mock

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.meta.files import ROOT
from tests.vmctl.conftest import Command
from tests.vmctl.doubles import Service, answer, listening, operation, problem, projects, tokens
from vmctl.cli import main, names
from vmctl.cli.output import field, styled
from vmctl.client.models import OperationStatus

ID = "3f0c5a4e-8d2b-4c6f-9a71-5e0d1c2b3a49"
NAME = "caf\u00e9 \U0001f600"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background jobs, and so perhaps these tests, ignore Ctrl-C, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def in_a_shell(command: Command, line: str, code: int) -> str:
    """Run a line in a shell, expect an exit code, and return what it has said. It says no more than a few lines."""
    done = subprocess.run(
        ["bash", "-c", line], env=command.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_standard_stream_that_is_closed_or_full_is_an_error_in_words(alone: Command) -> None:
    with listening(Service(lambda _: answer(projects("a")))) as alone.environment["VMCTL_URL"]:
        for line, reason in (
            ("vmctl project list >&-", "Bad file descriptor"),
            ("vmctl project list >/dev/full", "No space left on device"),
            ("vmctl project list -o json >/dev/full", "No space left on device"),
        ):
            assert in_a_shell(alone, line, 1) == f"vmctl: Input or output has failed: {reason}\n"
        assert "Cannot read the password" in in_a_shell(alone, "vmctl login -u ada --password-stdin <&-", 64)
        assert "Cannot read -" in in_a_shell(alone, "vmctl vm create a -f m1.tiny --user-data - <&-", 64)
        assert in_a_shell(alone, "vmctl project list 2>&- | grep -q a", 0) == ""
        assert in_a_shell(alone, "vmctl vm shwo 2>/dev/full", 1) == ""


@pytest.mark.parametrize(
    "line",
    [
        "vmctl ssh-key add a /dev/zero",
        "vmctl vm create a -f m1.tiny --user-data /dev/zero",
        "vmctl vm create a -f m1.tiny --user-data - </dev/zero",
        "vmctl vm create a -f m1.tiny --ssh-key /dev/zero",
        "vmctl login -u ada --password-stdin </dev/zero",
    ],
)
def test_a_file_without_an_end_is_given_up(alone: Command, line: str) -> None:
    service = Service([])
    with listening(service) as alone.environment["VMCTL_URL"]:
        said = in_a_shell(alone, f"ulimit -v 4000000; {line}", 64)
    assert "more than 65,536 " in said
    assert service.requests == []


def test_a_name_with_letters_that_the_output_lacks_is_shown(alone: Command) -> None:
    with listening(Service(lambda _: answer(projects(NAME)))) as alone.environment["VMCTL_URL"]:
        shown = {
            output: in_ascii(alone, "project", "list", "-o", output) for output in ("table", "wide", "json", "yaml")
        }
    assert r"caf\xe9 \U0001f600" in shown["table"]
    assert r"caf\xe9 \U0001f600" in shown["wide"]
    assert json.loads(shown["json"])[0]["name"] == yaml.safe_load(shown["yaml"])[0]["name"] == NAME


def in_ascii(command: Command, *arguments: str) -> str:
    """What the command writes to an output that knows no other letters."""
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    arrangement = mock.patch.multiple(sys, argv=["vmctl", *arguments], stdout=out)
    with mock.patch.dict(os.environ, command.environment, clear=True), arrangement, pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 0
    return written.getvalue().decode("ascii")


def test_a_configuration_that_cannot_be_written_is_an_error_in_words(alone: Command) -> None:
    alone.environment["XDG_CONFIG_HOME"] = os.devnull
    service = Service([answer(tokens("1").model_dump()), problem("invalid_token", 401)])
    with listening(service) as alone.environment["VMCTL_URL"]:
        failed = alone.run("login", "-u", "ada", "--password-stdin", input="secret\n", code=1).stderr
        assert failed.startswith("vmctl: Cannot use /dev/null/vmctl/config.json: ")
        alone.run("project", "list", code=3)


DISTURBANCES = [
    {"VMCTL_URL": "ftp://vm.example"},
    {"VMCTL_TOKEN": "a b"},
    {"VMCTL_URL": "http://vm.example", "ALL_PROXY": "socks5://proxy.example"},
    {"XDG_CONFIG_HOME": os.devnull},
    {},
]


@pytest.mark.parametrize("variables", DISTURBANCES)
def test_completion_prints_nothing_where_it_can_offer_nothing(
    alone: Command, tmp_path: Path, variables: dict[str, str]
) -> None:
    (tmp_path / "config/vmctl").mkdir(parents=True)
    (tmp_path / "config/vmctl/config.json").write_text("{")
    words = {"_VMCTL_COMPLETE": "complete_bash", "COMP_WORDS": "vmctl vm show ", "COMP_CWORD": "3"}
    done = Command(alone.environment | words | variables).run()
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_completion_offers_no_name_that_a_shell_would_run_or_take_for_an_option(alone: Command) -> None:
    names = [
        "web-1",
        "caf\u00e9",
        "v1.2_a",
        "web$(id)",
        "web`id`",
        r"web\$(id)",
        "web;id",
        "web 1",
        "-l=!a",
        'web"',
        "~a",
    ]
    words = {"_VMCTL_COMPLETE": "complete_bash", "COMP_WORDS": "vmctl vm list --project ", "COMP_CWORD": "4"}
    with listening(Service(lambda _: answer(projects(*names)))) as alone.environment["VMCTL_URL"]:
        assert Command(alone.environment | words).run().stdout.splitlines() == ["web-1", "caf\u00e9", "v1.2_a"]


def test_completion_offers_what_it_has_read_when_its_time_is_over(
    alone: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list may be slow, or have no end."""
    readers: list[Thread] = []
    is_asked_again, is_over = Event(), Event()

    def list_slowly(request: httpx.Request) -> httpx.Response:
        if "cursor" not in request.url.params:
            return answer(projects("web-1") | {"next_cursor": "1"})
        is_asked_again.set()
        is_over.wait(10)
        return answer(projects("web-2"))

    class Reader(Thread):
        def join(self, timeout: float | None = None) -> None:
            assert timeout == 3
            readers.append(self)
            is_asked_again.wait(60)

    monkeypatch.setattr(names, "Thread", Reader)
    words = {"_VMCTL_COMPLETE": "complete_bash", "COMP_WORDS": "vmctl vm list --project w", "COMP_CWORD": "4"}
    with listening(Service(list_slowly)) as alone.environment["VMCTL_URL"]:
        offered = Command(alone.environment | words).run().stdout.splitlines()
        is_over.set()
        Thread.join(readers[0])
    assert offered == ["web-1"]


def test_a_table_shows_a_name_so_that_it_cannot_be_taken_for_another(alone: Command) -> None:
    names = ["db\u00a0-1", "a" + 9 * " " + "web", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "flag\U000e0067"]
    with listening(Service(lambda _: answer(projects(*names)))) as alone.environment["VMCTL_URL"]:
        text = alone.run("project", "list").stdout
    shown = [line.partition("  ")[0] for line in text.splitlines()[1:]]
    assert shown == [r"db\xa0-1", '"a', names[2], r"flag\U000e0067"]
    assert f'"{names[1]}"' in text


def test_labels_are_shown_apart_and_whole_whatever_their_names() -> None:
    labels = {"id": "1", "name": "env=prod, tier=web", "env": "test"}
    row = {"labels": labels, "flavor": {"id": "1", "name": "m1.tiny"}}
    shown = [styled(field(name).cell(row)).plain for name in row]
    assert shown == ['id=1, name="env=prod, tier=web", env=test', "m1.tiny"]


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_what_could_steer_a_terminal_is_escaped(alone: Command, output: str) -> None:
    name = "caf\u00e9 \x1b[2J \u202e\x9b\x7f"
    with listening(Service(lambda _: answer(projects(name)))) as alone.environment["VMCTL_URL"]:
        text = alone.run("project", "list", "-o", output).stdout
    assert text.replace("\n", "").isprintable()
    assert yaml.safe_load(text)[0]["name"] == name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_wait_as_ctrl_c_does(alone: Command, number: signal.Signals) -> None:
    body = operation(OperationStatus.RUNNING, id=ID)
    service = Service(lambda request: problem("gone", 404) if "event" in str(request.url) else answer(body))
    ours, theirs = pty.openpty()
    with listening(service) as alone.environment["VMCTL_URL"]:
        command = [sys.executable, "-m", "vmctl", "op", "wait", ID]
        with subprocess.Popen(command, env=alone.environment, cwd=ROOT, stderr=theirs) as waiting:
            os.close(theirs)
            seen = b""
            while b"create" not in seen:
                seen += os.read(ours, 10_000)
            waiting.send_signal(number)
            assert waiting.wait(60) == 128 + number
    rest = rest_of(ours)
    assert b"\x1b[?25l" in seen  # the cursor is hidden
    assert rest.rindex(b"\x1b[?25h") > rest.rfind(b"\x1b[?25l")
    assert f"Wait again with: vmctl op wait {ID}".encode() in rest


def rest_of(terminal: int) -> bytes:
    """What is still to be read from a terminal that nobody else has open."""
    rest = b""
    try:
        while more := os.read(terminal, 10_000):
            rest += more
    except OSError:  # Linux says so that it is closed
        pass
    os.close(terminal)
    return rest


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Command(dict(os.environ)).run("version")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_ctrl_c_before_the_command_has_begun_ends_it_without_a_traceback(
    alone: Command, tmp_path: Path, handler: signal.Handlers
) -> None:
    """It takes most of a second to import what it is made of."""
    (tmp_path / "typer.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(1)\nraise SystemExit(7)\n"
    )
    if handler is signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
    command = [sys.executable, "-m", "vmctl"]
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    with subprocess.Popen(
        command,
        env=alone.environment | {"PYTHONPATH": paths},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as importing:
        assert importing.stdout
        assert importing.stdout.readline() == "importing\n"
        importing.send_signal(signal.SIGINT)
        _, said = importing.communicate(timeout=60)
    assert (importing.returncode, said) == (7 if handler is signal.SIG_IGN else -signal.SIGINT, "")
