"""Registration, login and the rotation of refresh tokens; changes of the password, and the end of logins."""

import logging
from datetime import timedelta
from uuid import uuid4

from fastapi import Request, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.routes import answers, requests, router
from api.web import openapi, security
from api.web import passwords as checks
from api.web.dependencies import CurrentUser, LoggedInUser, Process, ProcessState, may_administer, requester_of
from api.web.models import FieldError
from api.web.origin import address_of, origin_of
from api.web.passwords import note_refusal, stranger
from api.web.problems import ProblemError
from api.web.security import Caller, InvalidTokenError, LoginCaller
from api.web.slots import NoSlotError
from domain.commands import accounts, audit
from domain.commands import refresh_tokens as commands
from domain.commands.accounts import NewUser
from domain.data import queries, token_epochs
from domain.data.accounts import User, user_named, username_key
from domain.rules import passwords
from domain.rules.account_errors import EmailTakenError, UsernameTakenError
from domain.rules.accounts import Event, Role

logger = logging.getLogger(__name__)

routes = router("/auth", "auth")


@routes.post(
    "/register",
    status_code=201,
    response_model=answers.User,
    openapi_extra=openapi.problems("username_taken", "email_taken", "registration_closed"),
)
async def register_user(process: Process, request: Request, body: requests.Registration) -> User:
    """Create an account. Usernames and e-mail addresses are unique, ignoring case.

    The password must not be one that many people have, nor your username or e-mail address.
    """
    if process.settings.registration == "closed":
        note_refusal(process, request, Event.REGISTER, "registration_closed")
        raise ProblemError("registration_closed", "Nobody can register here. Ask the operator for an account.")
    async with checks.turn_to_hash(process, request):
        password_hash = await checks.new_hash(process, request, body.password.get_secret_value())
    try:
        async with process.engine.begin() as tx:
            new = NewUser(body.username, body.email, password_hash)
            user = await accounts.create_user(tx, stranger(request), Event.REGISTER, new)
    except (UsernameTakenError, EmailTakenError) as error:
        note_refusal(process, request, Event.REGISTER, error.code)
        raise
    process.logins.note_owner(origin_of(request.scope), username_key(user.username))
    return user


@routes.post(
    "/login",
    openapi_extra=openapi.problems("invalid_credentials", "too_many_failed_logins", "account_disabled"),
)
async def log_in(process: Process, request: Request, body: requests.Credentials) -> answers.TokenPair:
    """Get a pair of tokens for a username and password. After a few failures the next attempt has to wait."""
    origin, account = origin_of(request.scope), username_key(body.username)
    checks.refuse_if_too_soon(process.logins, origin, account)
    # Read before the wait. If the account is disabled or gets another password meanwhile, it has another epoch then.
    async with process.autocommit.connect() as connection:
        user = await queries.fetch_one(connection, user_named(body.username))
    is_right = False
    try:
        async with checks.turn_to_hash(process, request, account):
            # Attempts that came together with this one may have failed in the meantime.
            checks.refuse_if_too_soon(process.logins, origin, account)
            is_right = await checks.is_right(process, request, account, user, body.password.get_secret_value())
            if user is None or not is_right:
                note_refusal(process, request, Event.LOGIN, "invalid_credentials", user)
                raise ProblemError("invalid_credentials", "The username or the password is wrong.")
            if user.disabled_at is not None:
                note_refusal(process, request, Event.LOGIN, "account_disabled", user)
                raise ProblemError("account_disabled", "This account is disabled. Ask the operator of the service.")
    except NoSlotError as error:
        if is_right:  # who gets this answer after the turn knows that the password is right
            note_refusal(process, request, Event.LOGIN, error.code, user)
        raise
    caller = LoginCaller(user.id, user.username, uuid4(), user.epoch)
    lasts = timedelta(days=process.settings.login_expire_days)
    async with process.engine.begin() as tx:
        # The tokens have the epoch that the account had when its password was checked.
        await audit.record(tx, Event.LOGIN, requester_of(request, caller), target=user.username)
        return await _give_pair(tx, process, caller, commands.Place(generation=0, login_lasts=lasts))


@routes.post("/refresh", openapi_extra=openapi.problems("invalid_token"))
async def refresh_tokens(process: Process, request: Request, body: requests.RefreshRequest) -> answers.TokenPair:
    """Exchange a refresh token for a new pair. A token works once; using it again later ends its login.

    If the answer is lost, send the same request again within 30 seconds, from the same address. However often it is
    refreshed, a login ends 30 days after it began, unless the operator has chosen another time.
    """
    try:
        claims = security.verify(process.signing, "refresh", body.refresh_token.get_secret_value())
    except InvalidTokenError as error:
        raise ProblemError("invalid_token", str(error)) from None
    caller = claims.caller
    longest = timedelta(days=process.settings.login_expire_days)
    async with process.engine.begin() as tx:
        if not await token_epochs.is_present(tx, caller.id, caller.epoch):
            raise ProblemError("invalid_token", "This login has ended; log in again.")
        place = await commands.exchange(tx, claims.token_id, caller.session_id, origin_of(request.scope), longest)
        if place is not None:
            return await _give_pair(tx, process, caller, place)
        has_ended = await commands.end_login(tx, caller.session_id)
        if has_ended:
            await audit.record(tx, Event.REUSE_REFRESH_TOKEN, stranger(request), target=caller.username)
    # After the transaction, so that the end of the login is committed.
    if has_ended:
        address = address_of(request.scope) or "an unknown address"
        logger.warning("a refresh token of %s was used again from %s; its login has ended", caller.username, address)
    raise ProblemError("invalid_token", "The refresh token was used before or revoked; log in again.")


