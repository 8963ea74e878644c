"""What a request consists of, and what its answers may have beside what the service sends."""

from collections.abc import Callable
from itertools import chain, repeat

import httpx
import pytest

from tests.vmctl.doubles import Service, answer, problem, tokens, user
from vmctl.client import Client, NoTrialError, ProblemError, UnreachableError, UnusableError
from vmctl.client.tokens import MemoryTokens

LOST = httpx.ReadError("cut off")


def test_a_header_that_a_proxy_has_added_may_have_any_bytes() -> None:
    """The change is made already; an error would have its caller make it again."""
    told = answer(user())
    told.headers = httpx.Headers([*told.headers.raw, (b"X-Site", "Caf\u00e9".encode())])
    assert Service([told]).client().account.me().username == user()["username"]


@pytest.mark.parametrize("text", ["a\nb", "caf\u00e9", "\ud800", " a", "a "])
def test_a_key_or_an_etag_that_no_header_can_have_is_refused_at_once(text: str) -> None:
    service = Service([])
    for given in ({"idempotency_key": text}, {"if_match": text}):
        with pytest.raises(UnusableError, match="has a character that it cannot have"):
            service.client().vms.stop("1", **given)
    assert service.requests == []


def test_a_filter_that_is_no_text_is_refused_at_once() -> None:
    service = Service([])
    with pytest.raises(UnusableError, match="surrogate"):
        list(service.client().vms.list(name="\ud800"))
    assert service.requests == []


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.ssh_keys.get("\ud800"),
        lambda client: client.ssh_keys.delete("a\udfff"),
        lambda client: client.admin.disable("\ud800"),
        lambda client: client.projects.remove_member("1", "\ud800"),
        lambda client: next(client.events(last_event_id="\ud800")),
        lambda client: next(client.events(last_event_id="1\nX-Other: 2")),
    ],
)
def test_a_name_in_a_path_and_an_event_that_no_request_can_name_are_refused_at_once(
    call: Callable[[Client], object],
) -> None:
    service = Service([])
    with pytest.raises(UnusableError):
        call(service.client())
    assert service.requests == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.validate(client.account.register, username="ada", email="ada@example.com", password="x"),
        lambda client: client.validate(client.account.log_in, "ada", "x"),
        lambda client: client.validate(client.account.log_out),
        lambda client: client.validate(client.account.log_out_everywhere),
        lambda client: client.validate(client.account.change_password, current_password="x", new_password="y"),
        lambda client: client.validate(client.vms.list),
        lambda client: client.validate(client.vms.delete, "1"),
        lambda client: client.validate(client.vms.change, "1", labels={}),
    ],
)
def test_what_cannot_be_tried_is_not_sent(ask: Callable[[Client], object]) -> None:
    service = Service([])
    with pytest.raises(NoTrialError):
        ask(service.client())
    assert service.requests == []


def test_what_the_service_knows_no_trial_of_was_not_tried() -> None:
    unknown = {"code": "unknown_parameter", "detail": "There is none.", "parameter": "validate_only"}
    refused = problem("validation_error", 422)
    service = Service([answer(refused.json() | {"errors": [unknown]}, 422), answer(user())])
    client = service.client()
    with pytest.raises(NoTrialError):
        client.validate(client.vms.open_console, "1")
    with pytest.raises(NoTrialError):
        client.validate(client.account.me)


@pytest.mark.parametrize("first", [LOST, problem("overloaded", 503)])
def test_a_trial_is_repeated(first: httpx.Response | Exception) -> None:
    service = Service([first, answer({})])
    client = service.client()
    client.validate(client.vms.start, "1")
    assert len(service.requests) == 2


def test_a_trial_renews_the_token() -> None:
    accepted = answer({}, 200)
    service = Service([problem("invalid_token", 401), answer(tokens("2").model_dump()), accepted])
    store = MemoryTokens()
    store.write(tokens("1"))
    client = service.client(tokens=store)
    client.validate(client.vms.start, "1")
    assert [request.url.params.get("validate_only") for request in service.requests] == ["true", None, "true"]


