"""Bodies: what counts as JSON, how large a body may be, and short answers to bodies with thousands of errors."""

import codecs
import gzip
import json
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from api.web.field_errors import MAX_ERRORS
from api.web.middleware import BufferedBody
from tests.api.conftest import FLAVOR, Person, pointers

JSON = {"Content-Type": "application/json"}
NEW_VM = {"name": "x", "flavor_id": FLAVOR}
UNKNOWN = UUID(int=1)  # of no VM; the same in every process, because it is a part of test names


@pytest.mark.parametrize(
    "encoding", ["gzip", "deflate", "br", "GZIP", "identity, gzip", "unknown"], ids=lambda text: text.replace(" ", "")
)
async def test_a_compressed_body_is_refused_with_what_is_accepted(visitor: Person, encoding: str) -> None:
    body = gzip.compress(json.dumps(NEW_VM).encode())
    answer = await visitor.http.post("/vms", content=body, headers=JSON | {"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
    assert answer.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("path", ["/vms", "/volumes", "/auth/login", "/auth/register", f"/vms/{UNKNOWN}/actions/start"])
async def test_every_path_with_a_body_checks_its_encoding(visitor: Person, path: str) -> None:
    answer = await visitor.http.post(path, content=b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"})
    assert answer.json()["code"] == "unsupported_encoding"
    # Without a body the header says nothing.
    answer = await visitor.http.post(path, headers={"Content-Encoding": "gzip"})
    assert answer.status_code in {404, 422}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        'Application/JSON;charset="UTF-8"',
        "application/json ;x=y",
        "application/json;",
        'application/json; x="a;charset=latin-1\\"" ; charset=UTF8 ',
        # Forms of e-mail, which the standard library fails on.
        "application/json; charset*=utf-8''%ff; charset*0*=x",
        "application/json; charset*" + "9" * 5000 + "=x",
    ],
)
async def test_json_in_utf_8_is_accepted_however_it_is_declared(ada: Person, media_type: str) -> None:
    answer = await ada.http.post("/vms", content=json.dumps(NEW_VM), headers={"Content-Type": media_type})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/json-patch+json",
        "application/vnd.api+json",
        "text/json",
        "application/x-www-form-urlencoded",
        "json",
        ";",
        "",
        'application/json;"' + ";" * 30_000,  # the standard library's parser would need a second for it
        "application/json" + " ;" * 15_000 + "x",
        'application/json; x="' + "\\a" * 15_000,
        "application/json; charset=utf-8; charset=latin-1",
        "application/json; charset",
    ],
)
async def test_another_media_type_is_refused(ada: Person, media_type: str) -> None:
    vm = await ada.create()
    body = json.dumps({"name": "y"})
    answer = await ada.http.patch(f"/vms/{vm['id']}", content=body, headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert answer.headers["Accept"] == "application/json"
    assert (await ada.http.get(f"/vms/{vm['id']}")).json() == vm


async def test_a_byte_order_mark_is_skipped(ada: Person) -> None:
    body = codecs.BOM_UTF8 + json.dumps(NEW_VM).encode()
    assert (await ada.http.post("/vms", content=body, headers=JSON)).status_code == 202


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (json.dumps(NEW_VM).encode("utf-16"), "not UTF-8"),
        (json.dumps(NEW_VM).encode("utf-32-be"), "Expecting value, line 1, column 1"),
        (b'{"name": "\xe9"}', "not UTF-8"),
        (b'{"name": NaN}', "NaN is no JSON value"),
        (b'{"size_gb": -Infinity}', "-Infinity is no JSON value"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"size_gb": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"name": "a", "name": "b"}', "two members with the same name"),
        (b'{"labels": {"a": "1", "\\u0061": "2"}}', "two members with the same name"),
        (b'{"name": "x",}', "line 1, column 14"),
        (b"{'name': 'x'}", "line 1, column 2"),
        (b" ", "line 1, column 2"),
        (b"\n{", "line 2, column 2"),
    ],
    ids=lambda value: ascii(value)[:30],
)
async def test_what_is_not_plain_json_is_refused_with_the_reason(visitor: Person, body: bytes, reason: str) -> None:
    for path in ("/vms", "/auth/login"):
        answer = await visitor.http.post(path, content=body, headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")
        assert reason in answer.json()["detail"]


@pytest.mark.parametrize("size", ["10", "10.0", "1e1", "1000E-2", "16384", "1.6384e4"])
async def test_an_integer_may_be_written_with_a_fraction_of_zero(ada: Person, size: str) -> None:
    """JSON and JSON Schema know one type of number: 10.0 is the integer 10."""
    body = f'{{"name": "x", "size_gb": {size}}}'
    answer = await ada.http.post("/volumes", content=body, headers=JSON)
    assert answer.status_code == 202, answer.text
    assert answer.text.count(f'"size_gb":{int(float(size))},') == 1


async def test_both_spellings_of_an_integer_are_the_same_request(ada: Person) -> None:
    first, again = [
        await ada.http.post(
            "/volumes", content=f'{{"name": "x", "size_gb": {size}}}', headers=JSON | {"Idempotency-Key": "one"}
        )
        for size in ("10", "10.0")
    ]
    assert (first.status_code, again.status_code, again.json()) == (202, 202, first.json())


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ("10.5", "wrong_type"),
        ("true", "wrong_type"),
        ('"10"', "wrong_type"),
        ("null", "wrong_type"),
        ("[10]", "wrong_type"),
        ("1e999999", "wrong_type"),
        ("1e300", "too_large"),
        ("9" * 4000, "too_large"),
        ("16385", "too_large"),
        ("-1.0", "too_small"),
        ("0.0", "too_small"),
    ],
    ids=lambda text: text[:10],
)
async def test_what_is_no_integer_is_refused(visitor: Person, size: str, code: str) -> None:
    answer = await visitor.http.post("/volumes", content=f'{{"name": "x", "size_gb": {size}}}', headers=JSON)
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/size_gb"})
    assert [error["code"] for error in answer.json()["errors"]] == [code]
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("path", "body", "count"),
    [
        ("/auth/login", {str(n): 1 for n in range(6_000)}, MAX_ERRORS),
        ("/auth/register", {"half \ud800" + str(n): 1 for n in range(2_000)}, 1),
        ("/vms", {"x" * 3000 + str(n): [n] for n in range(80)}, MAX_ERRORS),
        ("/vms", NEW_VM | {"network_ids": [0] * 60_000}, 1),
        ("/vms", NEW_VM | {"labels": {f"-{n}": 1 for n in range(15_000)}}, 1),
        ("/vms", NEW_VM | {"labels": {f"-{n}": 1 for n in range(64)}}, MAX_ERRORS),
        ("/vms", NEW_VM | {"network_ids": [str(UUID(int=n)) for n in range(64)]}, MAX_ERRORS),
        (f"/vms/{UNKNOWN}/actions/start", {str(n): 1 for n in range(20_000)}, MAX_ERRORS),
        ("/volumes", {"name": "x" * 200_000, "size_gb": "9" * 60_000}, 2),
    ],
)
async def test_the_answer_to_thousands_of_errors_is_short(
    visitor: Person, path: str, body: dict[str, Any], count: int
) -> None:
    answer = await visitor.http.post(path, content=json.dumps(body, separators=(",", ":")), headers=JSON)
    problem = answer.json()
    assert (answer.status_code, len(problem["errors"])) == (422, count), answer.text
    assert len(answer.content) < 10_000
    assert problem["detail"].endswith(" Only the first 20 errors are shown.") is (count == MAX_ERRORS)


