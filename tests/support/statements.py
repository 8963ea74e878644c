"""The SQL statements that requests run."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.prepared import Prepared


@contextmanager
def statements_of_requests(engine: AsyncEngine) -> Iterator[list[str]]:
    """The statements that this task runs meanwhile on the engine of an application.

    The application serves a request in the task of its client. Its own tasks are others, and run when they want.
    """
    seen, client, run = list[str](), asyncio.current_task(), Prepared._run

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if asyncio.current_task() is client:
            seen.append(statement)

    async def run_by_the_driver(prepared: Prepared, *arguments: Any) -> Any:
        note(None, None, str(prepared._statement))
        return await run(prepared, *arguments)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        with patch.object(Prepared, "_run", run_by_the_driver):
            yield seen
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
