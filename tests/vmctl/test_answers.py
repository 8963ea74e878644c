"""Answers that are none of the service: each is an error of the client in one line, and none is endless."""

from collections.abc import Callable
from gzip import compress
from itertools import cycle
from uuid import uuid4

import httpx
import pytest

from tests.vmctl.doubles import Service, answer, operation, user
from vmctl.client import Client, UnreadableError, UnusableError
from vmctl.client.sync import transport

GARBAGE = (b"", b"{{", b"[1]", b'{"items": {}}', b'{"items": [{}], "next_cursor": null}', b"\xff", b"[" * 100_000)
READS: tuple[Callable[[Client], object], ...] = (
    lambda client: list(client.vms.list()),
    lambda client: client.account.me(),
    lambda client: client.account.log_in("ada", "secret"),
    lambda client: client.vms.create(name="web-1", flavor="m1.small", image="debian-12"),
    lambda client: client.vms.get_with_etag("1"),
    lambda client: client.volumes.change("1", name="data"),
    lambda client: client.operations.wait([uuid4()]),
)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("body", GARBAGE)
def test_an_answer_of_another_form_is_an_error_in_words(body: bytes, read: Callable[[Client], object]) -> None:
    headers = {"Content-Type": "application/json", "ETag": '"1"'}
    service = Service(lambda _: httpx.Response(200, content=body, headers=headers))
    with pytest.raises(UnreadableError, match=r"answered what this version cannot read: [^\n]+$"):
        read(service.client())


def test_an_answer_without_its_etag_or_with_another_operation_is_an_error_in_words() -> None:
    service = Service([answer(operation()), answer({}, Operation_Location="/operations/../x")])
    with pytest.raises(UnreadableError, match="it has no ETag"):
        service.client().operations.get_with_etag("1")
    with pytest.raises(UnreadableError, match=r"Operation-Location '/operations/\.\./x'"):
        service.client().vms.delete("1")


@pytest.mark.parametrize("cursors", [["a"], ["a", "b", "c"], [*map(str, range(9))], [""]])
def test_a_list_whose_cursors_come_again_ends(cursors: list[str]) -> None:
    pages = cycle(cursors)
    service = Service(lambda _: answer({"items": [], "next_cursor": next(pages)}))
    with pytest.raises(UnreadableError, match="no end"):
        list(service.client().vms.list())
    assert len(service.requests) < 5 * len(cursors) + 2


def test_a_cursor_that_fits_into_no_request_is_an_error_in_words() -> None:
    service = Service([answer({"items": [], "next_cursor": "a" * 1_000_000})])
    with pytest.raises(UnreadableError, match=r"next_cursor: String should have at most 8192 characters$"):
        list(service.client().vms.list())
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: list(client.vms.list(name="a" * 70_000)),
        lambda client: client.vms.get("a" * 70_000),
        lambda client: client.ssh_keys.delete("a" * 70_000),
        lambda client: next(client.events(vm_id="a" * 70_000)),
        lambda client: next(client.events(vm_id="../projects")),
    ],
)
def test_a_name_or_an_id_that_fits_into_no_request_is_an_error_in_words(ask: Callable[[Client], object]) -> None:
    service = Service([])
    with pytest.raises(UnusableError) as caught:
        ask(service.client())
    assert len(str(caught.value)) < 200
    assert service.requests == []


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_that_is_endless_once_decoded_is_given_up(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER", 10_000)
    bomb = compress(b" " * 20_000_000)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    service = Service([httpx.Response(status, stream=httpx.ByteStream(bomb), headers=headers)])
    with pytest.raises(UnreadableError, match="longer than 10,000 bytes"):
        service.client().account.me()


def test_a_compressed_answer_is_read() -> None:
    body = compress(answer(user()).content)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    service = Service([httpx.Response(200, stream=httpx.ByteStream(body), headers=headers)])
    assert service.client().account.me().username == user()["username"]
