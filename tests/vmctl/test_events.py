"""Listening to server-sent events."""

import json
from collections.abc import Callable, Iterator
from itertools import islice

import httpx
import pytest

from tests.vmctl.doubles import Service, answer, operation, problem, tokens
from vmctl.client import ProblemError, UnreadableError, retries
from vmctl.client.models import Operation
from vmctl.client.sync import transport
from vmctl.client.tokens import MemoryTokens


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client connect again at once."""
    monkeypatch.setattr(retries, "delays", lambda: iter(lambda: 0.0, None))


def stream(*lines: str, breaks: bool = False) -> httpx.Response:
    """A stream of these lines, which then ends, or breaks."""

    def chunks() -> Iterator[bytes]:
        for line in lines:
            yield f"{line}\n".encode()
        if breaks:
            raise httpx.ReadError("reset")

    return httpx.Response(200, content=chunks(), headers={"Content-Type": "text/event-stream"})


def sent(id: str, kind: str = "operation") -> tuple[str, ...]:
    """The lines of an event."""
    return (f"id: {id}", f"event: {kind}", f"data: {json.dumps(operation(progress=int(id)))}", "")


def test_events_are_resources() -> None:
    service = Service([stream(": 15 s", "", *sent("1"), *sent("2"))])
    reset, first, second = islice(service.client().events(), 3)
    assert (reset.kind, reset.resource) == ("reset", None)
    assert isinstance(first.resource, Operation)
    assert isinstance(second.resource, Operation)
    assert [first.resource.progress, second.resource.progress] == [1, 2]
    assert (first.kind, first.id) == ("operation", "1")


@pytest.mark.parametrize("breaks", [True, False])
def test_a_connection_that_ends_is_made_again_after_the_last_event(breaks: bool) -> None:  # noqa: FBT001
    service = Service([stream(*sent("7"), breaks=breaks), stream(*sent("8"))])
    events = list(islice(service.client().events(vm_id="v"), 3))
    assert [event.id for event in events] == ["", "7", "8"]
    assert [request.headers.get("Last-Event-ID") for request in service.requests] == [None, "7"]
    assert service.requests[0].url.path == "/api/v1/vms/v/events"


def test_a_reset_says_that_events_may_be_missing() -> None:
    service = Service([stream("event: reset", "id: 9", "data: {}", "")])
    [event] = islice(service.client().events(last_event_id="1"), 1)
    assert (event.kind, event.resource) == ("reset", None)
    assert service.requests[0].headers["Last-Event-ID"] == "1"


def test_events_of_a_kind_that_is_not_known_are_passed_over() -> None:
    service = Service([stream(*sent("1", "moon"), *sent("2"))])
    assert [event.id for event in islice(service.client().events(), 2)] == ["", "2"]


def test_a_connection_that_breaks_before_its_first_event_tells_nothing() -> None:
    service = Service([stream(breaks=True), problem("overloaded", 503), stream(*sent("1"))])
    assert [event.kind for event in islice(service.client().events(), 2)] == ["reset", "operation"]


def test_a_service_that_begins_is_a_reset() -> None:
    service = Service([stream("retry: 1000", "", breaks=True), stream("retry: 1000", "", *sent("1"))])
    assert [event.kind for event in islice(service.client().events(), 3)] == ["reset", "reset", "operation"]


def test_a_sign_of_life_moves_the_place_from_which_to_go_on() -> None:
    service = Service([stream("retry: 1000", "", ": still here", "id: 4", ""), stream(*sent("5"))])
    assert [event.id for event in islice(service.client().events(), 2)] == ["", "5"]
    assert service.requests[1].headers["Last-Event-ID"] == "4"


def test_an_expired_token_is_renewed() -> None:
    store = MemoryTokens()
    store.write(tokens("1"))
    renewed = answer(tokens("2").model_dump())
    service = Service([problem("invalid_token", 401), renewed, stream(*sent("1"))])
    assert list(islice(service.client(tokens=store).events(), 1))
    assert service.requests[-1].headers["Authorization"] == "Bearer access-2"


def test_a_refusal_ends_the_listening() -> None:
    service = Service([problem("not_found", 404)])
    with pytest.raises(ProblemError):
        next(iter(service.client().events(vm_id="v")))


@pytest.mark.parametrize("data", ["", "{", "{}", "[" * 10_000])
def test_an_event_of_another_form_is_an_error_in_words(data: str) -> None:
    service = Service([stream("id: 1", "event: vm", f"data: {data}", "")])
    with pytest.raises(UnreadableError, match="/events answered what this version cannot read"):
        list(islice(service.client().events(), 2))


def test_a_stream_that_cannot_be_decoded_is_made_again() -> None:
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
    broken = httpx.Response(200, stream=httpx.ByteStream(b"no gzip"), headers=headers)
    said: list[str] = []
    service = Service([broken, stream(*sent("1"))])
    client = service.client(on_retry=lambda reason, _seconds: said.append(reason))
    assert [event.id for event in islice(client.events(), 2)] == ["", "1"]
    assert "cannot be decoded" in said[0]


OTHERS = [
    *(httpx.Response(status, html="<h1>Proxy</h1>") for status in (200, 302, 403, 404, 500)),
    httpx.Response(204),
    answer({"items": []}),
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda response: f"{response.status_code}")
def test_something_else_than_the_service_ends_the_listening(other: httpx.Response) -> None:
    service = Service([other])
    with pytest.raises(UnreadableError, match=r"/events answered"):
        next(iter(service.client().events()))
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "short", [stream, lambda: stream(*sent("7")), lambda: stream(breaks=True), lambda: httpx.Response(502)]
)
def test_connections_that_end_at_once_are_made_at_longer_and_longer_intervals(
    monkeypatch: pytest.MonkeyPatch, short: Callable[[], httpx.Response]
) -> None:
    """The service itself sends something at once, and then stays."""
    slept: list[float] = []
    monkeypatch.setattr(retries, "delays", lambda: iter(range(100)))
    monkeypatch.setattr(transport, "sleep", slept.append)
    service = Service([*(short() for _ in range(6)), problem("not_found", 404)])
    with pytest.raises(ProblemError):
        list(service.client().events())
    assert slept == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("refusal", [problem("rate_limited", 429, Retry_After="3600"), httpx.Response(503)])
def test_a_service_that_asks_for_a_pause_gets_it(monkeypatch: pytest.MonkeyPatch, refusal: httpx.Response) -> None:
    refusal.headers["Retry-After"] = "3600"
    slept: list[float] = []
    monkeypatch.setattr(transport, "sleep", slept.append)
    said: list[tuple[str, float]] = []
    client = Service([refusal, stream(*sent("1"))]).client(on_retry=lambda *why: said.append(why))
    assert [event.id for event in islice(client.events(), 2)] == ["", "1"]
    assert slept == [3600]
    assert [seconds for _reason, seconds in said] == [3600]


def test_a_pause_without_an_end_is_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(transport, "sleep", slept.append)
    client = Service([problem("rate_limited", 429, Retry_After="9" * 400), stream(*sent("1"))]).client()
    assert len(list(islice(client.events(), 2))) == 2
    assert slept == [86_400]


@pytest.mark.parametrize(
    ("after", "date", "seconds"),
    [
        ("Sat, 28 Nov 2026 17:00:30 GMT", "Sat, 28 Nov 2026 17:00:00 GMT", 30),
        ("Saturday, 28-Nov-26 17:00:30 GMT", "Sat, 28 Nov 2026 17:00:00 GMT", 30),  # an old form
        ("Sat, 28 Nov 2026 16:59:00 GMT", "Sat, 28 Nov 2026 17:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "Sat, 28 Nov 2026 17:00:00 GMT", 86_400),
        ("Sat, 28 Nov 2026 17:00:30 GMT", "", 0),
        ("Sat, 28 Nov 2026 17:00:30 -0000", "Sat, 28 Nov 2026 17:00:00 GMT", 0),
        ("Sat, 99 Nov 2026 17:00:30 GMT", "Sat, 28 Nov 2026 17:00:00 GMT", 0),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "Sat, 28 Nov 2026 17:00:00 GMT", 0),
        ("Sat, 28 Nov 2026 17:00:30 -99999999999999999999", "Sat, 28 Nov 2026 17:00:00 GMT", 0),
        ("soon", "Sat, 28 Nov 2026 17:00:00 GMT", 0),
    ],
)
def test_a_pause_may_end_at_a_date(after: str, date: str, seconds: int) -> None:
    """Proxies send such ones. It counts from the date of the answer: our clock may be wrong."""
    assert retries.wanted_delay(httpx.Response(503, headers={"Retry-After": after, "Date": date})) == seconds


def test_the_empty_id_of_a_reset_is_no_place_to_go_on_from() -> None:
    service = Service([stream(*sent("1"))])
    assert [event.kind for event in islice(service.client().events(last_event_id=""), 2)] == ["reset", "operation"]


@pytest.mark.parametrize("lines", [["data: " + "x" * 30_000], ["data: x"] * 9_000], ids=["a line", "an event"])
def test_an_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER", 20_000)
    service = Service([stream(*sent("1"), *lines)])
    with pytest.raises(UnreadableError, match="an event is longer than 20,000 characters"):
        list(islice(service.client().events(), 3))


def test_a_long_stream_of_short_events_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER", 2_000)
    service = Service([stream(*(line for number in range(60) for line in sent(str(number))))])
    assert len(list(islice(service.client().events(), 61))) == 61
