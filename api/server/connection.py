"""One connection: gives its requests to the application one after the other, and bounds their time and their number.

It takes the place of uvicorn's own protocol, which parses everything that arrives at once and without a limit. The
cycle of request and answer, which speaks ASGI, is still uvicorn's.
"""

import asyncio
import contextlib
from math import inf
from typing import Any

from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from api.server.connections import Connections
from api.server.cycle import Cycle, WriteFlow
from api.server.heads import USUAL_HEAD, RefusedError
from api.server.phases import BODY_TIME, HEAD_TIME, LINGER_TIME, MOST_LINGERING, SIZE_OF_LEFT, WRITE_TIME, Phase
from api.server.refusals import refusal
from api.server.requests import Reader, Request, may_change
from api.web.origin import network_of
from api.web.problems import MAX_BODY

# All connections read into this buffer, one after the other: a read is copied before the next one begins. Its size
# bounds what a connection holds of requests that it has no time for yet.
_BUFFER = memoryview(bytearray(32 * 1024))


class Connection(asyncio.BufferedProtocol):
    """A client's connection. uvicorn's cycle takes it for the transport, so it decides itself how it is closed."""

    def __init__(
        self,
        connections: Connections,
        keep_alive: float,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: None,  # a parameter that uvicorn passes and does not use
    ) -> None:
        self.registry = connections
        self.keep_alive = keep_alive
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = asyncio.get_running_loop()
        self.reader = Reader(self._take_body)
        self.cycle: Cycle | None = None
        self.task: asyncio.Task[None] | None = None  # the application's work on the request
        self._enter(Phase.HEAD, HEAD_TIME)
        self.waiting = b""  # bytes that came after the request that is being served
        self.held = self.head_size = self.body_size = self.lingered = 0  # bytes; `lingered` in the phase LINGERING
        self.is_reading = True

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it serves TCP only
        """Begin, or refuse the connection if there are too many."""
        self.transport = transport
        self.write = transport.write
        self.flow = WriteFlow(transport)
        self.server, self.client = get_local_addr(transport), get_remote_addr(transport)
        self.address = network_of(self.client[0]) if self.client else ""
        if not self.client:  # it has gone; what it sent would still arrive, without an address
            transport.abort()
        elif self.registry.admit(self):
            self.server_state.connections.add(self)  # type: ignore[arg-type] # it is none of uvicorn's own protocols
        else:
            detail = "The service has too many connections at the moment. Try again."
            self.write(refusal(RefusedError("overloaded", detail), self.server_state.default_headers, self.address))
            self._close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Tell the application, and give everything back, as soon as the application has finished its work."""
        self.server_state.connections.discard(self)
        self._disconnect()
        if self.task:
            self._enter(Phase.LEFT, inf)
            self.since = 0.0  # it goes first if there is too much
            self.weigh()
        else:
            self.registry.remove(self)
        self.flow.resume_writing()
        # Without these references to each other, the objects go at once and not when the garbage collector comes.
        self.reader.close()
        del self.write

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return the buffer that the event loop reads into."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that were read."""
        if self.phase is Phase.LINGERING:
            self.lingered += nbytes
            if self.lingered > MOST_LINGERING:
                self.abort()
            elif not self.registry.drain(self, nbytes):
                self.read(is_wanted=False)
        elif not self.transport.is_closing():
            self._take(bytes(_BUFFER[:nbytes]))

    def pause_writing(self) -> None:
        """Let the application wait, for a limited time, until the client has read a part of the answer."""
        self.flow.pause_writing()
        self.weigh()
        if self.phase is Phase.SERVING:
            self.deadline = self.loop.time() + WRITE_TIME

    def resume_writing(self) -> None:
        """Let the application continue."""
        self.flow.resume_writing()
        self.weigh()
        if self.phase is Phase.SERVING:
            self.deadline = inf

    # What uvicorn calls: its cycle of request and answer, which takes this object for its transport, and its server.

    def is_closing(self) -> bool:
        """Whether no further answer can be sent to the client."""
        return self.phase is Phase.LINGERING or self.transport.is_closing()

    def close(self) -> None:
        """Close after the answer.

        If the client may still be sending, what it sends is read and dropped. Otherwise the kernel would answer it with
        a reset, and the client would lose the answer that it has not read yet.
        """
        if not self.transport.is_closing():
            (self._close if self.reader.is_complete and not self.waiting else self._linger)()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self.server_state.total_requests += 1
        self.cycle = None  # an idle connection does not keep its last request
        if self.is_closing():
            return
        if not self.reader.is_complete:  # the next request cannot begin before the end of this one
            self._linger()
            return
        self._enter(Phase.IDLE, self.keep_alive)
        if self.waiting:
            waiting, self.waiting = self.waiting, b""
            self._take(waiting)
        if not self.is_reading and not self.waiting:
            self.read(is_wanted=True)

    def shutdown(self) -> None:
        """Close when the request that is being served, if any, is answered."""
        if self.cycle and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._close()

    # What the registry of connections calls.

    def is_busy(self) -> bool:
        """Whether the connection waits for us and not for the client."""
        return self.phase is Phase.SERVING and self.deadline == inf

    def is_changing(self) -> bool:
        """Whether a request is being served that may change something, and is not refused already."""
        return self.is_busy() and self.cycle is not None and may_change(self.cycle.scope)

    def expire(self) -> None:
        """End a phase whose time is over."""
        if self.phase is Phase.IDLE or (self.phase is Phase.HEAD and not self.reader.part_of_head):
            self._close()
        elif self.phase in (Phase.HEAD, Phase.BODY):
            self._refuse(RefusedError("request_timeout", "The request took too long to arrive."))
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection, end its request, and free what both hold, at once: many may end in one turn."""
        self.transport.abort()
        self._disconnect()
        if self.task:
            self.task.cancel()

    def read(self, *, is_wanted: bool) -> None:
        """Read from the client, or leave what it sends in the kernel, so that it has to wait."""
        if is_wanted != self.is_reading and not self.transport.is_closing():
            self.is_reading = is_wanted
            (self.transport.resume_reading if is_wanted else self.transport.pause_reading)()

    def weigh(self) -> None:
        """Tell the registry how much memory this connection takes."""
        size = len(self.reader.part_of_head) + len(self.waiting) + self.transport.get_write_buffer_size()
        if self.task:
            size += self.head_size + min(self.body_size, MAX_BODY)
        size += SIZE_OF_LEFT if self.phase is Phase.LEFT else 0
        if size != self.held:
            self.registry.hold(self, size)

    # Requests.

    def _take(self, data: bytes) -> None:
        """Take received bytes: parts of a request, and perhaps requests after it."""
        try:
            if self.phase in (Phase.HEAD, Phase.IDLE):
                data = self._take_head(data)
            if self.phase is Phase.BODY and data:
                data = self.reader.take_body(data)
                if self.reader.is_complete:
                    self._serve()
        except RefusedError as error:
            self._refuse(error)
            return
        if data:
            # It follows a complete request. Until that is answered, what the client sends stays in the kernel.
            self.read(is_wanted=False)
            self.waiting += data
        if self.held or self.waiting or self.body_size or self.head_size or self.phase is not Phase.SERVING:
            self.weigh()

    def _take_head(self, data: bytes) -> bytes:
        request, rest = self.reader.take_head(data)
        if request:
            self._start(request)
            if self.reader.is_complete:
                self._serve()
            else:
                self._enter(Phase.BODY, BODY_TIME)
        elif self.reader.part_of_head and self.phase is Phase.IDLE:
            self._enter(Phase.HEAD, HEAD_TIME)
        return rest

    def _start(self, request: Request) -> None:
        """Give a request to the application, which waits for the body, if there is one."""
        self.head_size, self.body_size = max(0, request.size - USUAL_HEAD), 0
        scope = request.scope(self.client, self.server, self.app_state.copy())
        self.cycle = Cycle(scope, self, self.flow, self.server_state.default_headers, self.on_response_complete)
        self.cycle.keep_alive, self.cycle.waiting_for_100_continue = request.is_kept_alive, request.expects_continue
        self.task = self.loop.create_task(self.cycle.run_asgi(self.config.loaded_app))
        self.task.add_done_callback(self._finish)
        self.server_state.tasks.add(self.task)

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Note the end of the application's work on a request; a further request may have begun meanwhile."""
        self.server_state.tasks.discard(task)
        if self.task is not task:
            return
        self.task = None
        if self.phase is Phase.LEFT:
            self.registry.remove(self)
        else:
            self.weigh()

    def _take_body(self, body: bytes) -> None:
        """Pass a part of the body on. After MAX_BODY bytes the application refuses the request and needs no more."""
        assert self.cycle  # noqa: S101 - a body follows a head
        if self.body_size <= MAX_BODY and not self.cycle.response_complete:
            self.cycle.body += body
            self.cycle.message_event.set()
        self.body_size += len(body)

    def _serve(self) -> None:
        """Wait for the application's answer to a request that is complete."""
        assert self.cycle  # noqa: S101 - as above
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._enter(Phase.SERVING, WRITE_TIME if self.flow.write_paused else inf)

    def _refuse(self, error: RefusedError) -> None:
        """Answer with an error, and close."""
        if self.cycle and self.cycle.response_started and not self.cycle.response_complete:
            self.abort()  # a second answer would look like a part of the first
            return
        self.write(refusal(error, self.server_state.default_headers, self.address))
        self._linger()

    def _disconnect(self) -> None:
        """Drop what the client has sent, and tell the application that nobody waits for its answer."""
        self.waiting = b""
        self.reader.part_of_head.clear()
        if self.cycle:
            self.cycle.disconnect()
            self.cycle = None

    def _linger(self) -> None:
        """End the answer, then wait until the client has read it and closes, or until it has sent too much."""
        self._disconnect()
        self._enter(Phase.LINGERING, LINGER_TIME)
        self.weigh()
        with contextlib.suppress(OSError):  # the client has just gone
            self.transport.write_eof()
        self.read(is_wanted=True)

    def _close(self) -> None:
        """Send what is left, then close. A client that does not read it is cut off at the deadline."""
        self._enter(Phase.CLOSING, WRITE_TIME)
        self.transport.close()

    def _enter(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self.since = self.loop.time()
        self.deadline = self.since + seconds
