"""Which requests the client sends again, with what, and when it stops."""

import threading
from collections.abc import Iterator, Sequence

import httpx
import pytest

from tests.vmctl.doubles import Service, answer, operation, problem, projects, tokens, user
from vmctl.client import Client, ProblemError, UnreachableError, UnusableError, retries
from vmctl.client.models import ProblemCode
from vmctl.client.tokens import MemoryTokens

REFUSED, LOST = httpx.ConnectError("refused"), httpx.ReadError("reset")
BUSY = ("overloaded", 503)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client try again at once, unless the service says otherwise."""

    def none() -> Iterator[float]:
        while True:
            yield 0.0

    monkeypatch.setattr(retries, "delays", none)


def test_a_change_is_sent_again_with_the_same_key_until_it_is_answered() -> None:
    service = Service([REFUSED, LOST, problem(*BUSY), httpx.Response(502), answer(operation(), 202)])
    service.client().operations.cancel("1")
    assert len(service.requests) == 5
    assert len(set(service.keys())) == 1
    assert service.keys()[0]


def test_two_changes_have_two_keys() -> None:
    service = Service([answer(operation(), 202), answer(operation(), 202)])
    client = service.client()
    client.operations.cancel("1")
    client.operations.cancel("1")
    assert len(set(service.keys())) == 2


def test_a_key_of_the_caller_is_used() -> None:
    service = Service([answer(operation(), 202)])
    service.client().operations.cancel("1", idempotency_key="mine")
    assert service.keys() == ["mine"]


def test_a_key_in_flight_is_waited_for() -> None:
    service = Service([problem("idempotency_key_in_flight", 409), answer(operation(), 202)])
    service.client().operations.cancel("1")
    assert len(service.requests) == 2


def test_a_refusal_is_not_repeated() -> None:
    service = Service([problem("too_late", 409)])
    with pytest.raises(ProblemError) as caught:
        service.client().operations.cancel("1")
    assert caught.value.problem.code is ProblemCode.TOO_LATE


@pytest.mark.parametrize("failure", [LOST, problem("too_many_failed_logins", 429)])
def test_a_login_that_may_have_arrived_is_not_repeated(failure: httpx.Response | Exception) -> None:
    service = Service([failure])
    with pytest.raises((ProblemError, UnreachableError)):
        service.client().account.log_in("ada", "secret")
    assert len(service.requests) == 1


def test_a_login_that_never_left_is_repeated_and_has_no_key() -> None:
    service = Service([REFUSED, answer(tokens("1").model_dump())])
    service.client().account.log_in("ada", "secret")
    assert service.keys() == [None, None]


def test_the_client_waits_as_long_as_the_service_asks() -> None:
    said: list[float] = []
    service = Service([problem(*BUSY, Retry_After="1"), answer(user())])
    service.client(on_retry=lambda _reason, seconds: said.append(seconds)).account.me()
    assert said == [1.0]


def test_the_client_does_not_wait_beyond_its_patience() -> None:
    service = Service([problem(*BUSY, Retry_After="60")])
    with pytest.raises(ProblemError):
        service.client(patience=5).account.me()


def test_a_service_that_stays_away_is_an_error_in_words() -> None:
    service = Service(iter(lambda: REFUSED, None))
    with pytest.raises(UnreachableError, match=r"^Cannot reach http://service\.example/api/v1/: refused$"):
        service.client(patience=0.1).account.me()


def test_an_answer_of_something_else_is_an_error_in_words() -> None:
    service = Service([httpx.Response(404, text="<html>")])
    with pytest.raises(UnreachableError, match=r"/auth/me answered 404 Not Found"):
        service.client().account.me()


def test_a_page_of_something_else_is_no_answer() -> None:
    service = Service([httpx.Response(200, html="<p>Welcome to our hotel</p>")])
    with pytest.raises(UnreachableError, match="not as this service does"):
        service.client().account.me()


def test_an_answer_that_cannot_be_decoded_is_an_error_in_words() -> None:
    service = Service([httpx.DecodingError("incorrect header check")])
    with pytest.raises(UnreachableError, match="cannot be decoded: incorrect header check"):
        service.client().account.me()


@pytest.mark.parametrize(
    "url",
    [
        *("", "vm.example", "127.0.0.1:8000", "ftp://vm.example", "http://", "http://[::1", "http://vm..example"),
        *(
            "http://xn--",
            "http://vm.example:99999",
            "http://vm.example:x",
            "http://vm\n.example",
            "http://vm.example/?a=b",
        ),
        "http://vm.example/#a",
    ],
)
def test_a_url_that_no_service_can_have_is_refused_at_once(url: str) -> None:
    with pytest.raises(UnusableError, match="is no address of a service"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["http://u:secret@vm.example", "https://secret@vm.example", "http://:secret@vm.example"]
)
def test_a_url_with_a_password_is_refused_because_it_would_replace_the_token(url: str) -> None:
    with pytest.raises(UnusableError, match="no user name and no password") as caught:
        Client(url, token="vma_1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["vma_1\nX: y", "vma_\xe9", "vma_ 1", "vma_\0"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(UnusableError) as caught:
        Client("http://vm.example", token=token)
    assert "vma_" not in str(caught.value)


def test_white_space_around_a_token_or_a_url_does_not_matter() -> None:
    """A file that holds one ends with a line end, and Kubernetes puts it into the environment as it is."""
    service = Service([answer(user())])
    transport = httpx.MockTransport(service)
    Client(" http://service.example/api/v1/ \n", token="vma_1\n", transport=transport).account.me()
    assert service.requests[0].headers["Authorization"] == "Bearer vma_1"
    assert str(service.requests[0].url) == "http://service.example/api/v1/auth/me"


@pytest.mark.parametrize("id", ["../tokens/1", "..", "1?for=all", "1#x", "1/../2", ""])
def test_an_id_cannot_lead_to_another_path(id: str) -> None:
    service = Service([])
    with pytest.raises(ValueError, match="no path of the service"):
        service.client().vms.get(id)
    assert service.requests == []


def kept(name: str) -> MemoryTokens:
    """A store with the tokens of a login."""
    store = MemoryTokens()
    store.write(tokens(name))
    return store


def test_an_expired_token_is_renewed_and_the_request_repeated_with_the_same_key() -> None:
    expired = problem("invalid_token", 401)
    service = Service([expired, answer(tokens("2").model_dump()), answer(operation(), 202)])
    store = kept("1")
    service.client(tokens=store).operations.cancel("1")
    first, refresh, second = service.requests
    assert refresh.url.path == "/api/v1/auth/refresh"
    assert "Authorization" not in refresh.headers
    assert (first.headers["Authorization"], second.headers["Authorization"]) == ("Bearer access-1", "Bearer access-2")
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert store.read() == tokens("2")


def test_a_lost_answer_to_a_refresh_is_asked_for_again() -> None:
    service = Service([problem("invalid_token", 401), LOST, answer(tokens("2").model_dump()), answer(user())])
    service.client(tokens=kept("1")).account.me()
    assert [request.url.path for request in service.requests[1:3]] == ["/api/v1/auth/refresh"] * 2


def test_tokens_that_somebody_else_has_renewed_are_used() -> None:
    store = kept("1")

    def handle(request: httpx.Request) -> httpx.Response:
        if request.headers["Authorization"] == "Bearer access-1":
            store.write(tokens("2"))  # as another command does in the meantime
            return problem("invalid_token", 401)
        return answer(user())

    assert Service(handle).client(tokens=store).account.me().username == "ada"


def test_many_threads_renew_a_token_once() -> None:
    store = kept("1")
    refreshes: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/auth/refresh"):
            refreshes.append("again")
            return answer(tokens("2").model_dump())
        return (
            answer(user()) if request.headers["Authorization"] == "Bearer access-2" else problem("invalid_token", 401)
        )

    client = Service(handle).client(tokens=store)
    threads = [threading.Thread(target=client.account.me) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refreshes == ["again"]


def test_a_given_token_is_never_renewed() -> None:
    service = Service([problem("invalid_token", 401)])
    with pytest.raises(ProblemError):
        service.client(token="vma_1", tokens=kept("1")).account.me()
    assert service.requests[0].headers["Authorization"] == "Bearer vma_1"


def test_a_list_is_read_page_by_page() -> None:
    pages = [{"items": [operation()], "next_cursor": "c2"}, {"items": [operation()], "next_cursor": None}]
    service = Service(map(answer, pages))
    assert len(list(service.client().operations.list(status=["FAILED", "CANCELED"]))) == 2
    query = [request.url.params for request in service.requests]
    assert [page.get("cursor") for page in query] == [None, "c2"]
    assert query[1].get_list("status") == ["FAILED", "CANCELED"]


@pytest.mark.parametrize("empty", ["", [], ["", "FAILED"], ()])
def test_an_empty_filter_is_refused_and_does_not_find_everything(empty: Sequence[str]) -> None:
    service = Service([])
    for find in (service.client().operations.list, service.client().vms.list, service.client().admin.users):
        with pytest.raises(UnusableError, match="The filter `project_id` is empty"):
            list(find(project_id=empty))
    with pytest.raises(UnusableError):
        service.client().projects.quotas("")
    assert service.requests == []


def test_an_empty_precondition_or_key_is_not_left_out() -> None:
    """The service refuses them."""
    service = Service([answer(operation(), 202)])
    service.client().operations.cancel("1", if_match="", idempotency_key="")
    assert [service.requests[0].headers[name] for name in ("If-Match", "Idempotency-Key")] == ["", ""]


def test_a_wait_for_a_vm_at_rest_names_no_status() -> None:
    service = Service([problem("not_found", 404)])
    with pytest.raises(ProblemError):
        service.client().vms.wait("1")
    assert dict(service.requests[0].url.params) == {"wait": "60"}


@pytest.mark.parametrize("name", ["cafe\u0301", "caf\u00e9", " caf\u00e9\n"])
def test_a_name_is_found_in_whatever_form_it_is_written(name: str) -> None:
    """The service keeps names in NFC and without white space around them; early ones it has as they were sent."""
    other, wanted = projects("cafe", "caf\u00e9")["items"]
    service = Service(lambda _: answer({"items": [other, wanted], "next_cursor": None}))
    for kind in (service.client().projects, service.client().vms):
        assert str(kind.find_id(name)) == wanted["id"]
    assert service.requests[1].url.params["name"] == "caf\u00e9"
    early = Service([answer(projects("cafe\u0301"))])
    assert early.client().projects.find_id(name)


def test_a_service_with_smaller_pages_chooses_their_size() -> None:
    refused = problem("validation_failed", 422)
    wrong = {"code": "too_large", "detail": "At most 50.", "parameter": "page_size"}
    refused = answer({**refused.json(), "errors": [wrong]}, 422)
    page = {"items": [operation()], "next_cursor": None}
    service = Service([refused, answer(page), answer(page)])
    client = service.client()
    assert len([*client.operations.list(), *client.operations.list()]) == 2
    assert [request.url.params.get("page_size") for request in service.requests] == ["100", None, None]


def test_words_and_fields_of_a_later_version_are_kept() -> None:
    body = operation(action="dance", partner={"name": "bob"})
    found = Service([answer(body)]).client().operations.get("1")
    assert found.action == "dance"
    assert found.model_dump(mode="json")["partner"] == {"name": "bob"}
