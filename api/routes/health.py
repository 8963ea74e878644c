"""Whether the process lives, and whether what it needs does."""

from dataclasses import asdict

from fastapi import Request, Response

from api import VERSION, schemas
from api.routes import router
from api.web import openapi, problems
from api.web.dependencies import Process

routes = router("/health", "Health")


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
    """Whether PostgreSQL and Temporal answer, each by name in `checks`.

    While Temporal alone is away, requests are accepted all the same, and carried out when it is back.
    """
    checks = {name: schemas.Check(**asdict(check)) for name, check in (await process.readiness.checks()).items()}
    away = [name for name, check in checks.items() if check.status == "unavailable"]
    if not away:
        return schemas.Readiness(status="ready", checks=checks)
    members = {name: check.model_dump() for name, check in checks.items()}
    detail = f"Not ready: {', '.join(away)}; `checks` says why."
    return problems.problem("not_ready", detail, request.url.path, checks=members)
