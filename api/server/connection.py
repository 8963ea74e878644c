"""One connection: cuts what it receives into requests, and bounds their size, their time and their number.

httptools (llhttp) parses, uvicorn's cycle of request and answer speaks ASGI. This protocol stands between them, where
uvicorn's own one hands everything that arrives to the parser at once. It gives the parser one request at a time.
"""

import asyncio
import contextlib
import logging
from enum import Enum, auto
from math import inf
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from api.server import heads
from api.server.connections import Connections, group_of
from api.server.heads import RefusedError
from api.server.refusals import refusal
from api.web.problems import MAX_BODY

HEAD_TIME = 20.0  # seconds from the connect, or from the first byte of a further request
BODY_TIME = 30.0  # seconds from the end of the head
WRITE_TIME = 30.0  # seconds in which a client takes the part of an answer that exceeds the write buffer
LINGER_TIME = 30.0  # seconds in which a client may finish sending what nobody reads
MOST_LINGERING = 64 * 1024 * 1024  # bytes of it
MAX_FRAMING = 32 * 1024  # bytes of chunk sizes, chunk extensions and trailers of one body

_logger = logging.getLogger("uvicorn.error")
# All connections read into this buffer, one after the other: a read is copied before the next one begins. Its size
# bounds what a connection holds of requests that it has no time for yet.
_BUFFER = memoryview(bytearray(32 * 1024))


class Phase(Enum):
    """What a connection does."""

    IDLE = auto()  # waits for a further request
    HEAD = auto()  # receives a head; begins with the connect
    BODY = auto()  # receives the body; the application may read it already
    SERVING = auto()  # has received the whole request
    LINGERING = auto()  # has answered, and throws away what still comes
    CLOSING = auto()  # sends the last bytes


