"""SSH keys: kept per user, listed, refused if no server would accept them, and at most a hundred."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.guests import SSHKey
from tests.api.conftest import Person, count, pointers
from tests.support.ssh_keys import ED25519, new_key

FINGERPRINT = "SHA256:UQplo0ygLmiJYi5qlBr9LR3wG3fZyHP8BCEXY4yCYVs"


async def add(user: Person, name: str = "laptop", public_key: str = ED25519, **headers: str) -> httpx.Response:
    """Add a key."""
    return await user.http.post("/ssh-keys", json={"name": name, "public_key": public_key}, headers=headers)


async def names_of(user: Person, **query: Any) -> list[str]:
    """The names of the user's keys, as the list shows them."""
    return [key["name"] for key in (await user.http.get("/ssh-keys", params=query)).json()["items"]]


async def test_a_key_is_kept_shown_and_forgotten(ada: Person) -> None:
    answer = await add(ada, public_key=f" {ED25519}   ada@laptop\n")
    key = answer.json()
    assert answer.status_code == 201, answer.text
    assert key | {"created_at": ""} == {
        "name": "laptop",
        "type": "ssh-ed25519",
        "fingerprint": FINGERPRINT,
        "public_key": f"{ED25519} ada@laptop",
        "created_at": "",
    }
    assert answer.headers["Location"] == "/api/v1/ssh-keys/laptop"
    assert (await ada.http.get("/ssh-keys/laptop")).json() == key
    assert (await ada.http.get("/ssh-keys")).json()["items"] == [key]
    assert (await ada.http.delete("/ssh-keys/laptop")).status_code == 204
    assert (await ada.http.get("/ssh-keys/laptop")).status_code == 404
    assert (await ada.http.delete("/ssh-keys/laptop")).status_code == 404
    assert await names_of(ada) == []


async def test_another_users_keys_are_not_seen_and_may_have_the_same_names(ada: Person, bob: Person) -> None:
    await add(ada)
    assert (await bob.http.get("/ssh-keys/laptop")).status_code == 404
    assert (await bob.http.delete("/ssh-keys/laptop")).status_code == 404
    assert await names_of(bob) == []
    assert (await add(bob)).status_code == 201


async def test_a_name_is_used_once(ada: Person, engine: AsyncEngine) -> None:
    await add(ada)
    answer = await add(ada, public_key=new_key())
    assert (answer.status_code, answer.json()["code"], pointers(answer.json())) == (409, "name_taken", {"#/name"})
    assert await count(engine, SSHKey) == 1


async def test_a_repeated_request_with_its_key_adds_once(ada: Person) -> None:
    first = await add(ada, **{"Idempotency-Key": "one"})
    again = await add(ada, **{"Idempotency-Key": "one"})
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    deleted = [await ada.http.delete("/ssh-keys/laptop", headers={"Idempotency-Key": "two"}) for _ in range(2)]
    assert [answer.status_code for answer in deleted] == [204, 204]


async def test_keys_are_listed_by_name_in_pages(ada: Person) -> None:
    for name in ("work", "home", "A", "b@x.org"):
        assert (await add(ada, name)).status_code == 201
    everything = await names_of(ada)
    assert sorted(everything) == ["A", "b@x.org", "home", "work"]
    first = (await ada.http.get("/ssh-keys", params={"page_size": 3})).json()
    rest = await names_of(ada, page_size=3, cursor=first["next_cursor"])
    assert [key["name"] for key in first["items"]] + rest == everything
    assert first["total"] == 4


@pytest.mark.parametrize("name", ["my key", "ada@example.com", "a.b_c-d", "k" * 64])
async def test_a_key_is_found_by_its_name_in_the_path(ada: Person, name: str) -> None:
    location = (await add(ada, name)).headers["Location"]
    assert (await ada.http.get(f"http://api{location}")).json()["name"] == name
    assert (await ada.http.delete(f"http://api{location}")).status_code == 204


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a ", " a", "é", "k" * 65, "a\n", 3, None])
async def test_a_name_that_cannot_stand_in_a_path_is_refused(visitor: Person, name: Any) -> None:
    answer = await visitor.http.post("/ssh-keys", json={"name": name, "public_key": ED25519})
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/name"})


async def test_a_path_with_a_name_that_no_key_can_have_is_refused(ada: Person) -> None:
    answer = await ada.http.get("/ssh-keys/%00")
    assert (answer.status_code, pointers(answer.json())) == (422, {"name"})


async def test_a_key_that_no_server_accepts_is_refused_with_the_reason_and_not_repeated(ada: Person) -> None:
    private = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
    for public_key in (private, "ssh-dss AAAA", f"{ED25519[:-8]}", f"{ED25519}\n{ED25519}", "", "x" * 8193):
        answer = await add(ada, public_key=public_key)
        assert (answer.status_code, pointers(answer.json())) == (422, {"#/public_key"})
        assert "c2VjcmV0" not in answer.text
    [error] = (await add(ada, public_key=private)).json()["errors"]
    assert error["code"] == "invalid_ssh_key"
    assert error["detail"].startswith("This is a private key;")


async def test_a_user_has_at_most_a_hundred_keys_also_if_requests_come_at_once(ada: Person, bob: Person) -> None:
    for number in range(97):
        assert (await add(ada, f"key-{number}")).status_code == 201
    answers = await asyncio.gather(*(add(ada, f"late-{number}") for number in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [403] * 5
    refused = next(answer.json() for answer in answers if answer.status_code == 403)
    assert (refused["code"], "100" in refused["detail"]) == ("quota_exceeded", True)
    assert (await add(bob)).status_code == 201
    assert (await ada.http.delete("/ssh-keys/key-0")).status_code == 204
    assert (await add(ada, "key-0")).status_code == 201


async def test_a_user_whose_account_was_deleted_cannot_add_a_key(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM users")
    assert (await add(ada)).status_code == 401
