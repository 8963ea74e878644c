"""The consoles of VMs: what they have shown, and addresses at which one can use them."""

from typing import Annotated

from fastapi import Query, Request, Response

from api.routes import answers, requests, router
from api.web import consoles, openapi
from api.web.dependencies import ChangeableVM, Process, ReadableVM
from api.web.fields import PLAIN_DIGITS
from api.web.idempotency import OncePerKey
from domain.rules.console import MOST_LINES, ConsoleRequestKind

routes = router("/vms/{vm_id}", "consoles")

_PROBLEMS = openapi.problems("no_console", "not_supported_by_cloud", "cloud_unavailable", "worker_unavailable")
_SECRET = {"Cache-Control": "no-store"}  # what guests print may be secret, and so are addresses of consoles


@routes.get("/console-log", openapi_extra=_PROBLEMS)
async def get_console_log(
    process: Process,
    request: Request,
    vm: ReadableVM,
    response: Response,
    lines: Annotated[
        int, Query(ge=1, le=MOST_LINES, description="How many lines, counted from the end."), PLAIN_DIGITS
    ] = 100,
) -> answers.ConsoleLog:
    """The last lines that the VM's console has shown. The cloud keeps them, and may forget them at a boot.

    The cloud is asked, so this takes longer than other reads: usually less than a second, at most 17.
    """
    answer = await consoles.ask(process, request, vm, ConsoleRequestKind.LOG, lines=lines)
    response.headers.update(_SECRET)
    return answers.ConsoleLog(**answer)


@routes.post("/console", response_model=answers.Console, openapi_extra=_PROBLEMS)
async def open_console(
    once: OncePerKey,
    process: Process,
    request: Request,
    vm: ChangeableVM,
    body: requests.NoInput | None = None,
) -> Response:
    """Get an address at which a browser can use the VM's console, where the cloud has such consoles.

    Whoever knows the address can use it until it expires; the cloud says when, usually after ten minutes.
    """
    console = answers.Console(**await consoles.ask(process, request, vm, ConsoleRequestKind.ADDRESS))

    async def answer(*_: object) -> Response:
        return Response(console.model_dump_json(), 200, _SECRET, "application/json")

    return await once(answer, body)
