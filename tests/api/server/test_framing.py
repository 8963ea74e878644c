"""Where a request ends: upgrades, bodies, pipelined requests, and whatever two servers could read differently."""

import pytest

from api.server import heads
from api.server.heads import MAX_PATH, RefusedError
from api.server.requests import MAX_FRAMING, Reader
from api.web.headers import OF_EVERY_ANSWER
from tests.api.server.conftest import HOST, Site

OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"UPGRADE:h2c\r\nCONNECTION:UPGRADE\r\n",
    b"uPgRaDe: \t h2c, websocket \r\nConnection: keep-alive, uPgRaDe\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\nUpgrade:\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bm9uY2U=\r\n",
    b"Connection: Upgrade\r\nConnection: HTTP2-Settings\r\nUpgrade: TLS/1.0\r\n",
]
HEADERS = {name.lower(): value for name, value in OF_EVERY_ANSWER.items()} | {"cache-control": "no-store"}
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
LENGTH = b"Content-Length: 15\r\n\r\n"
BODY = b'{"type":"HARD"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b'8;x=y\r\n{"type":\r\n7\r\n"HARD"}\r\n0\r\nX-Trailer: z\r\n\r\n'
POST = b"POST /vms HTTP/1.1\r\n" + HOST


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize(("framing", "body"), [(LENGTH, BODY), (CHUNKED, CHUNKS)], ids=["length", "chunked"])
def test_an_offer_to_upgrade_is_as_if_it_was_not_there(site: Site, offer: bytes, framing: bytes, body: bytes) -> None:
    for parts in [(offer + framing + body,), (offer + framing, body), (offer + framing + body[:7], body[7:] + NEXT)]:
        client = site.client()
        answer = client.ask(POST + parts[0], *parts[1:])
        assert (answer.status, answer.json()["body"]) == (200, BODY.decode())
        if NEXT in parts[-1]:
            assert client.read().json()["path"] == "/next"
        assert client.ask(NEXT).json()["path"] == "/next"
    assert [seen["path"] for seen in site.seen] == ["/vms", "/next", "/vms", "/next", "/vms", "/next", "/next"]


def test_an_offer_without_a_body_is_as_if_it_was_not_there(site: Site) -> None:
    client = site.client()
    answer = client.ask(b"GET /vms HTTP/1.1\r\n" + HOST + OFFERS[0] + b"\r\n" + NEXT)
    assert "upgrade" not in answer.headers
    assert (answer.json()["path"], client.read().json()["path"]) == ("/vms", "/next")


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(("framing", "body"), [(LENGTH, BODY), (CHUNKED, CHUNKS)], ids=["length", "chunked"])
def test_the_parts_in_which_a_request_arrives_do_not_matter(
    site: Site, framing: bytes, body: bytes, chunk: int
) -> None:
    client = site.client()
    stream = POST + framing + body + NEXT
    for start in range(0, len(stream), chunk):
        client.send(stream[start : start + chunk])
    assert client.read().json()["body"] == BODY.decode()
    assert client.read().json()["path"] == "/next"


@pytest.mark.parametrize("earlier", [b"GET / HTTP/1.1\r\nX: \n", b"GET\r\n", b"GET / HTTP/9.9\r\n"])
def test_a_part_of_a_head_is_checked_when_it_arrives_and_not_again(earlier: bytes) -> None:
    """A head of 32 KiB that came byte by byte took ten seconds of the processor."""
    with pytest.raises(RefusedError):
        heads.check_part(earlier, 0)
    with pytest.raises(RefusedError):
        heads.check_part(earlier, len(earlier) - 1)
    heads.check_part(earlier + b"a", len(earlier))
    reader = Reader(lambda _: None)
    reader.part_of_head += earlier
    assert reader.take_head(b"a") == (None, b"")
    with pytest.raises(RefusedError):
        reader.take_head(b"\r\n\r\n")


