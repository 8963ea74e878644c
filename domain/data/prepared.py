"""Statements of the busiest requests and steps: SQLAlchemy makes their SQL once, and then the driver runs them.

To run a statement, SQLAlchemy's layers take five times the processor time of the driver (ADR 060). The connections are
those of the same pool, and the errors are those that SQLAlchemy raises.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import asyncpg
from sqlalchemy import Delete, Enum, Insert, Select, Update
from sqlalchemy.dialects.postgresql import asyncpg as postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from domain.data import outages
from domain.data.time_limit import TimeLimit

Values = Mapping[str, Any]
Rows = Sequence[Any]
"""Rows with the attributes of their models, as SQLAlchemy's."""

Statement = Select[*tuple[Any, ...]] | Insert | Update | Delete
"""A statement that returns rows: one that writes has a RETURNING."""

_Process = Callable[[Any], Any]
_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]


class Prepared:
    """A statement with named parameters, whose SQL is made at its first use."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._sql = ""

    async def fetch(self, engine: AsyncEngine, values: Values, limit: TimeLimit | None = None) -> Rows:
        """Run the statement alone, in a transaction of its own; returns all rows. TooSlowError as the limit says."""
        try:
            connection = await engine.raw_connection()
        except engine.sync_engine.dialect.loaded_dbapi.Error as error:
            raise DBAPIError(None, None, error) from None
        try:
            with _errors(connection):
                if limit is None:
                    return await self._run(connection, values)
                async with limit.on(connection):
                    return await self._run(connection, values)
        finally:
            connection.close()

    async def fetch_in(self, tx: AsyncConnection, values: Values) -> Rows:
        """Run the statement on a connection: in its transaction, if it is not in autocommit mode."""
        connection = await tx.get_raw_connection()
        with _errors(connection):
            if tx.sync_connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":  # type: ignore[union-attr]
                await _begin(tx, connection)
            return await self._run(connection, values)

    async def _run(self, connection: PoolProxiedConnection, values: Values) -> Rows:
        if not self._sql:
            self._make()
        arguments = self._constants.copy()
        for position, name, process in self._named:
            arguments[position] = process(values[name])
        driver: asyncpg.Connection = connection.driver_connection
        return self._rows(await driver.fetch(self._sql, *arguments))

    def _make(self) -> None:
        """Make the SQL, and find out where the parameters go and which columns have values of an enum."""
        compiled = self._statement.compile(dialect=_DIALECT)
        named: dict[str, Any] = {name: None for name, bind in compiled.binds.items() if bind.required}
        made = compiled.construct_expanded_state(named)
        processes = {
            name: bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT) for name, bind in compiled.binds.items()
        } | dict(made.processors)
        self._constants = list[Any]()
        self._named = list[tuple[int, str, _Process]]()
        for position, name in enumerate(made.positiontup or ()):
            process = processes.get(name) or _as_it_is
            self._constants.append(None if name in named else process(made.parameters[name]))
            if name in named:
                self._named.append((position, name, process))
        self._enums = [
            (str(name), column.type.enum_class)
            for name, column in self._statement.exported_columns.items()
            if isinstance(column.type, Enum) and column.type.enum_class
        ]
        self._sql = made.statement

    def _rows(self, records: Sequence[asyncpg.Record]) -> Rows:
        rows = []
        for record in records:
            row = SimpleNamespace(**record)
            for name, enum in self._enums:
                value = getattr(row, name)
                if value is not None:
                    setattr(row, name, enum(value))
            rows.append(row)
        return rows


def _as_it_is(value: Any) -> Any:
    return value


async def _begin(tx: AsyncConnection, connection: PoolProxiedConnection) -> None:
    """Begin the transaction on the server, as SQLAlchemy does before its own statements. It ends it in any case."""
    if not tx.in_transaction():
        await tx.begin()
    adapted: Any = connection.dbapi_connection
    if adapted._transaction is None:  # noqa: SLF001 - there is no public name for it
        driver: asyncpg.Connection = connection.driver_connection
        transaction = driver.transaction()
        await transaction.start()
        adapted._transaction = transaction  # noqa: SLF001


@contextmanager
def _errors(connection: PoolProxiedConnection) -> Iterator[None]:
    """Raise the driver's errors as SQLAlchemy does, and drop the connections that they make useless."""
    try:
        yield
    except BaseException as error:
        is_dropped = outages.drop(connection, error)
        if not isinstance(error, asyncpg.PostgresError):
            raise
        kind = IntegrityError if isinstance(error, asyncpg.IntegrityConstraintViolationError) else DBAPIError
        raise kind(None, None, error, connection_invalidated=is_dropped) from error
