"""The command on a real stack: what it does, what it prints, and its exit codes."""

import json
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.settings import Settings
from tests.support.stack import Stack
from tests.support.users import PASSWORD
from tests.vmctl.conftest import Command


def test_the_life_of_a_vm(vmctl: Command, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    new = ("web-1", "-f", "m1.tiny", "--label", "env=prod", "--ssh-key", str(tmp_path / "id.pub"))
    created = vmctl.run("vm", "create", *new, "--wait", "-o", "json")
    vm = json.loads(created.stdout)
    assert (vm["status"], vm["labels"]) == ("ACTIVE", {"env": "prod"})
    assert "create web-1: succeeded" in created.stderr
    assert vmctl.names("ssh-key", "list") == ["id"]
    assert vmctl.json("vm", "show", "web-1")["id"] == vmctl.json("vm", "show", vm["id"])["id"] == vm["id"]
    resized = vmctl.json("vm", "resize", "web-1", "-f", "m1.small", "--confirm")
    assert resized["status"] == "ACTIVE"
    assert resized["flavor_id"] != vm["flavor_id"]
    assert vmctl.json("vm", "stop", "web-1", "--wait")["status"] == "SHUTOFF"
    refused = vmctl.run("vm", "stop", "web-1", code=1)
    assert "invalid_transition" in refused.stderr
    assert vmctl.json("vm", "start", "web-1", "--wait")["status"] == "ACTIVE"
    assert vmctl.json("vm", "reboot", "web-1", "--hard", "--wait")["status"] == "ACTIVE"
    assert vmctl.json("vm", "label", "web-1", "tier=front", "env-")["labels"] == {"tier": "front"}
    assert vmctl.json("vm", "rename", "web-1", "front-1")["name"] == "front-1"
    assert vmctl.run("vm", "log", "front-1").stdout
    vmctl.run("vm", "delete", "front-1", "--yes", "--wait")
    assert vmctl.json("vm", "list") == []
    actions = [operation["action"] for operation in vmctl.json("op", "list", "--vm", vm["id"])]
    assert actions == ["delete", "reboot", "start", "stop", "confirm-resize", "resize", "create"]


def test_a_fleet(vmctl: Command) -> None:
    fleet = [f"web-{number}" for number in range(1, 6)]
    vmctl.run("vm", "create", *fleet, "-f", "m1.tiny", "--label", "env=prod", "--wait")
    vmctl.run("vm", "create", "other", "-f", "m1.tiny", "--wait")
    assert vmctl.names("vm", "list", "-l", "env=prod") == fleet
    table = vmctl.run("vm", "list", "--sort", "name").stdout.splitlines()
    assert [line.split()[:2] for line in table] == [
        ["NAME", "STATUS"],
        *([name, "ACTIVE"] for name in ["other", *fleet]),
    ]
    assert len(vmctl.json("vm", "list", "--limit", "2")) == 2
    refused = vmctl.run("vm", "delete", "-l", "env=prod", code=64)
    assert "Add --yes" in refused.stderr
    vmctl.run("vm", "delete", "-l", "env=prod", "--yes", "--wait")
    assert vmctl.names("vm", "list") == ["other"]


def test_a_trial_says_what_the_service_would_and_changes_nothing(vmctl: Command, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    new = ("vm", "create", "web-1", "web-2", "--ssh-key", str(tmp_path / "id.pub"), "--wait")
    tried = vmctl.run("--validate-only", *new, "-f", "m1.tiny")
    assert (tried.stdout, tried.stderr) == ("", "The service would accept this. Nothing was changed.\n")
    assert "#/vms/0/flavor" in vmctl.run("--validate-only", *new, "-f", "m1.nothing", code=1).stderr
    assert (vmctl.json("vm", "list"), vmctl.json("ssh-key", "list")) == ([], [])
    vmctl.run("vm", "create", "web-1", "-f", "m1.tiny", "--wait")
    assert "invalid_transition" in vmctl.run("--validate-only", "vm", "start", "web-1", code=1).stderr
    assert "cannot be tried" in vmctl.run("--validate-only", "vm", "delete", "web-1", "--yes", code=1).stderr
    assert vmctl.names("vm", "list") == ["web-1"]
    for command in (("logout",), ("logout", "--everywhere"), ("password", "--password-stdin")):
        assert "cannot be tried" in vmctl.run("--validate-only", *command, code=1, input="one\ntwo\n").stderr
    assert vmctl.run("whoami")


def test_a_fleet_with_one_mistake_is_not_begun(vmctl: Command) -> None:
    refused = vmctl.run("vm", "create", "good", "bad\x01", "-f", "m1.tiny", code=1)
    assert "#/vms/1/name" in refused.stderr
    assert vmctl.json("vm", "list") == []


def test_storage_and_networks(vmctl: Command) -> None:
    vmctl.run("vm", "create", "db-1", "-f", "m1.tiny", "--wait")
    vmctl.run("volume", "create", "data", "--size", "1", "--label", "tier=db", "--wait")
    assert vmctl.json("volume", "attach", "data", "db-1", "--wait")["status"] == "ATTACHED"
    assert vmctl.json("volume", "extend", "data", "--size", "2", "--wait")["size_gb"] == 2
    vmctl.run("volume", "detach", "data", "--wait")
    assert vmctl.json("volume", "list", "-l", "tier=db")[0]["status"] == "AVAILABLE"
    assert vmctl.json("snapshot", "create", "db-1", "before", "--wait")["status"] == "AVAILABLE"
    vmctl.run("snapshot", "restore", "before", "--yes", "--wait")
    attached = vmctl.json("interface", "attach", "db-1", "backend", "--wait")
    vmctl.run("interface", "detach", "db-1", attached["ip_address"], "--wait")
    assert len(vmctl.json("interface", "list", "db-1")) == 1
    vmctl.run(
        "vm", "create", "db-2", "-f", "m1.small", "--snapshot", "before", "--volume", "data", "--no-network", "--wait"
    )
    vmctl.run("vm", "delete", "db-1", "db-2", "--yes", "--wait")
    assert vmctl.names("snapshot", "list") == ["before"]
    vmctl.run("snapshot", "delete", "before", "--yes", "--wait")
    vmctl.run("volume", "delete", "data", "--yes", "--wait")
    assert vmctl.json("volume", "list") == vmctl.json("snapshot", "list") == []


@pytest.mark.parametrize("kind", ["flavor", "image", "network", "zone", "security-group"])
def test_the_catalogues(vmctl: Command, kind: str) -> None:
    assert vmctl.names(kind, "list")


async def test_an_operation_that_fails_prints_its_reason_and_exits_with_2(vmctl: Command, cloud: Settings) -> None:
    await add_fault(cloud, "create_server", FaultMode.REFUSE)
    failed = vmctl.run("vm", "create", "web-1", "-f", "m1.tiny", "--wait", code=2)
    assert "FAILED" in failed.stderr
    assert "vmctl op show " in failed.stderr
    assert failed.stdout == ""
    [operation] = vmctl.json("op", "list")
    vmctl.run("op", "wait", operation["id"], code=2)
    vmctl.run("vm", "delete", "web-1", "--yes", "--wait")


def test_a_wait_that_takes_too_long_says_how_to_go_on(vmctl: Command) -> None:
    late = vmctl.run("vm", "create", "web-1", "-f", "m1.tiny", "--wait", "--timeout", "0", code=124)
    assert late.stderr.splitlines()[-1].startswith("Wait again with: vmctl op wait ")
    vmctl.run(*late.stderr.splitlines()[-1].partition("vmctl ")[2].split())
    assert vmctl.json("vm", "show", "web-1")["status"] == "ACTIVE"


def test_what_happens_can_be_watched(vmctl: Command) -> None:
    # A shell's background jobs, and so perhaps these tests, ignore Ctrl-C, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = ["vmctl", "vm", "watch", "-o", "json"]
    with subprocess.Popen(command, env=vmctl.environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        lines = (json.loads(line) for line in watching.stdout)
        assert next(lines) == {"event": "reset", "resource": None}
        vm = vmctl.json("vm", "create", "web-1", "-f", "m1.tiny")
        seen = []
        for line in lines:
            seen.append((line["event"], line["resource"]["status"]))
            if line["resource"]["id"] == vm["operation_id"] and line["resource"]["status"] == "SUCCEEDED":
                break
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
    assert {("vm", "BUILDING"), ("operation", "RUNNING")} <= set(seen)


def test_an_operation_can_be_canceled(vmctl: Command) -> None:
    vm = vmctl.json("vm", "create", "web-1", "-f", "m1.tiny")
    vmctl.run("op", "cancel", vm["operation_id"])
    assert "CANCELED" in vmctl.run("op", "wait", vm["operation_id"], code=2).stderr


def test_who_is_not_logged_in_is_told_what_to_do(stranger: Command) -> None:
    assert "vmctl login" in stranger.run("vm", "list", code=3).stderr


def test_a_wrong_password_is_no_login(vmctl: Command) -> None:
    name = vmctl.json("whoami")["username"]
    vmctl.run("logout")
    vmctl.run("login", "-u", name, "--password-stdin", input="wrong\n", code=3)
    vmctl.run("vm", "list", code=3)
    vmctl.run("login", "-u", name, "--password-stdin", input=f"{PASSWORD}\n")
    vmctl.run("vm", "list")


def test_the_login_is_kept_in_a_private_file(vmctl: Command) -> None:
    file = Path(vmctl.environment["XDG_CONFIG_HOME"]) / "vmctl/config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    del vmctl.environment["VMCTL_URL"]  # the service of the login is the one that commands use
    vmctl.run("whoami")


def test_a_program_uses_a_token(vmctl: Command) -> None:
    token = vmctl.json("token", "create", "robot")
    vmctl.environment |= {"VMCTL_TOKEN": token["token"], "XDG_CONFIG_HOME": "/nowhere"}
    assert vmctl.json("vm", "list") == []
    refused = vmctl.run("vm", "create", "web-1", "-f", "m1.tiny", code=1)
    assert "insufficient_scope" in refused.stderr


def test_an_api_that_restarts_is_waited_for(vmctl: Command, stack: Stack) -> None:
    with stack.without_restarts():
        stack.kill("api")
        listing = subprocess.Popen(["vmctl", "vm", "list"], env=vmctl.environment, stderr=subprocess.PIPE, text=True)
        time.sleep(2)
    _, said = listing.communicate(timeout=60)
    assert listing.returncode == 0, said
    assert said.startswith("Cannot reach ")


def test_what_does_not_exist(vmctl: Command) -> None:
    assert "None of your vms has the name web-1." in vmctl.run("vm", "show", "web-1", code=4).stderr
    vmctl.run("vm", "show", "00000000-0000-4000-8000-000000000000", code=4)


@pytest.mark.parametrize(
    "arguments",
    [("vm", "shwo"), ("vm", "list", "--nope"), ("vm", "create", "a"), ("vm", "delete"), ("user", "enable", "..")],
)
def test_a_mistyped_command_is_not_taken_for_a_failed_operation(stranger: Command, arguments: tuple[str, ...]) -> None:
    stranger.run(*arguments, code=64)


def test_a_name_that_two_vms_have_is_refused_with_their_ids(vmctl: Command) -> None:
    vmctl.run("vm", "create", "twin", "twin", "-f", "m1.tiny", "--wait")
    ids = [vm["id"] for vm in vmctl.json("vm", "list")]
    refused = vmctl.run("vm", "stop", "twin", code=1).stderr
    assert all(id in refused for id in ids)
    vmctl.run("vm", "delete", *ids, "--yes", "--wait")


def test_a_reader_that_ends_early_is_no_error(vmctl: Command) -> None:
    done = subprocess.run(
        ["bash", "-c", "vmctl flavor list -o json | true"],
        env=vmctl.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
