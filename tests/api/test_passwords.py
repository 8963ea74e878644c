"""How passwords are kept."""

import bcrypt

from api.web import security


async def test_a_hash_costs_2_to_the_12_whether_the_user_exists_or_not() -> None:
    kept = await security.hash_password("Correct-Horse-1")
    assert kept.startswith("$2b$12$")
    assert security._NOBODY.startswith("$2b$12$")


async def test_nobody_has_no_password() -> None:
    assert bcrypt.checkpw(b"nobody", security._NOBODY.encode())
    assert not await security.verify_password("nobody", None)
