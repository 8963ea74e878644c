"""Arguments that are empty, mistyped, too long, or that mean more than somebody thinks."""

import json
import sys
from pathlib import Path

import pytest

from tests.vmctl.conftest import Command
from tests.vmctl.doubles import Service, answer, listening, problem

ID = "3f0c5a4e-8d2b-4c6f-9a71-5e0d1c2b3a49"
NO_NUMBERS = ("1_0", "\u0661\u0660", "\uff11", "1.5", "1e", "-1", "9" * 5000)


EMPTY = [
    ("vm", "delete", "--selector", "env=tmp", "--project", "", "--yes"),
    ("vm", "delete", "--selector", "env=tmp", "--project=", "--yes"),
    ("vm", "delete", "-l", "", "--yes"),
    ("vm", "delete", "", "--yes"),
    ("vm", "list", "--selector", ""),
    ("vm", "list", "--name="),
    ("vm", "watch", ""),
    ("op", "list", "--vm", ""),
    ("snapshot", "list", "--vm", ""),
    ("--validate-only", "vm", "create", "a", "-f", "m1.tiny", "--snapshot", "", "--project", ""),
    ("vm", "create", "a", "-f", "m1.tiny", "--image", ""),
    ("volume", "create", "a", "--size", "1", "-p", ""),
    ("interface", "attach", "a", "private", "--ip", ""),
    ("quota", "show", "-p", ""),
    ("user", "list", "--name", ""),
    ("audit", "list", "--actor", ""),
    ("--url", "", "vm", "list"),
    ("vm", "delete", "-l", "\u00a0", "--yes"),
    ("vm", "delete", "\u3000\t", "--yes"),
    ("vm", "list", "--project=\u00a0"),
    ("vm", "list", "-p \u2003"),
]


@pytest.mark.parametrize("arguments", EMPTY, ids=lambda arguments: ascii(" ".join(arguments)))
def test_an_empty_value_never_means_all_or_the_default(alone: Command, arguments: tuple[str, ...]) -> None:
    service = Service([])
    with listening(service) as alone.environment["VMCTL_URL"]:
        refused = alone.run(*arguments, code=64)
    assert refused.stderr.endswith(" is empty. Give it a value, or leave it out.\n")
    assert service.requests == []


def test_the_option_with_the_empty_value_is_named(alone: Command) -> None:
    assert alone.run("vm", "list", "--project=", code=64).stderr.startswith("vmctl: --project is empty.")
    assert alone.run("vm", "list", "--project=\u00a0", code=64).stderr.startswith("vmctl: --project is empty.")
    assert alone.run("vm", "list", "-p ", code=64).stderr.startswith("vmctl: -p is empty.")
    assert alone.run("vm", "list", "-l", "", code=64).stderr.startswith("vmctl: -l is empty.")
    assert alone.run("vm", "show", "", code=64).stderr.startswith("vmctl: What follows show is empty.")


