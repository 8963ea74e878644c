"""Names, labels, passwords and addresses: equal texts are equal, and what readers cannot see is refused."""

import json
import unicodedata
from typing import Any, Literal

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from api.web.filters import has_name
from domain.data.accounts import User
from domain.data.models import VM, Volume
from domain.rules import text
from domain.rules.states import Status
from tests.api.conftest import FLAVOR, PASSWORD, Person, pointers
from tests.support.rows import add_vm

JSON = {"Content-Type": "application/json"}
NFC, NFD = "\u00e9t\u00e9", "e\u0301te\u0301"
ACCENTS = "\u0300\u0316" * 2000
UNSEEN = ["\u200b", "web\u200b1", "\u202egnp.exe", "a\u2066b", "\u3164", "\u2800", "\ufeff", "tag\U000e0041", "\u0301"]
UNSEEN += [f"web{space}1" for space in "\u00a0\u1680\u2003\u202f\u205f\u3000"]  # like a space, or nothing


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with the lowest cost that bcrypt allows."""
    monkeypatch.setattr(security, "_BCRYPT_COST", 4)


def account(**change: str) -> dict[str, str]:
    """The body of a registration."""
    return {"username": "grace", "email": "grace@navy.test", "password": PASSWORD} | change


async def log_in(http: httpx.AsyncClient, password: str, username: str = "grace") -> int:
    """The status of the answer to a login."""
    return (await http.post("/auth/login", json={"username": username, "password": password})).status_code


async def found(caller: Person, path: str, name: str) -> set[str]:
    """The names that the filter finds."""
    answer = await caller.http.get(path, params={"name": name})
    assert answer.status_code == 200, answer.text
    return {item["name"] for item in answer.json()["items"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/vms", {"name": ACCENTS, "flavor_id": FLAVOR}),
        ("/vms", {"name": "web", "flavor_id": FLAVOR, "labels": {"a": ACCENTS}}),
        ("/volumes", {"name": f" {ACCENTS}", "size_gb": 1}),
        ("/auth/login", {"username": ACCENTS, "password": ACCENTS}),
        ("/auth/register", {"username": "grace", "email": f"g@{ACCENTS}", "password": PASSWORD + ACCENTS}),
    ],
)
async def test_a_text_of_thousands_of_accents_is_refused_without_putting_them_in_order(
    ada: Person, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes a time that grows with the square of their number."""
    sizes = []

    def normalize(form: Literal["NFC", "NFD"], value: str) -> str:
        sizes.append(len(value))
        return unicodedata.normalize(form, value)

    monkeypatch.setattr(text, "normalize", normalize)
    answer = await ada.http.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert {error["code"] for error in answer.json()["errors"]} <= {"too_long", "password_length"}
    assert max(sizes, default=0) <= 4 * 256


async def test_a_text_may_have_its_full_length_in_the_form_that_is_four_times_as_long(ada: Person) -> None:
    name = "\u1fa7" * 255
    sent = unicodedata.normalize("NFD", name)
    assert len(sent) == 4 * len(name)
    answer = await ada.http.post("/volumes", json={"name": f"  {sent}\n", "size_gb": 1})
    assert (answer.status_code, answer.json()["name"]) == (202, name)
    assert (await ada.http.post("/volumes", json={"name": f"{sent}a", "size_gb": 1})).status_code == 422


@pytest.mark.parametrize("name", UNSEEN, ids=ascii)
async def test_a_name_that_readers_cannot_see_is_refused_everywhere(
    ada: Person, engine: AsyncEngine, name: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.ACTIVE)
    answers = [
        await ada.http.post("/vms", json={"name": name, "flavor_id": FLAVOR}),
        await ada.http.patch(f"/vms/{vm.id}", json={"name": name}),
        await ada.http.post("/volumes", json={"name": name, "size_gb": 1}),
        await ada.http.post(f"/vms/{vm.id}/snapshots", json={"name": name}),
    ]
    assert [(answer.status_code, pointers(answer.json())) for answer in answers] == [(422, {"#/name"})] * 4


async def test_a_label_with_a_character_that_readers_cannot_see_is_refused(ada: Person) -> None:
    body = {"name": "web", "flavor_id": FLAVOR, "labels": {"env": "pro\u200bd"}}
    answer = await ada.http.post("/vms", json=body)
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/labels/env"})
    [error] = answer.json()["errors"]
    assert "U+200B (ZERO WIDTH SPACE)" in error["detail"]


async def test_names_and_labels_are_stored_in_one_form(ada: Person) -> None:
    vm = await ada.create(f"\N{NO-BREAK SPACE}{NFD} ", labels={"season": f" {NFD}"})
    assert (vm["name"], vm["labels"]) == (NFC, {"season": NFC})
    volume = await ada.http.post("/volumes", json={"name": NFD, "size_gb": 1})
    assert volume.json()["name"] == NFC
    for value in (NFC, NFD):
        assert (await ada.http.get("/vms", params={"labels": f"season={value}"})).json()["total"] == 1


