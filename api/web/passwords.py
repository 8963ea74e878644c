"""Checks and hashes passwords: in turn, after the delays that earlier failures have earned, and noted in the audit."""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from sqlalchemy import update

from api.web import security
from api.web.dependencies import ProcessState
from api.web.logins import Logins
from api.web.origin import address_of, network_of, origin_of, source_of
from api.web.problems import ProblemError
from api.web.slots import without_slot
from domain import logs
from domain.commands import audit
from domain.commands.audit import Stranger
from domain.data.accounts import User
from domain.rules.accounts import Event, Outcome
from domain.rules.text import password_forms

logger = logging.getLogger(__name__)


def stranger(request: Request) -> Stranger:
    """Who sends a request that needs no token."""
    return Stranger(logs.request_id.get(), source_of(request.scope))


def note_refusal(process: ProcessState, request: Request, event: Event, reason: str, user: User | None = None) -> None:
    """Note for the audit that something was refused; `user` is whom it was about."""
    # An unknown username is not kept: it may be a password that was typed into the wrong field.
    target = user.username if user else None
    record = audit.record_of(event, stranger(request), target=target, outcome=Outcome.REFUSED, reason=reason)
    process.refusals.note(record, network_of(record.address or ""))


def refuse_if_too_soon(logins: Logins, origin: str, account: str) -> None:
    """ProblemError if the account may not be tried yet from this origin."""
    delay = math.ceil(logins.delay(origin, account))
    if delay:
        detail = f"Logins from your address have failed too often. Try again in {delay} s."
        raise ProblemError("too_many_failed_logins", detail, retry_after=delay)


@asynccontextmanager
async def turn_to_hash(process: ProcessState, request: Request, account: str = "") -> AsyncIterator[None]:
    """Wait for one of the few turns to hash passwords, and have it; NoSlotError if too many wait or it takes too long.

    Strangers can make others wait for these turns, so the request has no other slot meanwhile.
    """
    origin = origin_of(request.scope)
    rank = process.logins.rank(origin, account)
    # Known owners do not wait behind what strangers send from the same address.
    caller = f"owners at {origin}" if rank < 0 else origin
    async with without_slot(request.scope), process.hashing.hold(caller, rank):
        yield


async def is_right(process: ProcessState, request: Request, account: str, user: User | None, password: str) -> bool:
    """Whether the account has this password. A wrong one counts as a failed login of the account from this origin.

    The caller has a turn to hash.
    """
    if await _matches(process, request, account, user, password):
        process.logins.note_success(origin_of(request.scope), account)
        return True
    process.logins.note_failure(origin_of(request.scope), account)
    name, address = user.username if user else "an unknown user", address_of(request.scope)
    logger.warning("login of %s from %s failed", name, address or "an unknown address")
    return False


async def new_hash(process: ProcessState, request: Request, password: str) -> str:
    """The hash of a new password. The caller has a turn to hash."""
    process.logins.note_use(origin_of(request.scope))
    return await security.hash_password(password)


async def _matches(process: ProcessState, request: Request, account: str, user: User | None, password: str) -> bool:
    """Whether the account has this password, in any of its forms; it is stored in the first form from then on."""
    # An unknown user costs as much as a wrong password, so that the time does not tell which usernames exist.
    forms = password_forms(password)
    for form in forms:
        process.logins.note_use(origin_of(request.scope), account)
        if not await security.verify_password(form, user.password_hash if user else None):
            continue
        if user and form != forms[0]:
            changed = {"password_hash": await security.hash_password(forms[0])}
            same = (User.id == user.id, User.password_hash == user.password_hash)
            await request.scope["take_slot"]()
            async with process.autocommit.connect() as connection:
                await connection.execute(update(User).where(*same).values(changed))
        return True
    return False
