"""Query parameters: none that a path does not have, none twice, none empty."""

from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette import datastructures

from api.web.pages import MAX_LINKS
from api.web.query import MAX_QUERY
from domain.rules.accounts import Role
from domain.settings import Settings
from tests.api.conftest import Person, person, pointers, running
from tests.api.test_pages import links
from tests.support.rows import add_vm


def check_refusal(answer: httpx.Response, code: str, *parameters: str) -> str:
    """Check that the answer is a 422 with this code that names these parameters; return its detail."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code), answer.text
    assert pointers(problem) == set(parameters)
    detail: str = problem["detail"]
    return detail


async def test_a_mistyped_filter_is_refused_with_the_parameter_that_was_meant(ada: Person) -> None:
    detail = check_refusal(await ada.http.get("/vms?label=env=prod"), "unknown_parameter", "label")
    assert detail == "There is no query parameter `label`. Did you mean `labels`?"
    detail = check_refusal(await ada.http.get("/volumes", params={"xyz": ""}), "unknown_parameter", "xyz")
    assert detail.endswith(
        "The query parameters of this path are: cursor, labels, name, page, page_size, project_id, sort, status."
    )
    detail = check_refusal(await ada.http.get("/auth/me?x=1"), "unknown_parameter", "x")
    assert detail.endswith("This path has no query parameters.")
    check_refusal(await ada.http.get("/vms?Status=ERROR&x=1"), "unknown_parameter", "Status", "x")


@pytest.mark.parametrize("value", ["%E9t%E9", "%C0%AF", "%ED%A0%80", "a%FF"])
async def test_a_filter_that_is_not_utf_8_is_refused(ada: Person, value: str) -> None:
    """Otherwise a filter such as `env!=...` in Latin-1 would let everything through."""
    detail = check_refusal(await ada.http.get(f"/vms?labels=env!={value}&sort=name"), "validation_failed", "labels")
    assert detail == "`labels` is not UTF-8. Write for example é as %C3%A9."
    for name in ("%C3%A9", "%EF%BF%BD", "%25E9"):  # the second is the sign that a decoder puts in the place of others
        assert (await ada.http.get(f"/vms?name={name}")).status_code == 200


async def test_every_path_refuses_an_unknown_parameter_and_changes_nothing(
    settings: Settings, engine: AsyncEngine
) -> None:
    async with running(settings) as app:
        ada = await person(app, engine, settings, "ada", Role.ADMIN)
        vm = await ada.create()
        routes = [route for route in app.router.routes if isinstance(route, APIRoute) and route.include_in_schema]
        assert len(routes) > 40
        for route in routes:
            ids = {name: vm["id"] if name == "vm_id" else str(uuid4()) for name in route.param_convertors}
            path = route.path_format.format(**ids)
            for method in route.methods or ():
                answer = await ada.http.request(method, f"http://api{path}?bogus=1", json={"name": "x"})
                if "/health" in path:
                    assert answer.status_code in {200, 503}  # monitors add parameters against caches
                else:
                    assert "bogus" in check_refusal(answer, "unknown_parameter", "bogus")
        assert (await ada.http.get(f"/vms/{vm['id']}")).json() == vm


async def test_without_a_token_the_answer_is_401_whatever_the_parameters(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.get("/vms?bogus=1")).status_code == 401


@pytest.mark.parametrize("query", ["page=1&page=2", "sort=name&sort=-name", "name=a&name=a", "page_size=1&page_size=1"])
async def test_a_parameter_with_one_value_is_refused_if_it_is_repeated(ada: Person, query: str) -> None:
    detail = check_refusal(await ada.http.get(f"/vms?{query}"), "validation_failed", query.partition("=")[0])
    assert "once" in detail
    assert (await ada.http.get("/vms?status=ACTIVE&status=ERROR&labels=a&labels=b")).status_code == 200


@pytest.mark.parametrize("name", ["page", "page_size", "cursor", "sort", "status", "name", "labels"])
async def test_an_empty_parameter_is_refused(ada: Person, name: str) -> None:
    """A script whose variable is empty would otherwise get everything."""
    for query in (f"{name}=", name):
        check_refusal(await ada.http.get(f"/vms?{query}"), "validation_failed", name)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        *((text, 200) for text in ("1", "1.0", "01")),
        *((text, 422) for text in ("1.5", "1_0", " 1", "+1", "1e0", "0x1", "true", "1\n", "9" * 5000)),
        ("\N{ARABIC-INDIC DIGIT ONE}", 422),
    ],
)
async def test_an_integer_parameter_is_digits(visitor: Person, text: str, status: int) -> None:
    for name in ("page", "page_size"):
        answer = await visitor.http.get("/vms", params={name: text})
        assert answer.status_code == status, answer.text


async def test_a_query_that_is_too_long_is_refused_before_it_is_read(ada: Person) -> None:
    longest = "labels=" + ",".join(["a"] * (MAX_QUERY // 2))
    longest = longest[: MAX_QUERY - 1] + "a"
    assert len(longest) == MAX_QUERY
    assert (await ada.http.get(f"/vms?{longest}")).status_code == 200
    answer = await ada.http.get(f"/vms?{longest}a")
    assert (answer.status_code, answer.json()["code"]) == (414, "query_too_long")
    assert len(answer.content) < 1000


async def test_a_query_is_not_parsed_where_it_has_no_meaning_or_the_caller_is_not_counted(
    visitor: Person, anyone: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may send thousands of parameters, and they take milliseconds."""
    parsed: list[str] = []

    def parse(query: str, **options: Any) -> list[tuple[str, str]]:
        parsed.append(query)
        return parse_qsl(query, **options)

    monkeypatch.setattr(datastructures, "parse_qsl", parse)
    many = "&".join("a" * 15_000)
    for path, status in (("/vms", 414), ("/health/live", 200), ("/health", 200), ("/nothing", 404)):
        assert (await anyone.get(f"{path}?{many}")).status_code == status
    assert parsed == []
    assert (await visitor.http.get("/vms?page=1&sort=name")).status_code == 200
    assert parsed == ["page=1&sort=name"]