async def test_the_longest_name_is_measured_in_its_stored_form(ada: Person) -> None:
    assert (await ada.create("e\u0301" * 255))["name"] == "\u00e9" * 255
    answer = await ada.http.post("/vms", json={"name": "e\u0301" * 256, "flavor_id": FLAVOR})
    assert pointers(answer.json()) == {"#/name"}


@pytest.mark.parametrize("path", ["/vms", "/volumes"])
async def test_the_filter_by_name_ignores_case_and_form_in_every_language(
    ada: Person, engine: AsyncEngine, path: str
) -> None:
    """The databases of tests have the locale C, whose lower() knows only ASCII."""
    model = VM if path == "/vms" else Volume
    names = ["\u00c9T\u00c9-1", f"early {NFD}", "ОБЛАКО", "Straße", "web_1%", "Web-2", "\N{KELVIN SIGN}ube"]
    for name in names:
        if path == "/vms":
            await ada.create("new", network_ids=[])
        else:
            assert (await ada.http.post(path, json={"name": "new", "size_gb": 1})).status_code == 202
        async with engine.begin() as tx:  # as an early release stored it
            await tx.execute(update(model).where(model.name == "new").values(name=name))
    assert await found(ada, path, NFC) == {names[0], names[1]}
    assert await found(ada, path, NFD.upper()) == {names[0], names[1]}
    assert await found(ada, path, "\u00e9t\u00e9-") == {names[0]}
    assert await found(ada, path, "облак") == {"ОБЛАКО"}
    assert await found(ada, path, "STRASSE") == await found(ada, path, "straß") == {"Straße"}
    assert await found(ada, path, "WEB") == {"web_1%", "Web-2"}
    assert await found(ada, path, "b_1%") == {"web_1%"}
    assert await found(ada, path, "KUBE") == {names[-1]}
    assert await found(ada, path, "(.*)") == await found(ada, path, "***=x") == set()


async def test_a_letter_without_other_forms_is_in_nfc_for_postgresql_too(engine: AsyncEngine) -> None:
    """Its version of Unicode may be newer than Python's."""
    codes = "generate_series(1, 1114111) AS code WHERE code NOT BETWEEN 55296 AND 57343"
    others = f"SELECT count(*) FROM {codes} AND chr(code) IS NOT NFC NORMALIZED"  # noqa: S608
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql(others)).scalar_one() > 1000
        missed = await connection.exec_driver_sql(f"{others} AND chr(code) !~ $1", (text.other_form_pattern(),))
        assert missed.scalar_one() == 0


async def test_only_names_that_may_have_other_forms_are_brought_into_nfc(ada: Person, engine: AsyncEngine) -> None:
    """That takes twenty times as long as to look for the part. Without it, the others are found as before."""
    async with engine.begin() as tx:
        for name in (NFC, "Straße é", "ОБЛАКО É", NFD):
            await add_vm(tx, ada.user, name=name)
    found = select(VM.name).where(has_name(VM.name, "é")).compile(engine.sync_engine)
    values = tuple(found.params[name] for name in found.positiontup or ())
    without = str(found).replace("normalize(vms.name)", "NULL")
    async with engine.connect() as connection:
        assert len((await connection.exec_driver_sql(str(found), values)).all()) == 4
        names = set((await connection.exec_driver_sql(without, values)).scalars())
    assert names == {NFC, "Straße é", "ОБЛАКО É"}


@pytest.mark.parametrize(
    "typed", ["\u0645\u062d\u0645\u0651\u064e\u062f", "\u05d1\u05bc\u05b7\u05ea", "q\u0307\u0323"], ids=ascii
)
async def test_an_early_name_is_found_although_its_accents_are_in_the_order_of_typing(
    ada: Person, engine: AsyncEngine, typed: str
) -> None:
    """Keyboards send the vowel after the doubling or the other way round; the form NFC has one order."""
    async with engine.begin() as tx:
        await add_vm(tx, ada.user, name=typed)
    assert await found(ada, "/vms", typed) == {typed}


async def test_early_labels_are_found_in_every_form_of_their_letters(ada: Person, engine: AsyncEngine) -> None:
    early = {"season": NFD, "owner": "\u0645\u0651\u064e", "place": "Malm\u00f6", "tier": "web"}
    async with engine.begin() as tx:
        await add_vm(tx, ada.user, labels=early)
        await add_vm(tx, ada.user, labels={"season": "autumn"})
    forms: list[Literal["NFC", "NFD"]] = ["NFC", "NFD"]
    for form in forms:
        labels = ",".join(f"{key}={unicodedata.normalize(form, value)}" for key, value in early.items())
        assert (await ada.http.get("/vms", params={"labels": labels})).json()["total"] == 1
    assert (await ada.http.get("/vms", params={"labels": f"season={NFC},tier=x"})).json()["total"] == 0


