"""Liveness of the process, and readiness of PostgreSQL and Temporal."""

from dataclasses import asdict

from fastapi import Request, Response

from api import VERSION
from api.routes import answers, router
from api.web import openapi, problems
from api.web.dependencies import Process
from api.web.models import Check

routes = router("/health", "health")


@routes.get("")
async def get_health(process: Process) -> answers.Health:
    """The name and version of the service."""
    return answers.Health(status="ok", name=process.settings.app_name, version=VERSION)


@routes.get("/live")
async def get_liveness() -> answers.Liveness:
    """Whether the process answers at all. Restart it if it does not."""
    return answers.Liveness(status="alive")


@routes.get("/ready", response_model=answers.Readiness, openapi_extra=openapi.problems("not_ready"))
async def get_readiness(process: Process, request: Request) -> Response | answers.Readiness:
    """Whether PostgreSQL and Temporal answer, each by name in `checks`.

    While only Temporal is away, the service still accepts requests. It carries them out when Temporal is back.
    """
    checks = {name: Check(**asdict(check)) for name, check in (await process.readiness.checks()).items()}
    away = [name for name, check in checks.items() if check.status == "unavailable"]
    if not away:
        return answers.Readiness(status="ready", checks=checks)
    members = {name: check.model_dump() for name, check in checks.items()}
    detail = f"Not ready: {', '.join(away)}; `checks` says why."
    return problems.problem("not_ready", detail, request.url.path, checks=members)
