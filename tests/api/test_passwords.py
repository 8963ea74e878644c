"""How passwords are stored and checked."""

import asyncio
import threading

import bcrypt
import pytest

from api.web import security


async def test_real_and_dummy_hashes_have_the_same_cost() -> None:
    password_hash = await security.hash_password("Correct-Horse-1")
    assert password_hash.startswith("$2b$12$")
    assert security._DUMMY_HASH.startswith("$2b$12$")


async def test_no_password_matches_without_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_digest", str.encode)  # the dummy is the hash of a text, not of a digest
    assert bcrypt.checkpw(b"nobody", security._DUMMY_HASH.encode())
    assert not await security.verify_password("nobody", None)


async def test_a_check_that_is_canceled_lasts_until_its_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn to hash is free after that only. Else strangers, who can have their logins cut, would get more turns."""
    begun, go_on = threading.Event(), threading.Event()

    def check(*_: bytes) -> bool:
        begun.set()
        return go_on.wait(60)

    monkeypatch.setattr(bcrypt, "checkpw", check)
    login = asyncio.create_task(security.verify_password("Correct-Horse-1", None))
    await asyncio.to_thread(begun.wait, 60)
    login.cancel()
    ended, _ = await asyncio.wait([login], timeout=0.1)
    go_on.set()
    assert not ended
    with pytest.raises(asyncio.CancelledError):
        await login
