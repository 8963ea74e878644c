"""Renewals of tokens. One that is cut off ends the login: the service has used the old token, the new one is lost."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from time import sleep

import httpx
import pytest

from tests.meta.files import ROOT
from tests.vmctl.conftest import Command
from tests.vmctl.doubles import URL, Service, answer, listening, problem, tokens, user
from vmctl.cli import stops
from vmctl.cli.config import FileTokens
from vmctl.client import AsyncClient, ProblemError, UnreachableError, sending
from vmctl.client.sync import transport
from vmctl.client.tokens import MemoryTokens


def renewed() -> httpx.Response:
    """The answer with new tokens."""
    return answer(tokens("2").model_dump())


def kept() -> MemoryTokens:
    """A store with the tokens of a login. The access token has expired."""
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


async def test_a_caller_that_is_canceled_while_another_renews_renews_nothing() -> None:
    begun, go_on, renewals = asyncio.Event(), asyncio.Event(), list[str]()

    async def serve(request: httpx.Request) -> httpx.Response:
        if not is_renewal(request):
            return own_profile(request)
        renewals.append("again")
        begun.set()
        await go_on.wait()
        return problem("overloaded", 503)

    async with AsyncClient(URL, transport=httpx.MockTransport(serve), tokens=kept(), patience=0) as client:
        first = asyncio.create_task(client.account.me())
        await begun.wait()
        second = asyncio.create_task(client.account.me())
        await asyncio.sleep(0.05)
        second.cancel()
        go_on.set()
        with pytest.raises(ProblemError):
            await first
    assert second.cancelled()
    assert renewals == ["again"]


@pytest.fixture
def slow() -> Iterator[tuple[Service, Event, Event]]:
    """A service that answers a renewal late; the events say that it was asked for, and let it answer."""
    begun, go_on = Event(), Event()

    def serve(request: httpx.Request) -> httpx.Response:
        if not is_renewal(request):
            return problem("invalid_token", 401)
        begun.set()
        go_on.wait(60)
        return renewed()

    yield Service(serve), begun, go_on
    go_on.set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_after_its_renewal_and_the_second_one_at_once(
    alone: Command, monkeypatch: pytest.MonkeyPatch, slow: tuple[Service, Event, Event], number: signal.Signals
) -> None:
    service, begun, go_on = slow
    monkeypatch.setenv("XDG_CONFIG_HOME", alone.environment["XDG_CONFIG_HOME"])
    # A shell's background jobs, and so perhaps these tests, ignore Ctrl-C, and their children inherit that.
    main = "import signal, vmctl.__main__ as m; signal.signal(signal.SIGINT, signal.default_int_handler); m.main()"
    with listening(service) as alone.environment["VMCTL_URL"]:
        store = FileTokens(alone.environment["VMCTL_URL"])
        for new, signals in (("1", 2), ("2", 1)):
            store.write(tokens("1"))
            begun.clear()
            command = [sys.executable, "-c", main, "whoami"]
            with subprocess.Popen(command, env=alone.environment, cwd=ROOT, stderr=subprocess.PIPE) as running:
                assert begun.wait(60)
                assert running.stderr
                running.send_signal(number)
                assert b"The login is being renewed" in running.stderr.readline() + running.stderr.readline()
                if signals == 2:
                    sleep(stops._SAME_CAUSE)
                    running.send_signal(number)
                else:
                    running.send_signal(number)  # at once, as a terminal that is closed does it
                    sleep(0.1)
                    go_on.set()
                assert running.wait(60) == 128 + number
            assert store.read() == tokens(new)


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


def test_callers_do_not_share_the_failure_of_a_renewal_that_a_login_has_outdated() -> None:
    everyone, store = threading.Barrier(8), kept()

    def serve(request: httpx.Request) -> httpx.Response:
        if is_renewal(request):
            store.write(tokens("2"))  # as somebody who logs in
            return problem("invalid_token", 401)
        if request.headers["Authorization"] == "Bearer access-1":
            everyone.wait(60)
        return own_profile(request)

    client = Service(serve).client(tokens=store)

    def is_refused(_: int) -> bool:
        with suppress(ProblemError):
            return not client.account.me()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(is_refused, range(8))) == 1


def test_a_token_is_renewed_while_the_program_ends(alone: Command, slow: tuple[Service, Event, Event]) -> None:
    """As in a function of `atexit` that cleans up."""
    program = """
import atexit, sys
from vmctl.client import Client
from vmctl.client.models import TokenPair
client = Client(sys.argv[1])
client.transport.tokens.write(TokenPair(access_token="1", refresh_token="1", token_type="bearer", expires_in=1))
atexit.register(client.operations.cancel, "1")
"""
    service, _, go_on = slow
    go_on.set()
    with listening(service) as url:
        subprocess.run([sys.executable, "-c", program, url], env=alone.environment, cwd=ROOT, check=True)
    assert [request.url.path.rpartition("/")[2] for request in service.requests] == ["cancel", "refresh", "cancel"]
