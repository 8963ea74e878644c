"""How passwords are stored and checked."""

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
