"""Reads the events of a stream, and gives up one that has no end."""

from collections.abc import AsyncIterator
from typing import cast

import httpx
from httpx_sse import EventSource, ServerSentEvent

from vmctl.client.errors import unreadable


async def events_of(stream: httpx.Response, longest: int) -> AsyncIterator[ServerSentEvent]:
    """The events of a stream; UnreadableError if one is longer than `longest` characters."""
    bounded = _Bounded(stream, longest)
    async for event in EventSource(cast("httpx.Response", bounded)).aiter_sse():
        bounded.length = 0
        yield event


class _Bounded:
    """What EventSource needs of a response. It keeps all of an event until the event ends."""

    def __init__(self, stream: httpx.Response, longest: int) -> None:
        self._stream = stream
        self._longest = longest
        self.headers = stream.headers
        self.length = 0  # of what came since the last event

    async def aiter_text(self) -> AsyncIterator[str]:
        """The text as it comes."""
        async for text in self._stream.aiter_text():
            self.length += len(text)
            if self.length > self._longest:
                raise unreadable(self._stream.request.url, f"an event is longer than {self._longest:,} characters")
            yield text