async def test_an_early_vm_with_a_name_that_is_refused_today_can_be_read_found_and_changed(
    ada: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, name="a\u200bb\u202e", labels={"env": f" {NFD}\u200b"})
    changed = await ada.http.patch(f"/vms/{vm.id}", json={"labels": {"env": "prod"}})
    assert (changed.status_code, changed.json()["name"]) == (200, vm.name)
    assert await found(ada, "/vms", "\u200bB") == {vm.name}
    for name in ("db\u00a0-1", "\u6771\u4eac\u3000\u672c\u793e"):
        async with engine.begin() as tx:
            await add_vm(tx, ada.user, name=name)
        assert await found(ada, "/vms", name[1:-1]) == {name}
    async with engine.begin() as tx:
        await add_vm(tx, ada.user, name="other", labels={"env": f" {NFD}\u200b"})
    assert (await ada.http.get("/vms", params={"labels": f"env= {NFD}\u200b"})).json()["total"] == 1


async def test_a_password_may_be_typed_on_another_keyboard_than_at_the_registration(anyone: httpx.AsyncClient) -> None:
    """A Mac sends an accented letter as two characters, Windows as one."""
    composed, decomposed = "P\u00e4ssword-1 x", "Pa\u0308ssword-1\N{NO-BREAK SPACE}x"
    assert (await anyone.post("/auth/register", json=account(password=composed))).status_code == 201
    assert [await log_in(anyone, password) for password in (composed, decomposed)] == [200, 200]
    other = account(username="hopper", email="hopper@navy.test", password=decomposed)
    assert (await anyone.post("/auth/register", json=other)).status_code == 201
    assert [await log_in(anyone, password, "hopper") for password in (composed, decomposed)] == [200, 200]


async def test_an_early_account_keeps_its_password_and_gets_its_normal_form(
    anyone: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    composed, decomposed = "P\u00e4ssword-1", "Pa\u0308ssword-1"
    assert (await anyone.post("/auth/register", json=account())).status_code == 201
    async with engine.begin() as tx:
        await tx.execute(update(User).values(password_hash=await security.hash_password(decomposed)))
    assert await log_in(anyone, composed) == 401
    assert await log_in(anyone, decomposed) == 200
    assert await log_in(anyone, composed) == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u00c4NNA@navy.test", "\u00e4nna@navy.test"),
        ("a\u0308nna@navy.test", "\u00e4nna@navy.test"),
        ("anna@m\u00fcnchen.test", "anna@xn--mnchen-3ya.test"),
        ("Anna@navy.test", "anna@NAVY.test"),
    ],
    ids=ascii,
)
async def test_an_address_that_is_spelled_in_another_way_is_taken(
    anyone: httpx.AsyncClient, one: str, other: str
) -> None:
    assert (await anyone.post("/auth/register", json=account(email=one))).status_code == 201
    again = await anyone.post("/auth/register", json=account(email=other, username="hopper"))
    assert (again.status_code, again.json()["code"]) == (409, "email_taken")


@pytest.mark.parametrize(
    "email", ["a\u200b@navy.test", "a@na\u202evy.test", "a@navy..test", "a@-navy.test", "a@na_vy.test", "a@navy."]
)
async def test_an_address_that_cannot_be_one_is_refused(anyone: httpx.AsyncClient, email: str) -> None:
    answer = await anyone.post("/auth/register", json=account(email=email))
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/email"})


BODIES: list[tuple[str, dict[str, Any], str]] = [
    ("/auth/login", {"username": "ada", "password": "\ud800"}, "#/password"),
    ("/auth/login", {"username": "ada", "password": "x\udfffy"}, "#/password"),
    ("/auth/login", {"username": "\ud800", "password": "x"}, "#/username"),
    ("/auth/register", account(password="Aa1\ud800xxxxx"), "#/password"),
    ("/auth/register", account(username="a\ud800b"), "#/username"),
    ("/auth/register", account(email="\ud800@navy.test"), "#/email"),
    ("/auth/refresh", {"refresh_token": "\ud800"}, "#/refresh_token"),
]


@pytest.mark.parametrize(("path", "body", "pointer"), BODIES, ids=lambda value: ascii(value)[:40])
async def test_half_of_a_surrogate_pair_is_refused_with_the_name_of_the_field(
    anyone: httpx.AsyncClient, path: str, body: dict[str, Any], pointer: str
) -> None:
    answer = await anyone.post(path, content=json.dumps(body), headers=JSON)
    assert (answer.status_code, pointers(answer.json())) == (422, {pointer})


@pytest.mark.parametrize(
    ("username", "password"), [("\N{KELVIN SIGN}ate", PASSWORD), ("x" * 255, PASSWORD), ("=grace", PASSWORD)], ids=ascii
)
async def test_a_username_that_no_account_can_have_is_simply_wrong(
    anyone: httpx.AsyncClient, username: str, password: str
) -> None:
    assert (await anyone.post("/auth/register", json=account(username="kate"))).status_code == 201
    assert await log_in(anyone, password, username) == 401


@pytest.mark.parametrize("token", [b"\xff", b"\xe9.\xe9.\xe9", b"W1tb.e30.x", b"." * 4000], ids=range(4))
async def test_a_token_of_any_bytes_is_an_invalid_token(anyone: httpx.AsyncClient, token: bytes) -> None:
    answer = await anyone.get("/auth/me", headers={b"Authorization": b"Bearer " + token})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
