"""Renewals of tokens. One that is cut off ends the login: the service has used the old token, the new one is lost."""

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import sleep

import httpx
import pytest

from tests.vmctl.doubles import URL, Service, answer, problem, tokens, user
from vmctl.cli import stops
from vmctl.cli.stops import StoppedError
from vmctl.client import AsyncClient, ProblemError, UnreachableError, sending
from vmctl.client.sync import transport
from vmctl.client.tokens import MemoryTokens


def renewed() -> httpx.Response:
    """The answer with new tokens."""
    return answer(tokens("2").model_dump())


def kept() -> MemoryTokens:
    """A store with the tokens of a login, of which the access token has expired."""
    store = MemoryTokens()
    store.write(tokens("1"))
    return store


def is_renewal(request: httpx.Request) -> bool:
    """Whether new tokens are asked for."""
    return request.url.path.endswith("/auth/refresh")


def own_profile(request: httpx.Request) -> httpx.Response:
    """The answer to a request with the new access token, or with another one."""
    is_new = request.headers["Authorization"] == "Bearer access-2"
    return answer(user()) if is_new else problem("invalid_token", 401)


async def test_a_renewal_whose_caller_is_canceled_goes_on() -> None:
    begun, go_on, store = asyncio.Event(), asyncio.Event(), kept()

    async def serve(request: httpx.Request) -> httpx.Response:
        if not is_renewal(request):
            return own_profile(request)
        begun.set()
        await go_on.wait()
        return renewed()

    client = AsyncClient(URL, transport=httpx.MockTransport(serve), tokens=store)
    caller = asyncio.create_task(client.account.me())
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await closing
    assert store.read() == tokens("2")


def test_a_renewal_goes_on_when_a_signal_stops_the_command() -> None:
    store = kept()
    before = signal.signal(signal.SIGUSR1, stops._stop)

    def serve(request: httpx.Request) -> httpx.Response:
        if is_renewal(request):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            sleep(0.2)  # the main thread has stopped waiting for this by now
            return renewed()
        return own_profile(request)

    client = Service(serve).client(tokens=store)
    try:
        with pytest.raises(StoppedError):
            client.account.me()
        assert store.read() == tokens("1")
        client.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert store.read() == tokens("2")


@pytest.mark.parametrize("seconds", [10.0, 15.0])
def test_a_service_that_is_slow_to_answer_a_renewal_does_not_end_the_login(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The first attempt is given up early, because its answer may be lost. The next one has the rest of the time."""
    now = 0.0
    monkeypatch.setattr(sending, "monotonic", lambda: now)
    monkeypatch.setattr(transport, "monotonic", lambda: now)
    monkeypatch.setattr(transport, "sleep", lambda _: None)

    def serve(request: httpx.Request) -> httpx.Response:
        nonlocal now
        if not is_renewal(request):
            return own_profile(request)
        longest = request.extensions["timeout"]["read"]
        now += min(seconds, longest)
        if seconds > longest:
            raise httpx.ReadTimeout("timed out", request=request)
        return renewed()

    store = kept()
    Service(serve).client(tokens=store).account.me()
    assert store.read() == tokens("2")
    assert now <= sending.RENEWAL_WITHIN


def test_a_renewal_is_not_repeated_before_the_service_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transport, "sleep", pauses.append)
    service = Service([problem("invalid_token", 401), problem("rate_limited", 429, Retry_After="26")])
    with pytest.raises(ProblemError, match="rate_limited"):
        service.client(tokens=kept(), patience=60).account.me()
    assert pauses == []


@pytest.mark.parametrize("failure", [problem("invalid_token", 401), httpx.ConnectError("refused")])
def test_callers_that_wait_for_a_renewal_share_its_failure(failure: httpx.Response | Exception) -> None:
    """Each would otherwise fail by itself, one after the other."""
    everyone = threading.Barrier(8)
    renewals: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        if not is_renewal(request):
            everyone.wait(60)
            return problem("invalid_token", 401)
        renewals.append("again")
        sleep(0.3)  # the other callers stand in line by now
        if isinstance(failure, Exception):
            raise failure
        return failure

    client = Service(serve).client(tokens=kept(), patience=0)

    def ask(_: int) -> None:
        with suppress(ProblemError, UnreachableError):
            client.account.me()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert renewals == ["again"]
    with suppress(ProblemError, UnreachableError, threading.BrokenBarrierError):
        everyone.abort()
        client.account.me()