@pytest.mark.parametrize(
    "arguments",
    [
        *(("op", "wait", ID, "--timeout", seconds) for seconds in ("inf", "nan", "-1")),
        ("vm", "create", "a", "-f", "m1.tiny", "--wait", "--timeout", "inf"),
        ("vm", "create", "a", "-f", "m1.tiny", "--user-data", "/nonexistent"),
        ("vm", "create", "a", "-f", "m1.tiny", "--user-data", "/"),
        ("vm", "create", "a", "-f", "m1.tiny", "--user-data", sys.executable),
        ("vm", "create", "a", "-f", "m1.tiny", "--ssh-key", "~nosuchuser/x.pub"),
        ("ssh-key", "add", "a", "/nonexistent"),
        ("vm", "list", "--limit", "9" * 20),
        ("vm", "list", "--limit", "0"),
        ("vm", "list", "--limit", "1000000001"),
        *(("volume", "create", "a", "--size", number) for number in NO_NUMBERS),
        *(("volume", "extend", "a", "--size", number) for number in NO_NUMBERS),
        *(("vm", "log", "a", "--lines", number) for number in NO_NUMBERS),
        *(("vm", "list", "--limit", number) for number in NO_NUMBERS),
        *(("token", "create", "a", "--expires-in-days", number) for number in NO_NUMBERS),
        *(("op", "wait", ID, "--timeout", number) for number in NO_NUMBERS if number != "1.5"),
        *(("quota", "set", ID, f"vms={number}") for number in NO_NUMBERS),
        ("vm", "list", "--name", "a" * 70_000),
        ("vm", "show", "a" * 70_000),
        ("ssh-key", "delete", "a" * 70_000, "--yes"),
        ("quota", "set", ID, f"vms={'9' * 5000}"),
        ("audit", "list", "--since", "0001-01-01"),
        ("vm", "show", "a\udcff"),
        ("ssh-key", "delete", "a\udcff", "--yes"),
        ("user", "role", "a\udcff", "admin"),
        ("--url", "http://[::1", "login", "-u", "ada", "--password-stdin"),
        ("login", "-u", "ada", "--password-stdin"),
        ("vm", "create", "a", "-f", "m1.tiny", "--network", "private", "--no-network"),
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:60],
)
def test_what_is_mistyped_is_sent_to_nobody(alone: Command, arguments: tuple[str, ...]) -> None:
    service = Service([])
    with listening(service) as alone.environment["VMCTL_URL"]:
        alone.run(*arguments, code=64)
    assert service.requests == []


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_the_end_of_a_line_is_no_part_of_a_password(alone: Command, end: str) -> None:
    """Files of Windows end lines with CR LF, and nobody could type the CR."""
    service = Service(lambda _: problem("invalid_credentials", 401))
    with listening(service) as alone.environment["VMCTL_URL"]:
        alone.run("login", "-u", "ada", "--password-stdin", input=f"secret {end}", code=3)
    assert json.loads(service.requests[0].content)["password"] == "secret "


@pytest.mark.parametrize("file", ["user-data", "-"])
def test_user_data_is_sent_as_it_is(alone: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    text = "#!/bin/sh\r\necho \u00e9\r#\n"
    monkeypatch.chdir(tmp_path)
    Path("user-data").write_bytes(text.encode())
    service = Service(lambda _: problem("forbidden", 403))
    with listening(service) as alone.environment["VMCTL_URL"]:
        alone.run("vm", "create", "a", "-f", "m1.tiny", "--user-data", file, input=text, code=1)
    assert json.loads(service.requests[-1].content)["user_data"] == text


@pytest.mark.parametrize(
    "selector",
    [
        *("env!=", "a,env != ,b", "env notin ()", "env notin (,)", "env notin (a,)", "env notin (a, ,b)"),
        *("env!=\u00a0", "env!= \u3000 ,b", "env notin (\u2003)", "env notin (a,\u00a0)", r"env notin (a\),)"),
        *('env!=""', "env != ''", 'a,env!="",b', 'env notin ("")', "env notin (a, '')", 'env notin ("",a)'),
    ],
    ids=ascii,
)
def test_a_delete_refuses_a_selector_that_means_nearly_all(alone: Command, selector: str) -> None:
    service = Service([])
    with listening(service) as alone.environment["VMCTL_URL"]:
        refused = alone.run("vm", "delete", "-l", selector, "--yes", code=64)
    assert "nearly all VMs" in refused.stderr
    assert service.requests == []


@pytest.mark.parametrize("selector", ["env!=a", "env notin (a,b)", r"env notin (\,)", r"env!=\,", "env=,!tier"])
def test_a_selector_without_empty_values_is_asked_for(alone: Command, selector: str) -> None:
    service = Service(lambda _: answer({"items": [], "next_cursor": None}))
    with listening(service) as alone.environment["VMCTL_URL"]:
        said = alone.run("vm", "delete", "-l", selector, "--yes").stderr
    assert said == "No VM has these labels.\n"
    assert [request.url.params["labels"] for request in service.requests] == [selector]


def test_numbers_are_taken_as_they_are_written(alone: Command) -> None:
    service = Service(lambda _: answer({}))
    with listening(service) as alone.environment["VMCTL_URL"]:
        alone.run("volume", "create", "a", "--size", "10", "--timeout", "1.5", code=1)
        alone.run("token", "create", "a", "--expires-in-days", "007", code=1)
    assert [json.loads(request.content).get("size_gb") for request in service.requests] == [10, None]
    assert json.loads(service.requests[1].content)["expires_in_days"] == 7