@pytest.mark.parametrize("lost", [LOST, answer({}, 502), answer({}, 503)])
def test_a_change_that_may_have_been_made_by_an_attempt_without_an_answer_is_not_called_refused(
    lost: httpx.Response | Exception,
) -> None:
    service = Service([lost, problem("precondition_failed", 412)])
    with pytest.raises(UnreachableError, match="may have made the change"):
        service.client().vms.change("1", if_match='"a"', labels={})


def test_a_lost_answer_is_remembered_while_the_token_is_renewed() -> None:
    changed = problem("precondition_failed", 412)
    service = Service([LOST, problem("invalid_token", 401), answer(tokens("2").model_dump()), changed])
    store = MemoryTokens()
    store.write(tokens("1"))
    with pytest.raises(UnreachableError, match="may have made the change"):
        service.client(tokens=store).vms.change("1", if_match='"a"', labels={})


NEVER_SENT = [httpx.ConnectError("refused"), httpx.PoolTimeout("all are busy"), httpx.ProxyError("502 Bad Gateway")]


@pytest.mark.parametrize("first", [*NEVER_SENT, problem("rate_limited", 429)])
def test_a_change_that_no_attempt_has_made_is_refused(first: httpx.Response | Exception) -> None:
    service = Service([first, problem("precondition_failed", 412)])
    with pytest.raises(ProblemError):
        service.client().vms.change("1", if_match='"a"', labels={})


REFUSED_BEFORE_THE_KEY = [
    problem("invalid_token", 401),
    problem("forbidden", 403),
    problem("request_timeout", 408),
    problem("idempotency_key_in_flight", 409),
    problem("internal_error", 500),
    problem("rate_limited", 429, Retry_After="600"),
    problem("overloaded", 503, Retry_After="600"),
]


@pytest.mark.parametrize("refusal", REFUSED_BEFORE_THE_KEY, ids=lambda answer: str(answer.status_code))
def test_a_change_whose_answer_was_lost_may_have_been_made_whatever_came_later(refusal: httpx.Response) -> None:
    service = Service(chain([LOST], repeat(refusal)))
    client = service.client(token="vma_1", patience=0.6)
    with pytest.raises(UnreachableError, match="may have made the change; a later one was refused: It is") as caught:
        client.vms.create(name="web-1", flavor="m1.tiny")
    assert caught.value.retry_after == float(refusal.headers.get("Retry-After", 0))
    with pytest.raises(ProblemError):
        Service(chain([LOST], repeat(refusal))).client(token="vma_1", patience=0.6).vms.get("1")


@pytest.mark.parametrize("code", ["overloaded", "idempotency_key_in_flight", "rate_limited"])
def test_a_change_that_was_never_begun_is_refused(code: str) -> None:
    status = {"overloaded": 503, "idempotency_key_in_flight": 409, "rate_limited": 429}[code]
    service = Service(repeat(problem(code, status)))
    with pytest.raises(ProblemError):
        service.client(patience=0.6).vms.create(name="web-1", flavor="m1.tiny")
    assert len(service.requests) > 1


@pytest.mark.parametrize("code", ["database_unavailable", "shutting_down"])
def test_a_change_that_an_outage_met_may_have_been_made(code: str) -> None:
    service = Service(chain([problem(code, 503)], repeat(problem("overloaded", 503))))
    with pytest.raises(UnreachableError, match="may have made the change"):
        service.client(patience=0.6).vms.create(name="web-1", flavor="m1.tiny")


def test_a_lost_answer_is_remembered_if_the_token_cannot_be_renewed() -> None:
    store = MemoryTokens()
    store.write(tokens("1"))
    service = Service([LOST, problem("invalid_token", 401), problem("invalid_refresh_token", 401)])
    with pytest.raises(UnreachableError, match="may have made the change; a later one was refused: It is"):
        service.client(tokens=store).vms.create(name="web-1", flavor="m1.tiny")


def test_a_change_with_a_key_is_refused_if_the_service_has_looked_at_the_key() -> None:
    """It would have repeated its first answer."""
    service = Service([LOST, problem("precondition_failed", 412)])
    with pytest.raises(ProblemError):
        service.client().vms.stop("1", if_match='"a"')
