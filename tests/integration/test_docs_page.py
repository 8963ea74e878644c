"""The login on the documentation page, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import browser
from tests.support.stack import Stack
from tests.support.users import PASSWORD, add_account

pytestmark = browser.needs_chromium
TOKEN_OF_SWAGGER_UI = "ui.getState().toJS().auth.authorized?.bearer?.value"
MESSAGE = "form.querySelector('output').value"


@pytest.fixture
def page(stack: Stack, tmp_path: Path) -> Iterator[browser.Page]:
    """The documentation page."""
    with browser.page(tmp_path) as page:
        page.open(f"{stack.url}/docs")
        page.until("typeof form !== 'undefined' && ui.getState().toJS().spec.json?.openapi")
        yield page


def submit(page: browser.Page, name: str, password: str) -> None:
    """Fill the form and press its button."""
    page.run(f"form.elements.username.value = '{name}'; form.elements.password.value = '{password}'")
    page.run("fields.querySelector('button').click()")


async def test_a_login_on_the_page_gives_swagger_ui_the_token(page: browser.Page, stack: Stack) -> None:
    name = await add_account(stack)
    assert page.run("account.checkVisibility()") is False
    submit(page, name, "Wrong-Horse-1")
    page.until(MESSAGE)
    assert page.run("fields.checkVisibility() && tokens === null")
    submit(page, name, PASSWORD)
    page.until("account.checkVisibility() && !fields.checkVisibility()")
    assert page.run(MESSAGE) == ""
    assert page.run("account.querySelector('b').textContent") == name
    assert page.run("form.elements.password.value") == ""
    token = page.run("tokens.access_token")
    assert page.run(TOKEN_OF_SWAGGER_UI) == token
    me = "fetch(form.dataset.auth + '/me', {headers: {Authorization: `Bearer ${tokens.access_token}`}})"
    assert page.run(f"{me}.then(answer => answer.json()).then(me => me.username)") == name
    page.run("renew()")
    assert page.run("tokens.access_token") not in {token, None}
    assert page.run(TOKEN_OF_SWAGGER_UI) == page.run("tokens.access_token")
    assert page.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    page.run("account.querySelector('button').click()")
    page.until("fields.checkVisibility() && tokens === null")
    assert page.run(TOKEN_OF_SWAGGER_UI) is None


async def test_a_login_that_has_been_ended_elsewhere_asks_for_another(page: browser.Page, stack: Stack) -> None:
    name = await add_account(stack)
    submit(page, name, PASSWORD)
    page.until("account.checkVisibility()")
    await stack.sql("DELETE FROM refresh_tokens WHERE user_id = (SELECT id FROM users WHERE username = $1)", name)
    page.run("renew()")
    assert page.run("fields.checkVisibility() && tokens === null")
    assert page.run(MESSAGE).startswith("Log in again. ")
    assert page.run(TOKEN_OF_SWAGGER_UI) is None
