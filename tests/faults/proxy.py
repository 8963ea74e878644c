"""A TCP proxy on loopback that cuts connections, also in mid-answer, and falls silent when it is told to."""

import asyncio
from pathlib import Path
from typing import Self

CHUNK = 65536


class Proxy:
    """Stands before a server at a port or, where `target` is a path, at a Unix socket, and connects to it for each."""

    def __init__(self, target: int | Path) -> None:
        self.target = target
        self.port = 0
        self.connections: set[asyncio.Task[None]] = set()
        self._cuts = 0
        self._open = asyncio.Event()

    async def start(self) -> Self:
        """Listen on a free port, which `port` then is."""
        self._open.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Listen no more."""
        self._server.close()
        self.cut()
        await asyncio.gather(*self.connections, return_exceptions=True)

    def cut(self) -> int:
        """Reset every connection there is; returns how many."""
        for connection in self.connections:
            connection.cancel()
        return len(self.connections)

    def cut_answers(self, count: int) -> None:
        """Cut the next answers in their middle, with the connections they come by."""
        self._cuts = count

    def mend(self) -> None:
        """Cut no more answers."""
        self._cuts = 0

    async def silence(self, seconds: float) -> None:
        """Keep every connection and let nothing pass, either way."""
        self._open.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._open.set()

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
            pass  # one end is gone, or is cut off: the other learns of it just so
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
            await self._open.wait()
            if answers and self._cuts:
                self._cuts -= 1
                writer.write(data[: len(data) // 2])
                await writer.drain()
                writer.close()  # what was written is sent before the end
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # half-closed connections are nothing that these protocols use
