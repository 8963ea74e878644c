"""Who may register, and with which passwords."""

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.accounts import User
from domain.rules.passwords import is_obvious, names_of
from domain.settings import Settings
from tests.api.accounts.conftest import ACCOUNT
from tests.api.conftest import client_of, count, pointers, running


async def test_nobody_can_register_where_registration_is_closed(settings: Settings, engine: AsyncEngine) -> None:
    async with running(settings.model_copy(update={"registration": "closed"})) as app, client_of(app) as http:
        answer = await http.post("/auth/register", json=ACCOUNT)
    assert (answer.status_code, answer.json()["code"]) == (403, "registration_closed")
    assert await count(engine, User) == 0


@pytest.mark.parametrize(
    "password",
    ["Password1", "Qwerty123", "Password1!", "Hopper1906", "Hopper1906!"],
)
async def test_an_obvious_password_is_refused(app: FastAPI, password: str) -> None:
    account = ACCOUNT | {"username": "hopper1906", "password": password}
    answer = await client_of(app).post("/auth/register", json=account)
    problem = answer.json()
    assert (answer.status_code, pointers(problem)) == (422, {"#/password"})
    assert problem["errors"][0]["code"] == "password_too_common"
    assert password not in answer.text


async def test_the_part_of_the_address_before_the_at_is_no_password(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.post(
        "/auth/register", json=ACCOUNT | {"email": "Amazing.Grace1@navy.test", "password": "Amazing.Grace1"}
    )
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/password"})


async def test_a_wrong_name_is_the_only_error_of_a_good_password(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.post("/auth/register", json=ACCOUNT | {"username": "-"})
    assert pointers(answer.json()) == {"#/username"}


NAMES = names_of("grace", "grace@navy.test")


@pytest.mark.parametrize(
    "password", ["password1", "PASSWORD1", "--password1--", "_password1_", "grace", "Grace!", "grace@navy.test"]
)
def test_case_and_signs_around_it_do_not_hide_an_obvious_password(password: str) -> None:
    assert is_obvious(password, NAMES)


@pytest.mark.parametrize("password", ["correct-horse-1", "graceful-1", "----"])
def test_other_passwords_are_not_obvious(password: str) -> None:
    assert not is_obvious(password, NAMES)


def test_an_empty_name_is_not_what_a_password_of_signs_is_compared_with() -> None:
    assert not is_obvious("--------", names_of("", ""))