def test_a_body_may_hold_lines_that_look_like_chunks_or_requests(site: Site) -> None:
    content = b"\n\r\n0\r\n\r\n" + NEXT
    client = site.client()
    answer = client.ask(POST + CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
    assert answer.json()["body"] == content.decode()
    answer = client.ask(POST + b"Content-Length: %d\r\n\r\n" % len(content) + content)
    assert answer.json()["body"] == content.decode()
    assert len(site.seen) == 2


def test_trailers_do_not_become_headers(site: Site) -> None:
    answer = site.ask(POST + CHUNKED + b"1\r\nx\r\n0\r\nAuthorization: Bearer other\r\nUpgrade: h2c\r\n\r\n")
    assert [name for name, _ in answer.json()["headers"]] == ["host", "transfer-encoding"]


@pytest.mark.parametrize("trailer", [b"Connection: close", b"Proxy-Connection: close", b"Connection: Upgrade", b"X: y"])
def test_trailers_do_not_change_how_the_next_request_is_read(site: Site, trailer: bytes) -> None:
    """A proxy may send the request of somebody else over the same connection."""
    client = site.client()
    assert client.ask(POST + CHUNKED + b"1\r\nx\r\n0\r\n" + trailer + b"\r\n\r\n").json()["body"] == "x"
    for _ in range(2):
        assert client.ask(NEXT).json()["path"] == "/next"


def test_pipelined_requests_are_answered_in_their_order(site: Site) -> None:
    client = site.client()
    client.send(b"".join(b"GET /%d HTTP/1.1\r\n%b\r\n" % (number, HOST) for number in range(2000)))
    assert [client.read().json()["path"] for _ in range(2000)] == [f"/{number}" for number in range(2000)]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: api\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api\n\n",
        b"GET / HTTP/1.1\r\nHost: api\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: api\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade:\r\n h2c\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X\0: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b": no name\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / \r\n" + HOST + b"\r\n",
        b"GET /\r\n",
        b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
        b"GET / http/1.1\r\n" + HOST + b"\r\n",
        b"GET vms HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET ftp://api/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n",
        POST + b"Content-Length: 1\r\n" + CHUNKED + b"0\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        POST + b"Content-Length: 1, 1\r\n\r\na",
        POST + b"Content-Length: +1\r\n\r\na",
        POST + b"Content-Length: 1_0\r\n\r\na",
        POST + b"Content-Length: 0x1\r\n\r\na",
        POST + b"Content-Length: -1\r\n\r\na",
        POST + b"Content-Length:\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n" + CHUNKED + b"0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n" + CHUNKED + b"0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"0\r\n\r\n",
        POST + b"Content-Length: " + b"0" * 5000 + b"1\r\n\r\na",
        POST + b"Content-Type: text/plain\r\ncontent-type: application/json\r\n\r\n",
        POST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
        POST + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n",
        POST + b"Last-Event-ID: 1\r\nlast-event-id: 2\r\n\r\n",
        b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"0\r\n\r\n",
        POST + CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
        POST + CHUNKED + b"1 \r\na\r\n0\r\n\r\n",
        POST + CHUNKED + b"-1\r\na\r\n0\r\n\r\n",
        POST + CHUNKED + b"1;a\na\r\n0\r\n\r\n",
        POST + CHUNKED + b"1\na\n0\n\n",
        POST + CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
        POST + CHUNKED + b"fffffffffffffffff\r\n",
        POST + CHUNKED + b"0\r\nX : y\r\n\r\n",
        POST + CHUNKED + b"0\r\nX: y\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n" * 100,
    ],
)
def test_a_request_that_is_not_valid_is_refused_and_what_follows_it_is_not_read(site: Site, request_: bytes) -> None:
    client = site.client()
    answer = client.ask(request_ + NEXT)
    assert (answer.status, answer.json()["code"]) == (400, "malformed_request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert answer.headers.items() >= HEADERS.items()
    assert client.is_closed()
    assert "/next" not in [seen["path"] for seen in site.seen]


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"CONNECT api:443 HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT, 501, "not_implemented"),
        (b"BREW /vms HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT, 501, "not_implemented"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + NEXT, 501, "not_implemented"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + NEXT, 505, "http_version_not_supported"),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n" + NEXT, 505, "http_version_not_supported"),
        (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n" + NEXT, 505, "http_version_not_supported"),
        (b"GET /" + b"a" * 40_000, 414, "uri_too_long"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT, 414, "uri_too_long"),
        (b"GET /" + b"a" * MAX_PATH + b" HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT, 414, "uri_too_long"),
        (b"GET http://api/" + b"a" * MAX_PATH + b" HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT, 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n" + NEXT, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a:\r\n" * 100 + b"\r\n" + NEXT, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a:\r\n" * 20_000 + NEXT, 431, "head_too_large"),
        (POST + CHUNKED + b"1;" + b"x" * MAX_FRAMING, 413, "body_too_large"),
        (POST + CHUNKED + b"1\r\n \r\n" * MAX_FRAMING, 413, "body_too_large"),
        (POST + CHUNKED + b"0\r\n" + b"X: y\r\n" * MAX_FRAMING, 413, "body_too_large"),
    ],
)
def test_a_request_that_this_server_does_not_serve_is_refused(
    site: Site, request_: bytes, status: int, code: str
) -> None:
    client = site.client()
    answer = client.ask(request_)
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert client.is_closed()
    assert "/next" not in [seen["path"] for seen in site.seen]


@pytest.mark.parametrize(
    ("line", "path", "query"),
    [
        (b"GET http://other:80/a%20b?c=d HTTP/1.1", "/a b", "c=d"),
        (b"GET https://other HTTP/1.1", "/", ""),
        (b"GET HTTP://other?c=d HTTP/1.1", "/", "c=d"),
        (b"GET //other/a HTTP/1.1", "//other/a", ""),
        (b"GET /a%2Fb%2fc%2e/%64 HTTP/1.1", "/a%2Fb%2Fc./d", ""),
        (b"GET /%252f%%2F%c3%2f%a9%41 HTTP/1.1", "/%2f%%2F\ufffd%2F\ufffdA", ""),
        (b"GET /a?b?c=d HTTP/1.1", "/a", "b?c=d"),
        (
            b"GET /" + b"a" * (MAX_PATH - 1) + b"?" + b"b" * MAX_PATH + b" HTTP/1.1",
            "/" + "a" * (MAX_PATH - 1),
            "b" * MAX_PATH,
        ),
        (b"OPTIONS * HTTP/1.1", "*", ""),
        (b"\r\nGET /a HTTP/1.1", "/a", ""),
    ],
)
def test_each_form_of_a_target_is_understood(site: Site, line: bytes, path: str, query: str) -> None:
    seen = site.ask(line + b"\r\n" + HOST + b"\r\n").json()
    assert (seen["path"], seen["query"]) == (path, query)


def test_spaces_around_a_value_do_not_belong_to_it(site: Site) -> None:
    assert site.ask(b"GET / HTTP/1.1\r\n" + HOST + b"X: \t a b \t \r\n\r\n").json()["headers"][1] == ["x", "a b"]


def test_a_request_of_100_header_fields_or_32_kib_is_served(site: Site) -> None:
    head = b"GET / HTTP/1.1\r\n" + HOST + b"a:\r\n" * 98
    longest = head + b"b: " + b"c" * (32 * 1024 - len(head) - 7) + b"\r\n\r\n"
    assert len(longest) == 32 * 1024
    assert len(site.ask(longest).json()["headers"]) == 100


def test_16_kib_of_chunk_sizes_extensions_and_trailers_are_read(site: Site) -> None:
    end = b"\r\n!\r\n0\r\n\r\n"  # all of it but the chunk's one byte counts
    extension = b"1;" + b"x" * (MAX_FRAMING - len(b"1;") - len(end) + 1)
    assert site.ask(POST + CHUNKED + extension + end).json()["body"] == "!"
    assert site.ask(POST + CHUNKED + extension + b"x" + end).status == 413


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
def test_a_list_that_comes_in_parts_is_one_list(site: Site, name: str) -> None:
    parts = f'{name}: "a"\r\nX-Other: 1\r\n{name.lower()}: "b", "c"\r\nX-Other: 2\r\n\r\n'
    site.ask(b"GET /vms HTTP/1.1\r\n" + HOST + parts.encode())
    headers = site.seen[-1]["headers"]
    assert [value for field, value in headers if field == name.lower()] == ['"a", "b", "c"']
    assert [value for field, value in headers if field == "x-other"] == ["1", "2"]


def test_a_list_without_a_value_stays_beside_a_field_that_comes_twice(site: Site) -> None:
    """An empty If-Match is a condition that nothing meets, so without it a change would be made."""
    site.ask(b"GET /vms HTTP/1.1\r\n" + HOST + b"If-Match:\r\nX-Other: 1\r\nX-Other: 2\r\n\r\n")
    assert ["if-match", ""] in site.seen[-1]["headers"]
