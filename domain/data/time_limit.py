"""A time limit for statements that a caller can make slow. It ends them at the server, and reaching it is no outage."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from domain.data import outages


class TooSlowError(Exception):
    """The statements took longer than their time limit. The server has ended the last of them."""


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
        driver: asyncpg.Connection = connection.driver_connection
        # There is no public name for it, and SQLAlchemy gives the driver no time limit with a statement.
        whole = driver._config  # noqa: SLF001
        longest = whole.command_timeout
        if longest is not None and longest <= self._left:
            yield
            return
        if self._left <= 0:
            raise TooSlowError
        limit, clock = self._left, asyncio.get_running_loop()
        begun = clock.time()
        driver._config = whole._replace(command_timeout=limit)  # noqa: SLF001
        try:
            yield
        except TimeoutError:
            driver._config = whole  # noqa: SLF001
            if not await _answers(driver, (longest or _SILENCE) - limit):
                raise
            raise TooSlowError from None
        finally:
            driver._config = whole  # noqa: SLF001
            self._left -= clock.time() - begun


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
