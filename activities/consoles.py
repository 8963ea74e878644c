"""Answers requests for consoles: reads the cloud, and writes the answer to the row that the request waits for."""

import json
import logging
from dataclasses import asdict
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.backends.protocol import BackendError, ComputeBackend
from activities.steps import read_ref
from domain.data import database
from domain.data.guests import ConsoleAnswer
from domain.data.models import VM
from domain.rules import console
from domain.rules.console import ANSWER_REQUEST, ConsoleRequest, ConsoleRequestKind

BENIGN = ApplicationErrorCategory.BENIGN  # a console that is not there is an answer, too: the SDK must not log it

logger = logging.getLogger(__name__)


class ConsoleActivities:
    """The activity of the workflow ReadConsole."""

    def __init__(self, engine: AsyncEngine, backend: ComputeBackend) -> None:
        self._engine = engine
        self._backend = backend

    @activity.defn(name=ANSWER_REQUEST)
    async def answer_console_request(self, request: ConsoleRequest) -> None:
        """Answer one request. Its errors name no more than a code and what users may read."""
        try:
            content = json.dumps(await self._read(request)).encode()
            row = insert(ConsoleAnswer).values(id=request.id, content=content)
            again = row.on_conflict_do_update(index_elements=["id"], set_={"content": content})
            async with database.autocommit(self._engine).connect() as connection:
                await connection.execute(again)
        except BackendError as error:
            raise ApplicationError(
                str(error), type=error.code, non_retryable=not error.retryable, category=BENIGN
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, its text stays here
            # The text may hold a part of what the console shows, and Temporal would keep it.
            logger.warning("A console could not be read: %s", type(error).__name__)
            message = f"Internal error: {type(error).__name__}"
            raise ApplicationError(message, type="internal_error") from None

    async def _read(self, request: ConsoleRequest) -> dict[str, Any]:
        vm = await read_ref(self._engine, VM, request.vm_id)
        if request.kind is ConsoleRequestKind.ADDRESS:
            return asdict(await self._backend.create_console(vm))
        log = await self._backend.get_server_console_output(vm, request.lines)
        return asdict(console.tail(log, request.lines))
