"""Registration, login and the rotation of refresh tokens."""

import logging
import math
from datetime import timedelta
from uuid import UUID, uuid4

from fastapi import Request, Response
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import openapi, security
from api.web.dependencies import CurrentUser, Process, ProcessState
from api.web.logins import Logins
from api.web.models import FieldError
from api.web.origin import address_of, origin_of
from api.web.problems import ProblemError
from api.web.security import Caller, InvalidTokenError
from domain.data import queries
from domain.data.accounts import RefreshToken, User, user_named, username_key
from domain.rules.text import password_forms

logger = logging.getLogger(__name__)

routes = router("/auth", "auth")

_USERNAME_TAKEN = FieldError(code="username_taken", detail="This username is taken.", pointer="#/username")
_EMAIL_TAKEN = FieldError(code="email_taken", detail="This email address is in use.", pointer="#/email")


@routes.post(
    "/register",
    status_code=201,
    response_model=answers.User,
    openapi_extra=openapi.problems("username_taken", "email_taken"),
)
async def register_user(process: Process, request: Request, body: requests.Registration) -> User:
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
    return user


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
        return await _give_pair(tx, process, Caller(user.id, user.username, uuid4()))


@routes.post("/refresh", openapi_extra=openapi.problems("invalid_token"))
async def refresh_tokens(process: Process, body: requests.RefreshRequest) -> answers.TokenPair:
    """Exchange a refresh token for a new pair. A token works once; using it again ends its login."""
    try:
        claims = security.verify(process.signing, "refresh", body.refresh_token.get_secret_value())
    except InvalidTokenError as error:
        raise ProblemError("invalid_token", str(error)) from None
    async with process.engine.begin() as tx:
        await _lock_session(tx, claims.caller.session_id)
        if await _use(tx, claims.token_id):
            return await _give_pair(tx, process, claims.caller)
        await _revoke(tx, claims.caller.session_id)
    # Raised outside the transaction, so that the revocation is committed.
    raise ProblemError("invalid_token", "The refresh token was used before or revoked; log in again.")


@routes.post("/logout", status_code=204, response_class=Response)
async def log_out(caller: CurrentUser, process: Process) -> None:
    """End this login. Its refresh tokens stop working at once, its access token when it expires."""
    async with process.engine.begin() as tx:
        await _lock_session(tx, caller.session_id)
        await _revoke(tx, caller.session_id)


@routes.get("/me", response_model=answers.User)
async def get_me(caller: CurrentUser, process: Process) -> User:
    """Your profile."""
    async with process.autocommit.connect() as connection:
        user = await queries.fetch_one(connection, select(User).where(User.id == caller.id))
    if user is None:
        raise ProblemError("invalid_token", "This account no longer exists.")
    return user


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


async def _give_pair(tx: AsyncConnection, process: ProcessState, caller: Caller) -> answers.TokenPair:
    settings = process.settings
    access_life = timedelta(minutes=settings.access_token_expire_minutes)
    refresh_life = timedelta(days=settings.refresh_token_expire_days)
    token_id = uuid4()
    await tx.execute(
        insert(RefreshToken).values(
            id=token_id, family_id=caller.session_id, user_id=caller.id, expires_at=func.now() + refresh_life
        )
    )
    return answers.TokenPair(
        access_token=security.sign(process.signing, "access", caller, uuid4(), access_life),
        refresh_token=security.sign(process.signing, "refresh", caller, token_id, refresh_life),
        expires_in=int(access_life.total_seconds()),
    )


async def _lock_session(tx: AsyncConnection, session_id: UUID) -> None:
    """Serialise refresh and logout of one login, so that no new token is added while the login is being revoked."""
    await tx.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(str(session_id), 0))))


async def _use(tx: AsyncConnection, token_id: UUID) -> bool:
    usable = (
        RefreshToken.id == token_id,
        RefreshToken.used_at.is_(None),
        RefreshToken.revoked_at.is_(None),
        RefreshToken.expires_at > func.now(),
    )
    used = await tx.execute(update(RefreshToken).where(*usable).values(used_at=func.now()))
    return used.rowcount == 1


async def _revoke(tx: AsyncConnection, session_id: UUID) -> None:
    family = (RefreshToken.family_id == session_id, RefreshToken.revoked_at.is_(None))
    await tx.execute(update(RefreshToken).where(*family).values(revoked_at=func.now()))
