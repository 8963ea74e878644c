"""Whether what the process needs serves it: Postgres and Temporal."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from api.web import models as schemas
from domain import temporal

PATIENCE = 2.0  # seconds


class Readiness:
    """One look at a time, so that however many ask take one connection; who asks meanwhile gets what it sees."""

    def __init__(self, autocommit: AsyncEngine, client: Client) -> None:
        self._autocommit = autocommit
        self._client = client
        self._look: asyncio.Task[dict[str, schemas.Check]] | None = None

    async def checks(self) -> dict[str, schemas.Check]:
        """How each is, by name."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_all())
        return await asyncio.shield(self._look)

    async def _look_at_all(self) -> dict[str, schemas.Check]:
        asked = {"postgres": self._ask_postgres(), "temporal": self._ask_temporal()}
        return dict(zip(asked, await asyncio.gather(*map(_check, asked.values())), strict=True))

    async def _ask_postgres(self) -> None:
        async with self._autocommit.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def _ask_temporal(self) -> None:
        missing = await temporal.missing_search_attributes(self._client)
        if missing:
            raise ValueError(f"search attributes are missing, run python -m migrations: {', '.join(missing)}")


async def _check(ask: Coroutine[Any, Any, None]) -> schemas.Check:
    asking = asyncio.create_task(ask)
    done, _ = await asyncio.wait([asking], timeout=PATIENCE)
    if not done:
        asking.cancel()  # without waiting for it: giving up a hung connection takes seconds more
        return schemas.Check(status="unavailable", error=f"no answer in {PATIENCE} s")
    error = asking.exception()
    if error is None:
        return schemas.Check(status="ok")
    what = str(error) if isinstance(error, ValueError) else type(error).__name__
    return schemas.Check(status="unavailable", error=what)
