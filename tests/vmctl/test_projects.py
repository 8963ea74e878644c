"""The commands for what is shared, and for accounts, on a real stack."""

import shutil
from uuid import uuid4

import pytest

from tests.support.stack import Stack
from tests.support.users import PASSWORD, add_account
from tests.vmctl.conftest import Command

NEW_PASSWORD = "Another-Horse-2"


@pytest.fixture
async def grace(stack: Stack, stranger: Command, vmctl: Command) -> Command:
    """The command of another user, who has logged in on another machine."""
    folder = f"{vmctl.environment['XDG_CONFIG_HOME']}-of-grace"
    other = Command({**stranger.environment, "XDG_CONFIG_HOME": folder})
    other.run("login", "-u", await add_account(stack), "--password-stdin", input=f"{PASSWORD}\n")
    return other


@pytest.fixture
async def admin(stack: Stack, grace: Command) -> Command:
    """The command of an admin."""
    name = grace.json("whoami")["username"]
    await stack.sql("UPDATE users SET role = 'admin' WHERE username = $1", name)
    return grace


def test_a_project_is_shared_and_left(vmctl: Command, grace: Command) -> None:
    name = grace.json("whoami")["username"]
    project = vmctl.json("project", "create", "web-shop")
    assert (project["name"], project["role"]) == ("web-shop", "owner")
    assert vmctl.json("project", "show", "web-shop") == vmctl.json("project", "show", project["id"]) == project
    assert "None of your projects" in grace.run("project", "show", "web-shop", code=4).stderr
    added = vmctl.json("project", "add-member", "web-shop", name)
    assert (added["username"], added["role"]) == (name, "reader")
    assert grace.json("project", "show", "web-shop")["role"] == "reader"
    refused = grace.run("vm", "create", "web-1", "-f", "m1.tiny", "--project", "web-shop", code=1)
    assert "forbidden" in refused.stderr
    assert vmctl.json("project", "add-member", "web-shop", name, "--role", "operator")["role"] == "operator"
    assert [member["role"] for member in vmctl.json("project", "members", "web-shop")] in (
        ["owner", "operator"],
        ["operator", "owner"],
    )
    grace.run("project", "leave", "web-shop", "--yes")
    assert "web-shop" not in grace.names("project", "list")
    vmctl.run("project", "add-member", "web-shop", name)
    vmctl.run("project", "remove-member", "web-shop", name, "--yes")
    assert "web-shop" not in grace.names("project", "list")
    vmctl.run("project", "delete", "web-shop", code=64)  # nobody is there to answer
    vmctl.run("project", "delete", "web-shop", "--yes")
    assert "web-shop" not in vmctl.names("project", "list")


def test_what_is_made_belongs_to_the_project_that_was_named(vmctl: Command) -> None:
    project = vmctl.json("project", "create", "web-shop")
    shared = ("--project", "web-shop")
    vm = vmctl.json("vm", "create", "web-1", "-f", "m1.tiny", "--label", "env=test", *shared, "--wait")
    vmctl.run("vm", "create", "mine", "-f", "m1.tiny", "--label", "env=test", "--wait")
    volume = vmctl.json("volume", "create", "data", "--size", "1", "-p", project["id"], "--wait")
    snapshot = vmctl.json("snapshot", "create", "web-1", "before", "--wait")
    assert {vm["project_id"], volume["project_id"], snapshot["project_id"]} == {project["id"]}
    assert vmctl.names("vm", "list") == ["mine", "web-1"]
    assert vmctl.names("vm", "list", *shared) == ["web-1"]
    assert vmctl.names("volume", "list", *shared) == ["data"]
    assert vmctl.names("snapshot", "list", *shared) == ["before"]
    vmctl.run("snapshot", "list", *shared, "--vm", "web-1", code=64)
    assert {operation["project_id"] for operation in vmctl.json("op", "list", *shared)} == {project["id"]}
    assert "project_in_use" in vmctl.run("project", "delete", "web-shop", "--yes", code=1).stderr
    vmctl.run("vm", "delete", "mine", *shared, "--yes", code=64)
    vmctl.run("vm", "delete", "-l", "env=test", *shared, "--yes", "--wait")
    assert vmctl.names("vm", "list") == ["mine"]


