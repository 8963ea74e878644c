"""Calls that would stop the event loop, in threads."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def call(function: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Call it in a thread.

    A cancel waits for its end: a thread goes on, and until then the turn that the caller has is not free for others.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **more))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # nobody else takes it, and asyncio would log that
        raise
