"""Asks a worker for a console and waits for the answer; what cannot be had becomes a problem.

The API itself does not know the cloud. Temporal carries ids only: the answer comes through a row (ADR 038).
"""

import asyncio
import json
import logging
from datetime import timedelta
from typing import Any, Final, NoReturn
from uuid import uuid4

from fastapi import Request
from sqlalchemy import delete
from temporalio.client import WorkflowFailureError
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.service import RPCError

from api.web.dependencies import ProcessState, fetch_changeable_vm, fetch_readable_vm
from api.web.problems import ProblemError
from api.web.security import Caller
from api.web.slots import without_slot
from domain import logs, search_attributes
from domain.data.guests import ConsoleAnswer
from domain.data.models import VM
from domain.payload_codec import UnreadablePayloadError
from domain.rules.console import (
    NO_CONSOLE,
    READ_CONSOLE,
    WAIT_TIMEOUT,
    ConsoleRequest,
    ConsoleRequestKind,
    console_queue,
)
from domain.rules.markdown import quoted, title
from domain.rules.states import Status

logger = logging.getLogger(__name__)

RPC_TIMEOUT: Final = timedelta(seconds=3)
_REFUSALS: Final = {NO_CONSOLE, "not_supported_by_cloud"}


async def ask(process: ProcessState, http: Request, vm: VM, kind: ConsoleRequestKind, **more: Any) -> dict[str, Any]:
    """What a worker answers about the VM's console; ProblemError if there is no answer, NoSlotError."""
    if vm.status is Status.DELETED or (vm.cloud_id is None and vm.launched_at is None):
        raise ProblemError(NO_CONSOLE, f"The VM has no console: it is {vm.status}, and the cloud has no server for it.")
    caller: Caller = http.scope["caller"]
    request = ConsoleRequest(uuid4(), vm.id, kind, **more)
    # It may take seconds if no worker or no host answers, so the request has no other slot meanwhile.
    async with without_slot(http.scope), process.consoles.hold(str(caller.id)):
        try:
            async with asyncio.timeout(WAIT_TIMEOUT):
                await _answered(process, caller, vm, request)
        except WorkflowFailureError as error:
            _refuse(error)
        except UnreadablePayloadError as error:
            logger.error("the answer of a worker cannot be read: %s", error)  # noqa: TRY400 - says all there is
            raise ProblemError("worker_unavailable", "The answer of a worker cannot be read; try again.") from None
        except TimeoutError:
            detail = f"No worker of this service has answered in {WAIT_TIMEOUT:.0f} seconds; try again."
            raise ProblemError("worker_unavailable", detail) from None
        except (RPCError, RuntimeError):  # the second one if the client was never connected
            raise ProblemError("worker_unavailable", "Temporal cannot be reached right now; try again.") from None
    taken = delete(ConsoleAnswer).where(ConsoleAnswer.id == request.id).returning(ConsoleAnswer.content)
    async with process.autocommit.connect() as connection:
        content = await connection.scalar(taken)
    if content is None:  # a failover has lost it
        raise ProblemError("worker_unavailable", "The answer of a worker is lost; try again.")
    answer: dict[str, Any] = json.loads(content)
    await _check_again(process, http.scope["caller"], vm, kind)
    return answer


async def _check_again(process: ProcessState, caller: Caller, vm: VM, kind: ConsoleRequestKind) -> None:
    """NotFoundError, ForbiddenError or ProblemError if the caller has lost the right while the worker was asked."""
    if not await process.program_tokens.works(caller):
        raise ProblemError("invalid_token", "This login has ended; log in again.")
    present = await fetch_readable_vm(process, caller, vm.id)
    if kind is ConsoleRequestKind.ADDRESS:
        await fetch_changeable_vm(process, caller, present)


async def _answered(process: ProcessState, caller: Caller, vm: VM, request: ConsoleRequest) -> None:
    """Wait until a worker has written the answer."""
    names, vm_name = process.settings.temporal_search_names, vm.name[: search_attributes.LONGEST_NAME]
    values = {
        search_attributes.VM: str(vm.id),
        search_attributes.VM_NAME: vm_name if names != "none" else None,
        search_attributes.OWNER: caller.username if names == "all" else str(caller.id),
        search_attributes.ACTION: f"console-{request.kind}",
    }
    summary = title(f"console {request.kind}", vm_name, "")
    handle = await process.temporal.start_workflow(
        READ_CONSOLE,
        request,
        id=f"console-{vm.id}-{request.id}",
        task_queue=console_queue(process.settings.temporal_task_queue),
        # Nobody waits for it any longer.
        execution_timeout=timedelta(seconds=WAIT_TIMEOUT),
        memo={"request_id": logs.request_id.get()} | ({"actor": caller.username} if names == "all" else {}),
        search_attributes=TypedSearchAttributes([SearchAttributePair(key, v) for key, v in values.items() if v]),
        static_summary=f"{summary} for {quoted(caller.username)}" if names == "all" else summary,
        priority=Priority(fairness_key=str(caller.id)),
        rpc_timeout=RPC_TIMEOUT,
    )
    await handle.result()


def _refuse(failure: WorkflowFailureError) -> NoReturn:
    """Raise the problem that explains why the workflow has failed."""
    cause: BaseException | None = failure.cause
    while isinstance(cause, FailureError) and not isinstance(cause, ApplicationError) and cause.cause is not None:
        cause = cause.cause
    if not isinstance(cause, ApplicationError):
        raise ProblemError("worker_unavailable", "No worker of this service has answered in time; try again.")
    raise ProblemError(cause.type if cause.type in _REFUSALS else "cloud_unavailable", cause.message)
