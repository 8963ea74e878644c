"""uvicorn's cycle of a request and its answer, as a connection uses it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_logger = logging.getLogger("uvicorn.error")


class WriteFlow(FlowControl):
    """uvicorn's flow control without its control of reading: the connection itself decides when to read."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


class Cycle(RequestResponseCycle):
    """A request and its answer. `transport` is the connection, which takes the answer."""

    def __init__(
        self,
        scope: Any,
        transport: Any,
        flow: WriteFlow,
        headers: list[tuple[bytes, bytes]],
        on_response: Callable[[], None],
    ) -> None:
        super().__init__(
            scope,
            transport,
            flow,
            logger=_logger,
            access_logger=_logger,
            access_log=False,
            default_headers=headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=on_response,
        )

    def disconnect(self) -> None:
        """Tell the application that the client gets no further part of an answer, and let go of the body."""
        self.disconnected = not self.response_complete
        self.body.clear()
        self.message_event.set()
