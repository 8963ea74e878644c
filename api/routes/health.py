"""Whether the process lives, and whether what it needs does."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import Request, Response
from sqlalchemy import text

from api import VERSION, errors, openapi, schemas
from api.deps import Process, State
from api.routes import router
from domain import temporal

routes = router("/health", "Health")

PATIENCE = 2.0  # seconds


@routes.get("")
async def health(process: Process) -> schemas.Health:
    """That the service is up, and which it is."""
    return schemas.Health(status="ok", name=process.settings.app_name, version=VERSION)


@routes.get("/live")
async def live() -> schemas.Liveness:
    """Whether the process answers at all; restart it when not."""
    return schemas.Liveness(status="alive")


@routes.get("/ready", response_model=schemas.Readiness, openapi_extra=openapi.problems("not_ready"))
async def ready(process: Process, request: Request) -> Response | schemas.Readiness:
    """Whether the process can serve: Postgres and Temporal, each by name; send it no requests when not."""
    asked = {"postgres": _ask_postgres(process), "temporal": _ask_temporal(process)}
    checks = dict(zip(asked, await asyncio.gather(*map(_check, asked.values())), strict=True))
    away = [name for name, check in checks.items() if check.status == "unavailable"]
    if not away:
        return schemas.Readiness(status="ready", checks=checks)
    members = {name: check.model_dump() for name, check in checks.items()}
    detail = f"Not ready: {', '.join(away)}; `checks` says why."
    return errors.problem("not_ready", detail, request.url.path, checks=members)


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


async def _ask_postgres(process: State) -> None:
    async with process.autocommit.connect() as connection:
        await connection.execute(text("SELECT 1"))


async def _ask_temporal(process: State) -> None:
    missing = await temporal.missing_search_attributes(process.temporal)
    if missing:
        raise ValueError(f"search attributes are missing, run python -m migrations: {', '.join(missing)}")
