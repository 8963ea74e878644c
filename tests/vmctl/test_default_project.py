"""VMCTL_PROJECT: the project that a command means if it has no --project."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.vmctl.conftest import Command
from tests.vmctl.doubles import Service, answer, listening, operation, problem, projects
from vmctl.client import AmbiguousNameError, NotFoundError

PROJECTS = projects("shop", "other")
SHOP, OTHER = (project["id"] for project in PROJECTS["items"])
SHARED = ("vms", "volumes", "snapshots")
# The things of both projects have the same names.
WEB = {SHOP: "3f0c5a4e-8d2b-4c6f-9a71-5e0d1c2b3a49", OTHER: "7d1b6c58-0c2e-4f7a-8a55-b6f1de0a9c13"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def answers(request: httpx.Request) -> httpx.Response:
    """What a service answers that has two projects, with a thing of the same name in each, and refuses the rest."""
    kind, _, rest = request.url.path.removeprefix("/api/v1/").partition("/")
    if kind == "projects":
        found = [project for project in PROJECTS["items"] if project["id"] == rest]
        return (answer(found[0]) if found else problem("not_found", 404)) if rest else answer(PROJECTS)
    if kind in SHARED and not rest and request.method == "GET" and "status" not in request.url.params:
        wanted = request.url.params.get("project_id")
        found = [{"id": id, "name": "web-1"} for project, id in WEB.items() if wanted in {None, project}]
        return answer({"items": found, "next_cursor": None})
    return problem("not_found", 404)


@pytest.fixture
def service(alone: Command) -> Iterator[Service]:
    """The service that the command uses."""
    service = Service(answers)
    with listening(service) as alone.environment["VMCTL_URL"]:
        yield service


def asked(service: Service) -> list[str | None]:
    """The project of each request that is not for projects themselves."""
    others = [request for request in service.requests if "/projects" not in request.url.path]
    bodies = [json.loads(request.content or "{}") for request in others]
    return [
        request.url.params.get("project_id", body.get("project_id"))
        for request, body in zip(others, bodies, strict=True)
    ]


IN_A_PROJECT = [
    ("vm", "list", "--status", "ACTIVE"),
    ("vm", "delete", "-l", "env=tmp", "--yes"),
    ("vm", "create", "web-2", "-f", "m1.tiny"),
    ("--validate-only", "vm", "create", "web-2", "-f", "m1.tiny"),
    ("volume", "list", "--status", "AVAILABLE"),
    ("volume", "create", "data", "--size", "1"),
    ("snapshot", "list", "--status", "AVAILABLE"),
    ("op", "list"),
    ("quota", "show"),
]


@pytest.mark.parametrize("arguments", IN_A_PROJECT, ids=" ".join)
def test_a_command_means_the_project_of_the_variable_if_it_has_none(alone: Command, arguments: tuple[str, ...]) -> None:
    service = Service(lambda request: answers(request) if "/projects" in request.url.path else problem("no", 404))
    with listening(service) as alone.environment["VMCTL_URL"]:
        for variables, options, project in (
            ({}, (), None),
            ({"VMCTL_PROJECT": "shop"}, (), SHOP),
            ({"VMCTL_PROJECT": f" {SHOP}\n"}, (), SHOP),
            ({"VMCTL_PROJECT": "shop"}, ("--project", "other"), OTHER),
            ({"VMCTL_PROJECT": ""}, ("--project", "other"), OTHER),
        ):
            service.requests.clear()
            Command(alone.environment | variables).run(*arguments, *options, code=4)
            assert asked(service) == [project]


NAMED = [
    *(("vm", action, "web-1") for action in ("show", "start", "stop", "reboot", "confirm-resize", "revert-resize")),
    *(("vm", action, "web-1") for action in ("log", "console", "watch")),
    ("vm", "resize", "web-1", "-f", "m1.tiny"),
    ("vm", "rename", "web-1", "web-2"),
    ("vm", "label", "web-1", "env=prod"),
    ("vm", "delete", "web-1", "--yes"),
    ("vm", "create", "a", "-f", "m1.tiny", "--snapshot", "web-1"),
    ("vm", "create", "a", "-f", "m1.tiny", "--boot-volume", "web-1"),
    ("vm", "create", "a", "-f", "m1.tiny", "--volume", "web-1"),
    *(("volume", action, "web-1") for action in ("show", "detach")),
    ("volume", "extend", "web-1", "--size", "2"),
    ("volume", "attach", "web-1", "web-1"),
    ("volume", "delete", "web-1", "--yes"),
    ("snapshot", "list", "--vm", "web-1"),
    ("snapshot", "show", "web-1"),
    ("snapshot", "create", "web-1", "before"),
    ("snapshot", "restore", "web-1", "--yes"),
    ("snapshot", "delete", "web-1", "--yes"),
    ("interface", "list", "web-1"),
    ("interface", "attach", "web-1", "private"),
    ("interface", "detach", "web-1", "10.0.0.1"),
    ("op", "list", "--vm", "web-1"),
]


def sent(request: httpx.Request) -> str:
    """Everything that a request says."""
    return f"{request.url} {request.content.decode()}"


@pytest.mark.parametrize("arguments", NAMED, ids=" ".join)
def test_a_name_is_looked_for_in_the_project_of_the_variable(
    alone: Command, service: Service, arguments: tuple[str, ...]
) -> None:
    refused = alone.run(*arguments, code=1).stderr
    assert refused.endswith("Or set VMCTL_PROJECT to the project of the one that you mean.\n")
    service.requests.clear()
    alone.environment["VMCTL_PROJECT"] = "shop"
    alone.run(*arguments, code=4)
    assert sum("/projects" in request.url.path for request in service.requests) == 1
    assert WEB[SHOP] in sent(service.requests[-1])
    assert not any(word in sent(request) for request in service.requests for word in (OTHER, WEB[OTHER]))


@pytest.mark.parametrize("arguments", NAMED, ids=" ".join)
@pytest.mark.parametrize("project", ["shop", "nowhere", UNKNOWN, ""])
def test_an_id_works_whatever_the_variable_says(
    alone: Command, service: Service, arguments: tuple[str, ...], project: str
) -> None:
    if arguments[:2] == ("vm", "create"):
        return  # it goes into the project of the variable
    alone.environment["VMCTL_PROJECT"] = project
    alone.run(*(WEB[OTHER] if word == "web-1" else word for word in arguments), code=4)
    [request] = service.requests
    assert WEB[OTHER] in sent(request)
    assert "project_id" not in sent(request)


@pytest.mark.parametrize(
    "arguments",
    [
        ("vm", "create", "a", "-f", "m1.tiny", "--snapshot", "web-1", "--volume", "web-1", "--boot-volume", "web-1"),
        ("op", "list", "--vm", "web-1"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("variables", [{}, {"VMCTL_PROJECT": "shop"}])
def test_a_name_is_looked_for_in_the_named_project(
    alone: Command, service: Service, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    Command(alone.environment | variables).run(*arguments, "--project", "other", code=4)
    assert sum("/projects" in request.url.path for request in service.requests) == 1
    assert set(asked(service)) == {OTHER}
    assert sent(service.requests[-1]).count(WEB[OTHER]) == len([word for word in arguments if word == "web-1"])


@pytest.mark.parametrize("arguments", [*IN_A_PROJECT, ("vm", "stop", "web-1"), ("vm", "watch")], ids=" ".join)
def test_an_empty_or_unknown_project_is_an_error(alone: Command, service: Service, arguments: tuple[str, ...]) -> None:
    for project in ("", " ", "\u00a0"):
        alone.environment["VMCTL_PROJECT"] = project
        said = alone.run(*arguments, code=64).stderr
        assert said == "vmctl: VMCTL_PROJECT is empty. Give it a value, or unset it.\n"
    assert service.requests == []
    alone.environment["VMCTL_PROJECT"] = "nowhere"
    said = alone.run(*arguments, code=4).stderr
    assert said == "vmctl: None of your projects has the name nowhere.\nThis is the value of VMCTL_PROJECT.\n"
    alone.environment["VMCTL_PROJECT"] = UNKNOWN
    said = alone.run(*arguments, code=4).stderr
    assert said == "vmctl: It is not_found.\nThis is the value of VMCTL_PROJECT.\n(not_found, request r-1)\n"
    assert all("/projects" in request.url.path for request in service.requests)


def test_a_name_that_two_projects_have_is_refused_with_the_variable(alone: Command) -> None:
    alone.environment["VMCTL_PROJECT"] = "shop"
    service = Service(lambda _: answer(projects("shop", "shop")))
    with listening(service) as alone.environment["VMCTL_URL"]:
        said = alone.run("vm", "list", code=1).stderr
    assert said.startswith("vmctl: 2 projects have the name shop. Use an id:\n")
    assert said.endswith("\nThis is the value of VMCTL_PROJECT.\n")


def test_what_is_missing_says_where_it_was_looked_for(alone: Command, service: Service) -> None:
    none = "vmctl: None of your vms has the name web-2.\n"
    assert alone.run("vm", "show", "web-2", code=4).stderr == none
    where = "It was looked for only in the project that {} names.\n"
    assert alone.run("op", "list", "--vm", "web-2", "-p", "shop", code=4).stderr == none + where.format("--project")
    alone.environment["VMCTL_PROJECT"] = "shop"
    assert alone.run("vm", "show", "web-2", code=4).stderr == none + where.format("VMCTL_PROJECT")
    assert service.requests


@pytest.mark.parametrize(
    "arguments",
    [
        *((kind, "list") for kind in ("flavor", "image", "network", "zone", "security-group")),
        *((kind, "list") for kind in ("token", "ssh-key", "user", "audit")),
        ("whoami",),
        ("op", "show", UNKNOWN),
        ("op", "wait", UNKNOWN),
        ("op", "cancel", UNKNOWN),
        ("project", "show", UNKNOWN),
        ("quota", "show", "--as-admin", "-p", UNKNOWN),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("project", ["shop", ""])
def test_what_is_in_no_project_ignores_the_variable(
    alone: Command, service: Service, arguments: tuple[str, ...], project: str
) -> None:
    alone.environment["VMCTL_PROJECT"] = project
    alone.run(*arguments, code=4)
    [request] = service.requests
    assert SHOP not in sent(request)


def test_the_guards_of_a_delete_are_about_its_options(alone: Command, service: Service) -> None:
    """--project together with names is a mistake; the variable is there for both."""
    alone.run("vm", "delete", "web-1", "--project", "shop", "--yes", code=64)
    alone.environment["VMCTL_PROJECT"] = "shop"
    alone.run("vm", "delete", "--yes", code=64)
    alone.run("quota", "show", "--as-admin", code=64)
    alone.run("snapshot", "list", "--vm", "web-1", "--project", "shop", code=64)
    assert service.requests == []
    assert "Delete 1 VM: web-1?" in alone.run("vm", "delete", "web-1", code=64).stderr


@pytest.mark.parametrize(
    ("line", "variables", "project"),
    [
        ("vmctl vm show ", {}, None),
        ("vmctl vm show ", {"VMCTL_PROJECT": "shop"}, SHOP),
        ("vmctl volume show w", {"VMCTL_PROJECT": SHOP}, SHOP),
        ("vmctl snapshot show w", {"VMCTL_PROJECT": "shop"}, SHOP),
        ("vmctl op list -p other --vm ", {"VMCTL_PROJECT": "shop"}, OTHER),
    ],
)
def test_completion_reads_the_names_of_the_project(
    alone: Command, service: Service, line: str, variables: dict[str, str], project: str | None
) -> None:
    words = {"_VMCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    Command(alone.environment | words | variables).run()
    assert asked(service) == [project]


@pytest.mark.parametrize("project", ["", "nowhere", UNKNOWN])
def test_completion_prints_nothing_of_a_project_that_it_cannot_use(
    alone: Command, service: Service, project: str
) -> None:
    words = {"_VMCTL_COMPLETE": "complete_bash", "COMP_WORDS": "vmctl vm show ", "COMP_CWORD": "3"}
    done = Command(alone.environment | words | {"VMCTL_PROJECT": project}).run()
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert asked(service) == []


@pytest.mark.parametrize(
    ("variables", "actions"), [({}, ["stop", "start"]), ({"VMCTL_PROJECT": SHOP}, ["start"])], ids=["all", "shop"]
)
def test_a_watch_shows_only_changes_in_the_project(
    alone: Command, variables: dict[str, str], actions: list[str]
) -> None:
    changes = [operation(action=action, project_id=id) for action, id in (("stop", OTHER), ("start", SHOP))]
    text = "".join(f"id: 1\nevent: operation\ndata: {json.dumps(change)}\n\n" for change in changes)
    stream = httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})
    streams = iter([stream, problem("forbidden", 403)])
    service = Service(lambda request: answers(request) if "/projects" in request.url.path else next(streams))
    with listening(service) as alone.environment["VMCTL_URL"]:
        shown = Command(alone.environment | variables).run("vm", "watch", "-o", "json", code=1).stdout
    lines = [json.loads(line) for line in shown.splitlines()]
    assert lines[0] == {"event": "reset", "resource": None}
    assert [line["resource"]["action"] for line in lines[1:]] == actions


def test_the_client_looks_for_a_name_in_one_project_or_in_all() -> None:
    service = Service(answers)
    client = service.client()
    for kind in (client.vms, client.volumes, client.snapshots):
        assert str(kind.find_id("web-1", project_id=SHOP)) == WEB[SHOP]
        assert str(kind.find_id(WEB[OTHER], project_id=SHOP)) == WEB[OTHER]
        with pytest.raises(NotFoundError):
            kind.find("web-2", project_id=SHOP)
        with pytest.raises(AmbiguousNameError, match=r"^2 [a-z]+ have the name web-1"):
            kind.find("web-1")