async def test_twenty_errors_are_shown_without_a_hint_at_more(visitor: Person) -> None:
    answer = await visitor.http.post("/vms", json=NEW_VM | {f"unknown-{n}": 1 for n in range(20)})
    assert pointers(answer.json()) == {f"#/unknown-{n}" for n in range(20)}
    assert answer.json()["detail"] == "The request does not have the expected form; `errors` says where."


async def test_the_codes_of_errors_are_our_own(visitor: Person) -> None:
    bodies: list[tuple[str, Any, set[str]]] = [
        ("/vms", {}, {"required"}),
        ("/vms", [], {"wrong_type"}),
        ("/vms", {"name": 7, "flavor_id": 7, "labels": [], "network_ids": {}}, {"wrong_type"}),
        ("/vms", NEW_VM | {"flavor_id": "x", "labels": {"-": ""}, "name": "\0"}, {"unseen_character", "wrong_format"}),
        ("/vms", NEW_VM | {"network_ids": [FLAVOR, FLAVOR]}, {"repeated_items"}),
        ("/vms", NEW_VM | {"name": ""}, {"too_short"}),
        ("/vms", NEW_VM | {"name": "x" * 256, "labels": {str(n): "" for n in range(65)}}, {"too_long"}),
        ("/vms", NEW_VM | {"status": "ACTIVE"}, {"unknown_field"}),
        ("/volumes", {"name": "x", "size_gb": 0}, {"too_small"}),
        (f"/vms/{UNKNOWN}/actions/reboot", {"type": "soft"}, {"unknown_value"}),
        (f"/vms/{UNKNOWN}/volumes", {"volume_id": FLAVOR, "delete_on_termination": 1}, {"wrong_type"}),
    ]
    for path, body, codes in bodies:
        answer = await visitor.http.post(path, json=body)
        assert {error["code"] for error in answer.json()["errors"]} == codes, answer.text
    for query, code in [("page=0", "too_small"), ("page=x", "wrong_type"), ("page_size=101", "too_large")]:
        assert (await visitor.http.get(f"/vms?{query}")).json()["errors"][0]["code"] == code


async def test_a_body_of_another_path_is_still_ignored(ada: Person) -> None:
    """A DELETE has no body; RFC 9110 gives one no meaning, so it is no error."""
    vm = await ada.create()
    answer: httpx.Response = await ada.http.request("DELETE", f"/vms/{vm['id']}", content=b"{")
    assert answer.status_code == 204


async def test_a_body_ends_with_the_message_that_does_not_say_that_more_follows() -> None:
    received: list[Message] = []

    async def keep_body(_scope: Scope, receive: Receive, _send: Send) -> None:
        received.append(await receive())

    messages: list[Message] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_message: Message) -> None: ...

    await BufferedBody(keep_body)({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
    assert received == [{"type": "http.request", "body": b"ab", "more_body": False}]