class _WriteFlow(FlowControl):
    """Flow control of the answer. What is read is the connection's decision, and not the application's."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


class Connection(asyncio.BufferedProtocol):
    """A client's connection. It plays the transport for uvicorn's cycle, so that it decides how it is closed."""

    def __init__(
        self,
        connections: Connections,
        keep_alive: float,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.registry = connections
        self.keep_alive = keep_alive
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.cycle: RequestResponseCycle | None = None

        self.phase = Phase.HEAD
        self.since = self.loop.time()
        self.deadline = self.since + HEAD_TIME
        self.received = b""  # an incomplete head, or the requests after the one that is being served
        self.held = 0
        self.is_reading = True
        self.discarded = 0

        self.fields: heads.Fields = []
        self.is_in_trailers = False
        self.is_kept_alive = False
        self.is_complete = False  # the request was received wholly
        self.body_left: int | None = 0  # None if the body is chunked
        self.body_size = 0
        self.chunk_left = 0
        self.chunk_line = b""
        self.framing = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it serves TCP only
        """Begin, or refuse the connection if there are too many."""
        self.transport = transport
        self.write = transport.write
        self.flow = _WriteFlow(transport)
        self.server = get_local_addr(transport)
        self.client = get_remote_addr(transport)
        self.address = group_of(self.client[0]) if self.client else ""
        if self.registry.admit(self):
            self.server_state.connections.add(self)  # type: ignore[arg-type] # it is none of uvicorn's own protocols
        else:
            detail = "The service has too many connections at the moment. Try again."
            self.write(refusal(RefusedError("overloaded", detail), self.server_state.default_headers, self.address))
            self._close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Tell the application, and give everything back."""
        self.registry.remove(self)
        self.server_state.connections.discard(self)
        self._disconnect()
        self.flow.resume_writing()
        self.received = b""
        del self.parser  # it refers to this connection

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to read to."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if self.phase is Phase.LINGERING:
            self.discarded += nbytes
            if self.discarded > MOST_LINGERING:
                self.transport.abort()
        elif not self.transport.is_closing():
            self._take(bytes(_BUFFER[:nbytes]))

    def pause_writing(self) -> None:
        """Let the application wait, for a limited time, until the client has read a part of the answer."""
        self.flow.pause_writing()
        if self.phase is Phase.SERVING:
            self.deadline = self.loop.time() + WRITE_TIME

    def resume_writing(self) -> None:
        """Let the application continue."""
        self.flow.resume_writing()
        if self.phase is Phase.SERVING:
            self.deadline = inf

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head. Trailers are dropped: a proxy in front has not checked them as header fields."""
        if not self.is_in_trailers:
            self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Note what the parser knows at this moment only."""
        self.is_in_trailers = True
        self.is_kept_alive = self.parser.should_keep_alive()

    def on_chunk_header(self) -> None:
        """Note the size of the chunk that follows; the parser has checked that it is a number."""
        self.chunk_left = int(self.chunk_line.partition(b";")[0], 16)

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on, but nothing after the limit: the application has refused the request by then."""
        assert self.cycle  # noqa: S101 - a body follows a head
        if self.body_size <= MAX_BODY and not self.cycle.response_complete:
            self.cycle.body += body
            self.cycle.message_event.set()
        self.body_size += len(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self.is_complete = True

    # What uvicorn calls: its cycle of request and answer, which takes this object for its transport, and its server.

    def is_closing(self) -> bool:
        """Whether the client can get nothing more."""
        return self.phase in (Phase.LINGERING, Phase.CLOSING) or self.transport.is_closing()

    def close(self) -> None:
        """Close after the answer.

        If the client may still be sending, what it sends is read and dropped. Otherwise the kernel would answer it with
        a reset, and the client would lose the answer that it has not read yet.
        """
        if self.is_complete and not self.received:
            self._close()
        else:
            self._linger()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self.server_state.total_requests += 1
        if self.is_closing():
            return
        if not self.is_complete:  # the next request cannot begin before the end of this one
            self._linger()
            return
        self._enter(Phase.IDLE, self.keep_alive)
        if self.received:
            received, self.received = self.received, b""
            self.registry.hold(self, 0)
            self._take(received)
        if self.phase is not Phase.SERVING:
            self._read(is_wanted=True)

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

    def expire(self) -> None:
        """End a phase whose time is over."""
        if self.phase is Phase.IDLE or (self.phase is Phase.HEAD and not self.received):
            self._close()
        elif self.phase in (Phase.HEAD, Phase.BODY):
            self._refuse(RefusedError("request_timeout", "The request took too long to arrive."))
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    # Requests.

    def _take(self, data: bytes) -> None:
        """Take received bytes: parts of a request, and perhaps requests after it."""
        try:
            if self.phase in (Phase.HEAD, Phase.IDLE):
                data = self._take_head(data)
            if self.phase is Phase.BODY and data:
                data = self._take_body(data)
        except RefusedError as error:
            self._refuse(error)
            return
        if self.phase is Phase.SERVING and data:
            # A further request waits in the kernel, and so does the client, until this one is answered.
            self._read(is_wanted=False)
            self.received += data
            self.registry.hold(self, len(self.received))

    def _take_head(self, data: bytes) -> bytes:
        """Take a part of a head; returns what follows it. An empty line before a head is allowed."""
        searched = max(0, len(self.received) - len(heads.END) + 1)
        head = self.received + data if self.received else data.lstrip(b"\r\n")
        end = head.find(heads.END, searched) + len(heads.END)
        if end >= len(heads.END):
            self._start(head[:end])
            return head[end:]
        if head:
            heads.check_beginning(head)
            if self.phase is Phase.IDLE:
                self._enter(Phase.HEAD, HEAD_TIME)
            self.received = head
            self.registry.hold(self, len(head))
        return b""

    def _start(self, head: bytes) -> None:
        """Parse a head, and give the request to the application."""
        method, target, version = heads.request_line(head)
        self.received = b""
        self.fields = []
        self.is_in_trailers = self.is_complete = False
        self._feed(heads.without_upgrade(head))
        self.body_left = heads.length_of_body(version, self.fields)
        self.body_size = self.chunk_left = self.framing = 0
        self.chunk_line = b""
        self._start_cycle(method, target, version)
        if self.is_complete:
            self._finish_request()
        else:
            self._enter(Phase.BODY, BODY_TIME)

    def _start_cycle(self, method: bytes, target: bytes, version: bytes) -> None:
        raw_path, query = heads.path_and_query(method, target)
        path = raw_path.decode("ascii")
        root_path = self.config.root_path
        scope = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "http_version": version.decode("ascii"),
            "server": self.server,
            "client": self.client,
            "scheme": "http",
            "method": method.decode("ascii"),
            "root_path": root_path,
            "path": root_path + (unquote(path) if "%" in path else path),
            "raw_path": root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": self.fields,
            "state": self.app_state.copy(),
        }
        is_modern = version != b"1.0"
        self.cycle = RequestResponseCycle(
            scope=scope,  # type: ignore[arg-type]
            transport=self,  # type: ignore[arg-type]
            flow=self.flow,
            logger=_logger,
            access_logger=_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=is_modern and heads.expects_continue(self.fields),
            keep_alive=is_modern and self.is_kept_alive,
            on_response=self.on_response_complete,
        )
        task = self.loop.create_task(self.cycle.run_asgi(self.config.loaded_app))
        task.add_done_callback(self.server_state.tasks.discard)
        self.server_state.tasks.add(task)

    def _take_body(self, data: bytes) -> bytes:
        """Take a part of a body; returns what follows it."""
        if self.body_left is None:
            rest = self._take_chunks(data)
        else:
            part, rest = data[: self.body_left], data[self.body_left :]
            self.body_left -= len(part)
            self._feed(part)
        if self.is_complete:
            self._finish_request()
        else:
            self.registry.hold(self, min(self.body_size, MAX_BODY))
        return rest

    def _take_chunks(self, data: bytes) -> bytes:
        """Take a part of a chunked body; returns what follows it.

        The parser does not say where in its input a body ends. But each body ends with the LF of a line, so the parser
        gets these lines one by one, and the content of each chunk in one piece.
        """
        start = 0
        while start < len(data) and not self.is_complete:
            if self.chunk_left:
                end = min(start + self.chunk_left, len(data))
                self.chunk_left -= end - start
                self._feed(data[start:end])
            else:
                end = data.find(b"\n", start) + 1 or len(data)
                self.framing += end - start
                if self.framing > MAX_FRAMING:
                    detail = f"The chunk sizes, chunk extensions and trailers have at most {MAX_FRAMING} bytes."
                    raise RefusedError("body_too_large", detail)
                self.chunk_line += data[start:end]
                self._feed(data[start:end])
                if self.chunk_line.endswith(b"\n"):
                    self.chunk_line = b""
            start = end
        return data[start:]

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            raise RefusedError("not_implemented", "This server does not know the method of the request.") from None
        except httptools.HttpParserError as error:
            raise heads.malformed(str(error)) from None

    def _finish_request(self) -> None:
        assert self.cycle  # noqa: S101 - it was started with the head
        self.cycle.more_body = False
        self.cycle.message_event.set()
        if self.held:
            self.registry.hold(self, 0)
        self._enter(Phase.SERVING, WRITE_TIME if self.flow.write_paused else inf)

    # The end.

    def _refuse(self, error: RefusedError) -> None:
        """Answer with an error, and close."""
        has_begun = self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started
        self._disconnect()
        if has_begun:  # a second answer would look like a part of the first
            self.abort()
            return
        self.write(refusal(error, self.server_state.default_headers, self.address))
        self._linger()

    def _disconnect(self) -> None:
        """Tell the application that the client gets no answer any more."""
        if self.cycle:
            self.cycle.disconnected = not self.cycle.response_complete
            self.cycle.message_event.set()

    def _linger(self) -> None:
        """End the answer, then wait until the client has read it and closes, or until it has sent too much."""
        self.received = b""
        self.registry.hold(self, 0)
        self._enter(Phase.LINGERING, LINGER_TIME)
        with contextlib.suppress(OSError):  # the client has just gone
            self.transport.write_eof()
        self._read(is_wanted=True)

    def _close(self) -> None:
        """Send what is left, and close; the deadline is for a client that does not read it."""
        self._enter(Phase.CLOSING, WRITE_TIME)
        self.transport.close()

    def _enter(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self.since = self.loop.time()
        self.deadline = self.since + seconds

    def _read(self, *, is_wanted: bool) -> None:
        """Read from the client, or leave what it sends in the kernel, so that it has to wait."""
        if is_wanted != self.is_reading and not self.transport.is_closing():
            self.is_reading = is_wanted
            (self.transport.resume_reading if is_wanted else self.transport.pause_reading)()