@routes.post("/logout", status_code=204, response_class=Response, openapi_extra=openapi.problems("login_required"))
async def log_out(caller: LoggedInUser, process: Process, request: Request) -> None:
    """End this login. Its refresh tokens stop working at once, its access token when it expires."""
    async with process.engine.begin() as tx:
        if await commands.end_login(tx, caller.session_id):
            await audit.record(tx, Event.LOGOUT, requester_of(request, caller), target=caller.username)


@routes.post("/logout-all", status_code=204, response_class=Response, openapi_extra=openapi.problems("login_required"))
async def log_out_everywhere(caller: LoggedInUser, process: Process, request: Request) -> None:
    """End all your logins, this one included. All their tokens stop working at once.

    Tokens for programs go on. Delete those that you do not know.
    """
    async with process.engine.begin() as tx:
        epoch = await accounts.end_logins(tx, requester_of(request, caller))
    process.epochs.note(caller.id, epoch)


@routes.post(
    "/password",
    status_code=204,
    response_class=Response,
    openapi_extra=openapi.problems("login_required", "wrong_password", "too_many_failed_logins"),
)
async def change_password(
    caller: LoggedInUser, process: Process, request: Request, body: requests.PasswordChange
) -> None:
    """Change your password. All your logins end, this one included: log in with the new password.

    Tokens for programs go on. Delete those that you do not know. A wrong current password counts as a failed login.
    """
    origin, account = origin_of(request.scope), username_key(caller.username)
    checks.refuse_if_too_soon(process.logins, origin, account)
    user = await _profile(process, caller)
    async with checks.turn_to_hash(process, request, account):
        checks.refuse_if_too_soon(process.logins, origin, account)
        if not await checks.is_right(process, request, account, user, body.current_password.get_secret_value()):
            note_refusal(process, request, Event.CHANGE_PASSWORD, "wrong_password", user)
            raise _wrong_password()
        password = body.new_password.get_secret_value()
        if passwords.is_obvious(password, passwords.names_of(user.username, user.email)):
            raise _own_name()
        new_hash = await checks.new_hash(process, request, password)
    async with process.engine.begin() as tx:
        epoch = await accounts.change_password(tx, requester_of(request, caller), caller.epoch, new_hash)
    if epoch is None:
        raise ProblemError("invalid_token", "This login has ended; log in again.")
    process.epochs.note(caller.id, epoch)


@routes.get("/me")
async def get_me(caller: CurrentUser, process: Process) -> answers.User:
    """Your profile."""
    user = answers.User.model_validate(await _profile(process, caller))
    # The identity provider may decide otherwise than the database.
    return user.model_copy(update={"role": Role.ADMIN if await may_administer(process, caller) else Role.USER})


async def _profile(process: ProcessState, caller: Caller) -> User:
    async with process.autocommit.connect() as connection:
        user = await queries.fetch_one(connection, select(User).where(User.id == caller.id))
    if user is None:
        raise ProblemError("invalid_token", "This account no longer exists.")
    return user


def _wrong_password() -> ProblemError:
    detail = "The current password is wrong."
    error = FieldError(code="wrong_password", detail=detail, pointer="#/current_password")
    return ProblemError("wrong_password", detail, [error])


def _own_name() -> ProblemError:
    detail = f"{passwords.OWN_NAME}."
    error = FieldError(code="password_too_common", detail=detail, pointer="#/new_password")
    return ProblemError("validation_failed", detail, [error])


async def _give_pair(
    tx: AsyncConnection, process: ProcessState, caller: LoginCaller, place: commands.Place
) -> answers.TokenPair:
    settings = process.settings
    access_life = min(timedelta(minutes=settings.access_token_expire_minutes), place.login_lasts)
    refresh_life = min(timedelta(days=settings.refresh_token_expire_days), place.login_lasts)
    token_id = await commands.give(tx, caller.id, caller.session_id, place, refresh_life)
    return answers.TokenPair(
        access_token=security.sign(process.signing, "access", caller, uuid4(), access_life),
        refresh_token=security.sign(process.signing, "refresh", caller, token_id, refresh_life),
        expires_in=int(access_life.total_seconds()),
    )