async def test_the_answer_to_thousands_of_wrong_parameters_is_small(ada: Person) -> None:
    for query in ("&".join(map(str, range(1500))), "labels=&" * 1000, "labels=-&" * 900, "page=1&" * 1100):
        answer = await ada.http.get(f"/vms?{query}")
        assert (answer.status_code, len(answer.json()["errors"])) == (422, 20)
        assert answer.json()["detail"].endswith(" Only the first 20 errors are shown.")
        assert len(answer.content) < 10_000


async def test_long_filters_leave_out_links_but_the_next_page_stays_reachable(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        for n in range(3):
            await add_vm(tx, ada.user, name="\N{PERSONAL COMPUTER}" * 255, labels={"n": str(n)})
    longest: dict[str, Any] = {"name": "\N{PERSONAL COMPUTER}" * 255, "sort": "name", "page_size": 1}
    answer = await ada.http.get("/vms", params=longest)
    assert len(answer.headers["Link"]) <= MAX_LINKS
    assert set(links(answer)) == {"next"}
    second = await ada.http.get(f"http://api{links(answer)['next']}")
    assert (second.status_code, second.json()["page"], len(second.json()["items"])) == (200, 2, 1)
    crowded = await ada.http.get("/vms?labels=" + ",".join(["n"] * 4000))
    assert (crowded.status_code, "Link" in crowded.headers) == (200, False)


async def test_a_wrong_word_is_answered_with_the_possible_ones(ada: Person) -> None:
    for path, name, words in [
        ("/vms", "status", "Use one or more of BUILDING, ACTIVE, "),
        ("/volumes", "status", "Use one or more of CREATING, AVAILABLE, "),
        ("/operations", "action", "Use one or more of create, start, stop, reboot, resize, "),
    ]:
        for value in ("active", "ACTIVE,", ",", "ERROR,RUNNING2", "ACTIVE\n", "reboot-hard"):
            answer = await ada.http.get(path, params={name: value})
            [error] = answer.json()["errors"]
            assert (answer.status_code, error["parameter"], error["code"]) == (422, name, "unknown_value")
            assert error["detail"].startswith(words)


async def test_a_path_of_any_length_has_a_short_answer(ada: Person) -> None:
    for path in ("/" + "%C3%A9" * 10_000, f"/vms/{'9' * 60_000}"):
        answer = await ada.http.get(path)
        assert answer.status_code in {404, 422}
        assert len(answer.content) < 5000


async def test_the_openapi_document_has_the_bounds_of_integers(ada: Person) -> None:
    document = (await ada.http.get("/openapi.json")).json()
    parameters = {p["name"]: p["schema"] for p in document["paths"]["/api/v1/vms"]["get"]["parameters"]}
    assert {key: parameters["page"][key] for key in ("type", "minimum", "maximum")} == {
        "type": "integer",
        "minimum": 1,
        "maximum": 1_000_000,
    }
    size = document["components"]["schemas"]["NewVolume"]["properties"]["size_gb"]
    assert (size["type"], size["minimum"], size["maximum"]) == ("integer", 1, 16_384)


@pytest.mark.parametrize("query", ["name=%ED%A0%80", "name=%FF", "labels=a%3D%C3", "cursor=%ED%B0%80", "%FF=1"])
async def test_bytes_of_a_query_that_are_no_text_are_never_an_internal_error(ada: Person, query: str) -> None:
    for path in ("/vms", "/volumes", "/operations"):
        assert (await ada.http.get(f"{path}?{query}")).status_code < 500
