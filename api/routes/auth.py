"""Registration, login and the rotation of refresh tokens."""

from datetime import timedelta
from uuid import UUID, uuid4

from fastapi import Request, Response
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import openapi, security
from api.web.dependencies import CurrentUser, Process, ProcessState
from api.web.middleware import address_of
from api.web.models import FieldError
from api.web.problems import ProblemError
from api.web.security import Caller, InvalidTokenError
from domain.data import queries
from domain.data.accounts import RefreshToken, User

routes = router("/auth", "Authentication")

_USERNAME_TAKEN = FieldError(code="username_taken", detail="This username is taken.", pointer="#/username")
_EMAIL_TAKEN = FieldError(code="email_taken", detail="This email address is in use.", pointer="#/email")


@routes.post(
    "/register",
    status_code=201,
    response_model=answers.User,
    openapi_extra=openapi.problems("username_taken", "email_taken"),
)
async def register(process: Process, request: Request, body: requests.Registration) -> User:
    """Create an account. Usernames and e-mail addresses are unique, ignoring case."""
    async with process.hashing.hold(address_of(request.scope)):
        password_hash = await security.hash_password(body.password.get_secret_value())
    try:
        async with process.autocommit.connect() as connection:
            return await queries.insert_row(
                connection, User, username=body.username, email=body.email, password_hash=password_hash
            )
    except IntegrityError as error:
        taken = _USERNAME_TAKEN if queries.violated_constraint(error) == "uq_users_username" else _EMAIL_TAKEN
        raise ProblemError(taken.code, taken.detail, [taken]) from None


@routes.post("/login", openapi_extra=openapi.problems("invalid_credentials"))
async def login(process: Process, request: Request, body: requests.Credentials) -> answers.TokenPair:
    """Get a pair of tokens for a username and password."""
    statement = select(User).where(func.lower(User.username) == func.lower(body.username))
    async with process.hashing.hold(address_of(request.scope)):
        async with process.autocommit.connect() as connection:
            user = await queries.fetch_one(connection, statement)
        password_hash = user.password_hash if user else None
        right = await security.verify_password(body.password.get_secret_value(), password_hash)
    if user is None or not right:
        raise ProblemError("invalid_credentials", "The username or the password is wrong.")
    async with process.engine.begin() as tx:
        return await _give_pair(tx, process, Caller(user.id, user.username, uuid4()))


@routes.post("/refresh", openapi_extra=openapi.problems("invalid_token"))
async def refresh(process: Process, body: requests.RefreshRequest) -> answers.TokenPair:
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
async def logout(caller: CurrentUser, process: Process) -> None:
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
