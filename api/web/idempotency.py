"""Idempotency keys: a repeated request with the same key gets the first answer again, and nothing is done twice.

The command's rows, the key and the answer commit in one transaction. An advisory lock on the key, which ends with that
transaction, keeps out a concurrent request with the same key. A process that dies in between leaves nothing behind.

A request with `validate_only` runs the same command in a transaction that is rolled back. So it gets the very problem
that the request would get.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Final, cast

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import Text, bindparam, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.web.dependencies import CurrentRequester, Process
from api.web.guards import Guard
from api.web.models import FieldError, Validity
from api.web.problems import ProblemError
from domain.commands.acceptance import Requester
from domain.data import addresses, advisory_locks
from domain.data.accounts import IdempotencyKey
from domain.data.queries import violated_constraint

Work = Callable[[AsyncConnection, Requester], Awaitable[Response]]
"""Runs a command for the requester in the transaction and returns the answer. An exception rolls it back."""

KeyHeader = Header(
    alias="Idempotency-Key",
    min_length=1,
    max_length=255,
    pattern=r"^[\x20-\x7e]+$",
    description="Any text that you choose. For 24 hours, a repeated request with the same key gets the first answer "
    "again, and nothing is done twice.",
    examples=["3f0c5a4e-create-web-1"],
)

ValidateOnly = Query(
    description='Only check the request: the answer is 200 `{"valid": true}` or the problem that the request would '
    "get, and nothing changes. Not together with an `Idempotency-Key`."
)

# Each lost attempt means that another request has won, so even many batches in one network need only some.
ATTEMPTS: Final = 100
# `try` does not wait for the lock. A request that waited would keep a connection of the pool from other requests.
_SAME_KEY = "pk_idempotency_keys"
_LOCK = select(func.pg_try_advisory_xact_lock(advisory_locks.number_of(bindparam("name", type_=Text()))))
_KEPT = select(IdempotencyKey).where(IdempotencyKey.scope == bindparam("scope"), IdempotencyKey.key == bindparam("key"))


@dataclass(frozen=True, slots=True)
class Once:
    """Runs the work of a request in one transaction; with an idempotency key, only once.

    With `validate_only` the transaction is rolled back.
    """

    process: Process
    requester: Requester
    scope: str
    key: str | None
    guard: Guard | None = None
    validate_only: bool = False

    async def __call__(self, work: Work, body: BaseModel | None = None, *, one_statement: bool = False) -> Response:
        """Return the answer of the work, or of the first request with the same key.

        Work that writes in `one_statement` needs no transaction if there is no key to store. ProblemError if others
        took what the work had chosen each of ATTEMPTS times.
        """
        for _ in range(ATTEMPTS):
            try:
                answer = await self._attempt(work, body, one_statement=one_statement)
            except IntegrityError as error:
                # Another request took the address that the work chose. The transaction has failed, so the work begins
                # again in a new one and chooses another address, or finds that the network is full. Or a process of an
                # earlier version, whose locks have other numbers, has handled the same key: its answer is found now.
                if not addresses.is_taken(error) and violated_constraint(error) != _SAME_KEY:
                    raise
            else:
                if not self.validate_only:
                    self.process.dispatcher.wake()  # after the commit, so that the dispatcher sees the operation
                return answer
        raise ProblemError("overloaded", "Other requests took the addresses that this one had chosen. Try again.")

    async def _attempt(self, work: Work, body: BaseModel | None, *, one_statement: bool) -> Response:
        engine = self.process.engine
        if self.validate_only:
            async with engine.connect() as tx:  # without a commit, the end of the block rolls back
                await self._work(tx, work)
                await tx.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))  # a commit would check the quotas
            return Response(Validity().model_dump_json(), 200, media_type="application/json")
        if self.key is None:
            async with engine.begin() if self.guard or not one_statement else self.process.autocommit.connect() as tx:
                return await self._work(tx, work)
        async with engine.begin() as tx:
            return await self._first_or_again(tx, work, _fingerprint(body))

    async def _first_or_again(self, tx: AsyncConnection, work: Work, fingerprint: str) -> Response:
        await self._lock(tx)
        kept = await self._find(tx)
        if kept is not None:
            return _replay(kept, fingerprint)
        answer = await self._work(tx, work)
        await self._keep(tx, fingerprint, answer)
        return answer

    async def _work(self, tx: AsyncConnection, work: Work) -> Response:
        if self.guard:
            await self.guard.check(tx, self.requester.user_id)
        return await work(tx, self.requester)

    async def _lock(self, tx: AsyncConnection) -> None:
        if not await tx.scalar(_LOCK, {"name": f"{self.scope} {self.key}"}):
            detail = "The first request with this idempotency key is still being handled; try again."
            raise ProblemError("idempotency_key_in_flight", detail)

    async def _find(self, tx: AsyncConnection) -> IdempotencyKey | None:
        found = await tx.execute(_KEPT, {"scope": self.scope, "key": self.key})
        return cast("IdempotencyKey | None", found.one_or_none())

    async def _keep(self, tx: AsyncConnection, fingerprint: str, answer: Response) -> None:
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        row = {
            "scope": self.scope,
            "key": self.key,
            "fingerprint": fingerprint,
            "status_code": answer.status_code,
            "headers": headers,
            "body": bytes(answer.body).decode(),
        }
        await tx.execute(insert(IdempotencyKey), row)


def _replay(kept: IdempotencyKey, fingerprint: str) -> Response:
    if kept.fingerprint != fingerprint:
        detail = "This idempotency key was used with another body. Use a new key for a new request."
        raise ProblemError("idempotency_key_reused", detail)
    return Response(kept.body, kept.status_code, {**kept.headers, "Idempotency-Replayed": "true"})


def _fingerprint(body: BaseModel | None) -> str:
    payload = body.model_dump(mode="json") if body else {}
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


async def _once(
    process: Process, requester: CurrentRequester, request: Request, key: Annotated[str | None, KeyHeader] = None
) -> Once:
    return Once(process, requester, f"{requester.user_id} {request.method} {request.url.path}", key)


async def _once_or_trial(
    process: Process,
    requester: CurrentRequester,
    request: Request,
    key: Annotated[str | None, KeyHeader] = None,
    validate_only: Annotated[bool, ValidateOnly] = False,  # noqa: FBT002 - a query parameter
) -> Once:
    once = await _once(process, requester, request, key)
    if not validate_only:
        return once
    if key is not None:
        detail = "Leave out the key of a request with validate_only=true: nothing is done, so there is nothing to keep."
        conflict = FieldError(code="conflicting_fields", detail=detail, header=KeyHeader.alias)
        raise ProblemError("validation_failed", detail, [conflict])
    return replace(once, validate_only=True)


OncePerKey = Annotated[Once, Depends(_once)]
OnceOrTrial = Annotated[Once, Depends(_once_or_trial)]
"""For every POST that changes nothing but the database: such a request may be tried, too."""
