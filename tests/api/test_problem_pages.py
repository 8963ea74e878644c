"""The catalogue of problems: its pages, to which `type` leads, and docs/problems.md."""

import re

import httpx
import pytest

from api.web import problem_document
from api.web.problem_types import PROBLEM_TYPES, type_of
from tests.api.conftest import Person
from tests.api.test_problems import check_problem


async def test_the_type_of_a_problem_is_the_path_of_a_page_about_it(anyone: httpx.AsyncClient) -> None:
    problem = (await anyone.get("/vms")).json()
    assert problem["type"] == "/api/v1/docs/problems/unauthenticated"
    page = await anyone.get(f"http://api{problem['type']}")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    kind = PROBLEM_TYPES["unauthenticated"]
    for text in (
        kind.title,
        kind.advice,
        "401 Unauthorized",
        "WWW-Authenticate",
        "&quot;code&quot;: &quot;unauthenticated&quot;",
    ):
        assert text in page.text


async def test_the_list_leads_to_a_page_for_every_code(anyone: httpx.AsyncClient) -> None:
    listed = (await anyone.get("/docs/problems")).text
    pages = re.findall(r'href="(/api/v1/docs/problems/\w+)"', listed)
    assert pages == [type_of(code) for code in PROBLEM_TYPES]
    for path in pages:
        page = (await anyone.get(f"http://api{path}")).text
        assert 'href="/api/v1/docs/problems"' in page
        assert "<pre>null" not in page


async def test_a_page_names_the_requests_that_may_get_the_problem(anyone: httpx.AsyncClient) -> None:
    page = (await anyone.get("/docs/problems/same_flavor")).text
    assert '<a href="/api/v1/docs#/vms/resize_vm"><code>POST /api/v1/vms/{vm_id}/actions/resize</code></a>' in page
    assert "Requests that may get it" not in (await anyone.get("/docs/problems/head_too_large")).text


async def test_a_code_that_does_not_exist_has_no_page(anyone: httpx.AsyncClient) -> None:
    check_problem(await anyone.get("/docs/problems/nothing"), 404, "not_found")
    check_problem(await anyone.get("/docs/problems/Not_Found"), 404, "not_found")


@pytest.mark.parametrize("path", ["/docs/problems", "/docs/problems/not_found"])
async def test_the_pages_need_no_script_and_load_only_a_style(anyone: httpx.AsyncClient, path: str) -> None:
    page = await anyone.get(path)
    assert re.search(r"<script|<style|\son\w+=|style=|https?://", page.text) is None
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    (style,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', page.text)
    assert (await anyone.get(f"http://api{style}")).headers["Content-Type"].startswith("text/css")


async def test_head_works_and_other_methods_are_refused(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.head("/docs/problems/not_found")).status_code == 200
    check_problem(await anyone.post("/docs/problems/not_found"), 405, "method_not_allowed")


async def test_every_problem_has_the_title_of_its_type(ada: Person) -> None:
    problem = (await ada.http.get("/vms", params={"colour": "red"})).json()
    assert problem["title"] == PROBLEM_TYPES["unknown_parameter"].title


def test_the_catalogue_in_the_documents_is_current() -> None:
    assert problem_document.DOCUMENT.read_text() == problem_document.rendered()


@pytest.mark.parametrize("code", PROBLEM_TYPES)
def test_an_entry_of_the_catalogue_is_complete_and_plain(code: str) -> None:
    kind = PROBLEM_TYPES[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert 400 <= kind.status < 600
    assert not kind.title.endswith(".")
    for text in (kind.meaning, kind.advice):
        assert text.endswith(".")
        assert text.count("`") % 2 == 0
        assert not re.search("[<>|*_](?![^`]*`)", re.sub("`[^`]*`", "", text))
