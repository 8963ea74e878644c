"""Checks whether the services that the API process needs are available: Postgres and Temporal."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from domain import temporal
from domain.data import outages
from domain.data.outages import UnusableDatabaseError

logger = logging.getLogger(__name__)

CHECK_TIMEOUT = 2.0  # seconds
# Seconds. A full database refuses requests that write, and one that shuts down refuses new connections, but both still
# answer the probe. So such an error of a request makes the process unready for this time.
REMEMBERED = 5.0
LOG_INTERVAL = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a service is available, and the error if it is not."""

    status: Literal["ok", "unavailable"]
    error: str | None = None


class Readiness:
    """Runs the checks, at most once at a time.

    Callers that come during a run share its result, so that any number of probes takes one connection.
    """

    def __init__(self, autocommit: AsyncEngine, client: Client) -> None:
        self._autocommit = autocommit
        self._client = client
        self._run: asyncio.Task[dict[str, Check]] | None = None
        self._refused_at: dict[str, float] = {}  # by SQLSTATE
        self._logged_at: dict[str, float] = {}  # by reason

    def note_database_error(self, error: Exception) -> None:
        """Log that the database failed a request, and remember it if the probe may not see the reason."""
        self._log(outages.describe(error))
        state = outages.sqlstate_of(error)
        if state.startswith(outages.UNSEEN_BY_PROBES):
            self._refused_at[state] = time.monotonic()

    def _log(self, reason: str) -> None:
        """Log each reason at most once in LOG_INTERVAL: an outage fails hundreds of requests in a second."""
        now = time.monotonic()
        self._logged_at = {logged: at for logged, at in self._logged_at.items() if now < at + LOG_INTERVAL}
        if reason not in self._logged_at:
            self._logged_at[reason] = now
            logger.warning("the database is unavailable: %s", reason)

    async def checks(self) -> dict[str, Check]:
        """The result of each check, by the name of the service."""
        if self._run is None or self._run.done():
            self._run = asyncio.create_task(self._check_all())
        return await asyncio.shield(self._run)  # a caller that goes away must not cancel the run of the others

    async def _check_all(self) -> dict[str, Check]:
        probes = {"postgres": self._probe_postgres(), "temporal": self._probe_temporal()}
        return dict(zip(probes, await asyncio.gather(*map(_check, probes.values())), strict=True))

    async def _probe_postgres(self) -> None:
        async with self._autocommit.connect() as connection:
            # False on a standby, which a failover may leave us with, and where an operator has stopped all changes.
            can_write = await connection.scalar(text("SELECT current_setting('transaction_read_only') = 'off'"))
            # Null if there is no such table.
            has_rights = await connection.scalar(
                text("SELECT has_table_privilege(to_regclass('operations'), 'INSERT')")
            )
        if not can_write:
            raise ValueError("the database is read-only")
        if has_rights is None:
            raise ValueError("the database has no tables, run python -m migrations")
        if not has_rights:
            raise ValueError("the role of DATABASE_URL has no rights on the tables, docs/operations.md has the grants")
        for state, refused_at in self._refused_at.items():
            if time.monotonic() < refused_at + REMEMBERED:
                raise ValueError(f"the database refuses to work, with SQLSTATE {state}")

    async def _probe_temporal(self) -> None:
        # Temporal refuses to start any workflow with a search attribute that is not registered.
        missing = await temporal.missing_search_attributes(self._client)
        if missing:
            raise ValueError(f"search attributes are missing, run python -m migrations: {', '.join(missing)}")


async def _check(probe: Coroutine[Any, Any, None]) -> Check:
    task = asyncio.create_task(probe)
    done, _ = await asyncio.wait([task], timeout=CHECK_TIMEOUT)
    if not done:
        task.cancel()  # not awaited: closing a hung connection takes more seconds
        return Check("unavailable", f"no answer in {CHECK_TIMEOUT} s")
    error = task.exception()
    if error is None:
        return Check("ok")
    # Only our own messages are shown to clients; those of drivers may name hosts and users.
    if isinstance(error, ValueError | UnusableDatabaseError):
        return Check("unavailable", str(error))
    return Check("unavailable", f"{type(error).__name__} {outages.sqlstate_of(error)}".strip())
