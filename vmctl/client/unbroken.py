"""Carries something through to its end, also if whoever waits for it is stopped."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_RUNNING: set[asyncio.Task[Any]] = set()  # the event loop alone would not keep them


async def async_unbroken(call: Callable[P, Coroutine[Any, Any, T]], *arguments: P.args, **more: P.kwargs) -> T:
    """Await it. If that is canceled, it goes on in the background."""
    task = asyncio.create_task(call(*arguments, **more))
    _RUNNING.add(task)
    task.add_done_callback(_let_go)
    return await asyncio.shield(task)


def unbroken(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Call it in a thread. A signal, such as Ctrl-C, ends the wait for it only; the process ends after it."""
    thread = ThreadPoolExecutor(1)
    try:
        return thread.submit(call, *arguments, **more).result()
    finally:
        thread.shutdown(wait=False)


def _let_go(task: asyncio.Task[Any]) -> None:
    _RUNNING.discard(task)
    if not task.cancelled():
        task.exception()  # asyncio would report an error that nobody has waited for
