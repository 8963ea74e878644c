"""Registration, login and the rotation of refresh tokens."""

import logging
import math
from datetime import timedelta
from typing import Literal
from uuid import uuid4

from fastapi import Request, Response
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import openapi, security
from api.web.dependencies import CurrentUser, LoggedInUser, Process, ProcessState, is_admin, may_administer
from api.web.logins import Logins
from api.web.models import FieldError
from api.web.origin import address_of, origin_of
from api.web.problems import ProblemError
from api.web.security import InvalidTokenError, LoginCaller
from domain.commands import refresh_tokens as commands
from domain.data import queries
from domain.data.accounts import User, user_named, username_key
from domain.rules.text import password_forms

logger = logging.getLogger(__name__)

routes = router("/auth", "auth")

_USERNAME_TAKEN = FieldError(code="username_taken", detail="This username is taken.", pointer="#/username")
_EMAIL_TAKEN = FieldError(code="email_taken", detail="This email address is in use.", pointer="#/email")


@routes.post(
    "/register",
    status_code=201,
    openapi_extra=openapi.problems("username_taken", "email_taken"),
)
async def register_user(process: Process, request: Request, body: requests.Registration) -> answers.User:
    """Create an account. Usernames and e-mail addresses are unique, ignoring case."""
    origin = origin_of(request.scope)
    async with process.hashing.hold(origin, process.logins.rank(origin)):
        process.logins.note_use(origin)
        password_hash = await security.hash_password(body.password.get_secret_value())
    try:
        async with process.autocommit.connect() as connection:
            user = await queries.insert_row(
                connection, User, username=body.username, email=body.email, password_hash=password_hash
            )
    except IntegrityError as error:
        taken = _USERNAME_TAKEN if queries.violated_constraint(error) == "uq_users_username" else _EMAIL_TAKEN
        raise ProblemError(taken.code, taken.detail, [taken]) from None
    process.logins.note_owner(origin, username_key(user.username))
    return _profile(user, is_admin=await is_admin(process, user.id, user.username))


@routes.post("/login", openapi_extra=openapi.problems("invalid_credentials", "too_many_failed_logins"))
async def log_in(process: Process, request: Request, body: requests.Credentials) -> answers.TokenPair:
    """Get a pair of tokens for a username and password. After a few failures the next attempt has to wait."""
    origin, account = origin_of(request.scope), username_key(body.username)
    _refuse_if_too_soon(process.logins, origin, account)
    async with process.hashing.hold(origin, process.logins.rank(origin, account)):
        # Attempts that came together with this one may have failed in the meantime.
        _refuse_if_too_soon(process.logins, origin, account)
        async with process.autocommit.connect() as connection:
            user = await queries.fetch_one(connection, user_named(body.username))
        is_right = await _check_password(process, origin, account, user, body.password.get_secret_value())
        if user is None or not is_right:
            process.logins.note_failure(origin, account)
            # An unknown username is not logged: it may be a password that was typed into the wrong field.
            name, address = user.username if user else "an unknown user", address_of(request.scope)
            logger.warning("login of %s from %s failed", name, address or "an unknown address")
            raise ProblemError("invalid_credentials", "The username or the password is wrong.")
    process.logins.note_success(origin, account)
    async with process.engine.begin() as tx:
        return await _give_pair(tx, process, LoginCaller(user.id, user.username, uuid4()), generation=0)


@routes.post("/refresh", openapi_extra=openapi.problems("invalid_token"))
async def refresh_tokens(process: Process, request: Request, body: requests.RefreshRequest) -> answers.TokenPair:
    """Exchange a refresh token for a new pair. A token works once; using it again later ends its login.

    If the answer is lost, send the same request again within 30 seconds, from the same address.
    """
    try:
        claims = security.verify(process.signing, "refresh", body.refresh_token.get_secret_value())
    except InvalidTokenError as error:
        raise ProblemError("invalid_token", str(error)) from None
    caller = claims.caller
    async with process.engine.begin() as tx:
        generation = await commands.exchange(tx, claims.token_id, caller.session_id, origin_of(request.scope))
        if generation is not None:
            return await _give_pair(tx, process, caller, generation)
        has_ended = await commands.end_login(tx, caller.session_id)
    # After the transaction, so that the end of the login is committed.
    if has_ended:
        address = address_of(request.scope) or "an unknown address"
        logger.warning("a refresh token of %s was used again from %s; its login has ended", caller.username, address)
    raise ProblemError("invalid_token", "The refresh token was used before or revoked; log in again.")


@routes.post("/logout", status_code=204, response_class=Response, openapi_extra=openapi.problems("login_required"))
async def log_out(caller: LoggedInUser, process: Process) -> None:
    """End this login. Its refresh tokens stop working at once, its access token when it expires."""
    async with process.engine.begin() as tx:
        await commands.end_login(tx, caller.session_id)


@routes.get("/me")
async def get_me(caller: CurrentUser, process: Process) -> answers.User:
    """Your profile."""
    async with process.autocommit.connect() as connection:
        user = await queries.fetch_one(connection, select(User).where(User.id == caller.id))
    if user is None:
        raise ProblemError("invalid_token", "This account no longer exists.")
    return _profile(user, is_admin=await may_administer(process, caller))


def _profile(user: User, *, is_admin: bool) -> answers.User:
    role: Literal["user", "admin"] = "admin" if is_admin else "user"
    return answers.User(id=user.id, username=user.username, email=user.email, role=role, created_at=user.created_at)


def _refuse_if_too_soon(logins: Logins, origin: str, account: str) -> None:
    delay = math.ceil(logins.delay(origin, account))
    if delay:
        detail = f"Logins from your address have failed too often. Try again in {delay} s."
        raise ProblemError("too_many_failed_logins", detail, retry_after=delay)


async def _check_password(process: ProcessState, origin: str, account: str, user: User | None, password: str) -> bool:
    """Whether the account has this password, in any of its forms; it is stored in the first form from then on."""
    # An unknown user costs as much as a wrong password, so that the time does not tell which usernames exist.
    forms = password_forms(password)
    for form in forms:
        process.logins.note_use(origin, account)
        if not await security.verify_password(form, user.password_hash if user else None):
            continue
        if user and form != forms[0]:
            changed = {"password_hash": await security.hash_password(forms[0])}
            same = (User.id == user.id, User.password_hash == user.password_hash)
            async with process.autocommit.connect() as connection:
                await connection.execute(update(User).where(*same).values(changed))
        return True
    return False


async def _give_pair(
    tx: AsyncConnection, process: ProcessState, caller: LoginCaller, generation: int
) -> answers.TokenPair:
    settings = process.settings
    access_life = timedelta(minutes=settings.access_token_expire_minutes)
    refresh_life = timedelta(days=settings.refresh_token_expire_days)
    token_id = await commands.give(tx, caller.id, caller.session_id, generation, refresh_life)
    return answers.TokenPair(
        access_token=security.sign(process.signing, "access", caller, uuid4(), access_life),
        refresh_token=security.sign(process.signing, "refresh", caller, token_id, refresh_life),
        expires_in=int(access_life.total_seconds()),
    )
