"""For admins: the users, which of them may log in, and which are admins."""

from typing import Annotated

from fastapi import Path, Query, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import openapi
from api.web.dependencies import Admin, Process
from api.web.fields import Text
from api.web.filters import has_name
from api.web.idempotency import OnceOrTrial
from api.web.lists import Order
from api.web.pages import WantedPage
from domain.commands import accounts
from domain.commands.acceptance import Requester
from domain.data.accounts import HAS_ROLE, User
from domain.rules.accounts import Role

routes = router("/admin/users", "admin")

_BY_AGE = Order("created_at", (User.created_at, User.id))
NamedUser = Annotated[Text, Path(description="The user's name, ignoring case.", examples=["ada"])]
PartOfName = Annotated[Text | None, Query(min_length=1, description="Only users with this in their name.")]
HasRole = Annotated[Role | None, Query(description="Only users with this role.")]
IsDisabled = Annotated[bool | None, Query(description="Only disabled users (true), or only the others (false).")]


@routes.get("", openapi_extra=openapi.problems("admin_only"))
async def list_users(
    _: Admin,
    page: WantedPage,
    username: PartOfName = None,
    role: HasRole = None,
    disabled: IsDisabled = None,
) -> answers.AccountPage:
    """All users, oldest first."""
    users = select(User)
    if username is not None:
        users = users.where(has_name(User.username, username))
    if role is not None:
        users = users.where(HAS_ROLE[role])
    if disabled is not None:
        users = users.where(User.disabled_at.is_not(None) if disabled else User.disabled_at.is_(None))
    return await page.fetch(users, _BY_AGE, answers.AccountPage)


@routes.post(
    "/{username}/disable",
    response_model=answers.Account,
    openapi_extra=openapi.problems("admin_only", "last_admin"),
)
async def disable_user(
    _: Admin, process: Process, once: OnceOrTrial, username: NamedUser, body: requests.NoInput | None = None
) -> Response:
    """Keep a user out. No login and no token of the user works any more, within a second in every process.

    What the user has stays as it is, and operations go on. Disabling a disabled user changes nothing.
    """
    return await _set_disabled(process, once, username, body, disabled=True)


@routes.post("/{username}/enable", response_model=answers.Account, openapi_extra=openapi.problems("admin_only"))
async def enable_user(
    _: Admin, process: Process, once: OnceOrTrial, username: NamedUser, body: requests.NoInput | None = None
) -> Response:
    """Let a disabled user in again. The user has to log in anew; tokens for programs work again."""
    return await _set_disabled(process, once, username, body, disabled=False)


@routes.post(
    "/{username}/role",
    response_model=answers.Account,
    openapi_extra=openapi.problems("admin_only", "last_admin", "role_of_provider"),
)
async def change_role(
    _: Admin, process: Process, once: OnceOrTrial, username: NamedUser, body: requests.RoleChange
) -> Response:
    """Make a user an admin, or an admin a user. It holds for every request from now on."""

    async def change(tx: AsyncConnection, requester: Requester) -> Response:
        decides = _provider_decides(process)
        return _answer(await accounts.set_role(tx, requester, username, body.role, provider_decides=decides))

    return await once(change, body)


def _provider_decides(process: Process) -> bool:
    """Whether the identity provider decides who of its users is an admin."""
    return process.settings.oidc_role_claim is not None


async def _set_disabled(
    process: Process, once: OnceOrTrial, username: str, body: requests.NoInput | None, *, disabled: bool
) -> Response:
    changed: list[User] = []

    async def change(tx: AsyncConnection, requester: Requester) -> Response:
        decides = _provider_decides(process)
        changed[:] = [await accounts.set_disabled(tx, requester, username, disabled=disabled, provider_decides=decides)]
        return _answer(changed[0])

    answer = await once(change, body)
    if not once.validate_only:
        for user in changed:  # after the commit; the other processes find it themselves
            process.epochs.note(user.id, user.epoch)
    return answer


def _answer(user: User) -> Response:
    return Response(answers.Account.model_validate(user).model_dump_json(), 200, media_type="application/json")
