"""A time limit for statements that a caller can make slow. It ends them at the server, and reaching it is no outage."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, cast

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from domain.data import outages


class TooSlowError(Exception):
    """The statements took longer than their time limit. The server has ended the last of them."""


class LimitedConnection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection whose statements can have a limit of their own for a while."""

    _config: Any  # there is no public name for it
    _usual: Any = None  # the configuration, while another limit holds

    @property
    def command_timeout(self) -> float | None:
        """The seconds that a statement may take now; None for any time."""
        seconds: float | None = self._config.command_timeout
        return seconds

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Let a statement take so long instead."""
        self._usual, self._config = self._config, self._config._replace(command_timeout=seconds)
        try:
            yield
        finally:
            self._end_limit()

    def _cancel_current_command(self, *waiters: object) -> None:
        # The driver gives the server as long to end a statement as the statement itself had, which can be a
        # millisecond, and then gives up the connection.
        self._end_limit()
        super()._cancel_current_command(*waiters)

    def _end_limit(self) -> None:
        if self._usual is not None:
            self._config, self._usual = self._usual, None


class TimeLimit:
    """The seconds that several statements may take together, one after the other."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    @asynccontextmanager
    async def connect(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool whose statements have this limit; TooSlowError if they take longer."""
        async with engine.connect() as plain:
            connection = await plain.execution_options(**{outages.HAS_LIMIT: True})
            raw = await connection.get_raw_connection()
            try:
                async with self.on(raw):
                    yield connection
            except TimeoutError as error:
                outages.drop(raw, error)
                raise

    @asynccontextmanager
    async def on(self, connection: PoolProxiedConnection) -> AsyncIterator[None]:
        """Limit the statements that the driver runs on the connection meanwhile; TooSlowError if they take longer.

        TimeoutError if the server is silent: it does not even say that it has ended the statement.
        """
        driver = cast("LimitedConnection", connection.driver_connection)
        longest = driver.command_timeout
        if longest is not None and longest <= self._left:
            yield
            return
        if self._left < _TOO_SHORT:
            raise TooSlowError
        limit, clock = self._left, asyncio.get_running_loop()
        begun = clock.time()
        try:
            with driver.limited(limit):
                yield
        except TimeoutError:
            if not await _answers(driver, (longest or _SILENCE) - limit):
                raise
            raise TooSlowError from None
        finally:
            self._left -= clock.time() - begun


# Seconds. The server may hear of the end of a statement before it has begun it, and then it does not end it.
_TOO_SHORT: Final = 0.05
_SILENCE: Final = 15.0  # seconds; of a driver without a time limit for statements


async def _answers(driver: asyncpg.Connection, seconds: float) -> bool:
    """Whether the server answers again within this time.

    At the time limit the driver has asked the server to end the statement. Before the next one it waits until the
    server has done so, and then the connection can be used as before.
    """
    try:
        await driver.execute("SELECT 1", timeout=max(seconds, 0.1))
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError):
        return False
    except asyncpg.PostgresError:
        return not driver.is_closed()
    return True
