"""A TCP proxy on loopback that cuts connections, also in the middle of an answer, and pauses all traffic on demand."""

import asyncio
from pathlib import Path
from typing import Self

CHUNK = 65536


class Proxy:
    """Forwards connections to a port or, if `target` is a path, to a Unix socket.

    The processes keep their addresses when a fault is injected: they always connect to the proxy, never to the target.
    """

    def __init__(self, target: int | Path) -> None:
        self.target = target
        self.port = 0
        self.connections: set[asyncio.Task[None]] = set()
        self._answers_to_cut = 0
        self._is_passing = asyncio.Event()

    async def start(self) -> Self:
        """Listen on a free port and set `port` to it."""
        self._is_passing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        self._server.close()
        self.cut()
        await asyncio.gather(*self.connections, return_exceptions=True)

    def cut(self) -> int:
        """Reset every open connection; returns their number."""
        for connection in self.connections:
            connection.cancel()
        return len(self.connections)

    def cut_answers(self, count: int) -> None:
        """Cut the next answers in the middle, and their connections."""
        self._answers_to_cut = count

    def stop_cutting(self) -> None:
        """Cut no more answers."""
        self._answers_to_cut = 0

    async def silence(self, seconds: float) -> None:
        """Keep every connection open, but forward nothing in either direction."""
        self._is_passing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._is_passing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection
        self.connections.add(connection)
        writers = [writer]
        try:
            server_reader, server_writer = await self._connect()
            writers.append(server_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, server_writer, answers=False))
                both.create_task(self._pump(server_reader, writer, answers=True))
        except* (OSError, asyncio.CancelledError):
            pass  # one side has closed, or was cut: `abort` below tells the other side with a reset
        finally:
            self.connections.discard(connection)
            for end in writers:
                end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(CHUNK):
            await self._is_passing.wait()
            if answers and self._answers_to_cut:
                self._answers_to_cut -= 1
                writer.write(data[: len(data) // 2])
                await writer.drain()
                writer.close()  # unlike `abort`, this sends what was written before it closes
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # none of these protocols uses half-closed connections, so close both directions