def test_names_that_others_have_chosen_do_not_stop_who_names_the_project(vmctl: Command, grace: Command) -> None:
    name = vmctl.json("whoami")["username"]
    project = grace.json("project", "create", "trap")
    grace.run("project", "add-member", "trap", name, "--role", "operator")
    theirs = grace.json("vm", "create", "web-1", "-f", "m1.tiny", "--label", "a=b", "-p", "trap", "--wait")
    mine = vmctl.json("vm", "create", "web-1", "-f", "m1.tiny", "--label", "a=b", "--wait")
    refused = vmctl.run("vm", "stop", "web-1", code=1).stderr
    assert all(id in refused for id in (mine["id"], theirs["id"]))
    assert "VMCTL_PROJECT" in refused
    at_home = Command({**vmctl.environment, "VMCTL_PROJECT": name})  # the personal project has the user's name
    assert at_home.json("vm", "stop", "web-1", "--wait")["id"] == mine["id"]
    assert at_home.json("vm", "show", theirs["id"])["project_id"] == project["id"]
    assert at_home.json("op", "list", "--vm", theirs["id"])
    assert {operation["project_id"] for operation in at_home.json("op", "list")} == {mine["project_id"]}
    there = Command({**vmctl.environment, "VMCTL_PROJECT": project["id"]})
    assert [vm["id"] for vm in there.json("vm", "list")] == [theirs["id"]]
    assert there.json("volume", "create", "data", "--size", "1", "--wait")["project_id"] == project["id"]
    assert there.json("quota", "show")["volumes"]["used"] == 1
    assert at_home.json("volume", "list") == there.json("volume", "list", "-p", name) == []
    there.run("volume", "create", "w-2", "--size", "1", "--wait")
    words = {"_VMCTL_COMPLETE": "complete_bash", "COMP_WORDS": "vmctl volume show ", "COMP_CWORD": "3"}
    offered = [Command({**at.environment, **words}).run().stdout.split() for at in (at_home, there, vmctl)]
    assert [sorted(names) for names in offered] == [[], ["data", "w-2"], ["data", "w-2"]]
    at_home.run("vm", "delete", "-l", "a=b", "--yes", "--wait")
    assert [vm["id"] for vm in vmctl.json("vm", "list")] == [theirs["id"]]


def test_quotas_are_shown_and_set_by_admins(vmctl: Command, admin: Command) -> None:
    project = vmctl.json("project", "create", "web-shop")
    rows = vmctl.run("quota", "show", "--project", "web-shop").stdout.splitlines()
    assert rows[0].split() == ["QUOTA", "USED", "LIMIT"]
    assert rows[1].split()[:2] == ["vms", "0"]
    assert vmctl.json("quota", "show")["project_id"] == vmctl.json("whoami")["id"]
    assert "admin_only" in vmctl.run("quota", "set", project["id"], "vms=0", code=1).stderr
    changed = admin.json("quota", "set", project["id"], "vms=1", "ram_mb=0")
    assert (changed["vms"]["limit"], changed["ram_mb"]["limit"]) == (1, None)
    assert vmctl.json("quota", "show", "-p", "web-shop")["vms"]["limit"] == 1
    admin.run("quota", "show", "-p", project["id"], code=4)
    assert admin.json("quota", "show", "-p", project["id"], "--as-admin")["vms"]["limit"] == 1
    assert admin.json("quota", "set", project["id"], "vms=default")["vms"]["limit"] != 1


@pytest.mark.parametrize("limit", ["vms", "vms=", "vms=-1", "vms=many", "nonsense=1"])
def test_a_mistyped_quota_is_sent_to_nobody(stranger: Command, limit: str) -> None:
    stranger.run("quota", "set", str(uuid4()), limit, code=64)


def test_a_password_is_changed_and_never_an_argument(vmctl: Command) -> None:
    name = vmctl.json("whoami")["username"]
    wrong = vmctl.run("password", "--password-stdin", input=f"wrong\n{NEW_PASSWORD}\n", code=1)
    assert "wrong_password" in wrong.stderr
    vmctl.run("password", PASSWORD, NEW_PASSWORD, code=64)
    vmctl.run("password", "--password-stdin", input=f"{PASSWORD}\n{NEW_PASSWORD}\n")
    vmctl.run("vm", "list")  # it has logged in again
    vmctl.run("login", "-u", name, "--password-stdin", input=f"{PASSWORD}\n", code=3)


def test_a_logout_everywhere_ends_the_login_on_another_machine(vmctl: Command) -> None:
    folder = vmctl.environment["XDG_CONFIG_HOME"]
    other = Command({**vmctl.environment, "XDG_CONFIG_HOME": f"{folder}-of-the-laptop"})
    shutil.copytree(folder, other.environment["XDG_CONFIG_HOME"])
    other.run("whoami")
    token = vmctl.json("token", "create", "robot", "--write")["token"]
    refused = Command({**vmctl.environment, "VMCTL_TOKEN": token}).run("logout", "--everywhere", code=1)
    assert "login_required" in refused.stderr
    vmctl.run("whoami")  # nothing has ended
    vmctl.run("logout", "--everywhere")
    other.run("whoami", code=3)


def test_an_admin_keeps_a_user_out_and_reads_of_it(vmctl: Command, admin: Command) -> None:
    name = vmctl.json("whoami")["username"]
    assert "admin_only" in vmctl.run("user", "list", code=1).stderr
    [user] = admin.json("user", "list", "--name", name)
    assert (user["role"], user["disabled_at"]) == ("user", None)
    assert admin.json("user", "disable", name, "--yes")["disabled_at"]
    vmctl.run("vm", "create", "web-1", "-f", "m1.tiny", code=3)
    assert [user["username"] for user in admin.json("user", "list", "--name", name, "--disabled")] == [name]
    assert admin.json("user", "enable", name)["disabled_at"] is None
    assert admin.json("user", "role", name, "admin")["role"] == "admin"
    events = [event["event"] for event in admin.json("audit", "list", "--target", name)]
    assert events[:3] == ["change_role", "enable_user", "disable_user"]
    assert admin.json("audit", "list", "--target", name, "--until", "2020-01-01") == []
