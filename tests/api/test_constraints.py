"""Violated constraints are recognized by PostgreSQL's structured fields, never by words of the message."""

from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.data import addresses
from domain.data.accounts import RefreshToken, User
from domain.data.queries import violated_constraint
from domain.settings import Settings
from tests.api.conftest import FLAVOR, PASSWORD, Person, signing_of
from tests.support.rows import add_interface, add_user, add_vm


async def test_an_email_that_contains_the_name_of_a_constraint_is_taken_as_an_email(
    anyone: httpx.AsyncClient,
) -> None:
    body = {"username": "first", "email": "uq_users_username@example.com", "password": PASSWORD}
    assert (await anyone.post("/auth/register", json=body)).status_code == 201
    second = await anyone.post("/auth/register", json=body | {"username": "second"})
    assert (second.status_code, second.json()["code"]) == (409, "email_taken")


async def test_a_username_that_is_the_name_of_a_constraint_is_taken_as_a_username(anyone: httpx.AsyncClient) -> None:
    body = {"username": "uq_users_email", "email": "one@example.com", "password": PASSWORD}
    assert (await anyone.post("/auth/register", json=body)).status_code == 201
    second = await anyone.post("/auth/register", json=body | {"email": "two@example.com"})
    assert (second.status_code, second.json()["code"]) == (409, "username_taken")


async def test_the_name_of_a_constraint_in_a_value_is_no_taken_address(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await add_user(connection, "uq_interfaces_mac_address")
        with pytest.raises(IntegrityError) as raised:
            await add_user(connection, "uq_interfaces_mac_address")
        await connection.rollback()
    assert not addresses.is_taken(raised.value)


async def test_a_taken_address_is_recognized(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        vm = await add_vm(connection, await add_user(connection))
        await add_interface(connection, vm)
        with pytest.raises(IntegrityError) as raised:
            await add_interface(connection, vm)
        await connection.rollback()
    assert addresses.is_taken(raised.value)


async def test_requests_of_a_removed_account_have_an_invalid_token(
    ada: Person, engine: AsyncEngine, settings: Settings
) -> None:
    token_id = uuid4()
    token = security.sign(signing_of(settings), "refresh", ada.caller, token_id, timedelta(minutes=5))
    async with engine.begin() as tx:
        await tx.execute(delete(RefreshToken))
        await tx.execute(delete(User).where(User.id == ada.user.id))
    for path, body in (
        ("/vms", {"name": "web", "flavor_id": FLAVOR}),
        ("/volumes", {"name": "data", "size_gb": 1}),
        ("/auth/refresh", {"refresh_token": token}),
    ):
        answer = await ada.http.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token"), path


async def test_another_foreign_key_is_not_taken_for_the_owners(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(IntegrityError) as raised:
            await add_vm(connection, await add_user(connection), flavor_id=uuid4())
        await connection.rollback()
        assert violated_constraint(raised.value) == "fk_vms_flavor_id"
        with pytest.raises(IntegrityError) as missing:
            await connection.execute(insert(User).values(username=None, email="x", password_hash="x"))
        await connection.rollback()
    assert violated_constraint(missing.value) is None
