"""A dialect that lets all connection pools of a test process share their compiled statements.

Nearly every test has pools of its own. Each would compile the same statements again, and ask the same server for its
version.
"""

from typing import Any, ClassVar

from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.util import LRUCache

STATEMENTS = 2000


class OneDialect(PGDialect_asyncpg):
    """The dialect for asyncpg. SQLAlchemy takes all of its instances for the same one."""

    supports_statement_cache = True
    compiled: ClassVar[LRUCache[Any, Any]] = LRUCache(STATEMENTS)
    learned: ClassVar[dict[str, Any]] = {}

    def __eq__(self, other: object) -> bool:
        """Whether a statement compiled for one is good for the other."""
        return isinstance(other, OneDialect)

    def __hash__(self) -> int:
        """The same hash for all."""
        return hash(OneDialect)

    def initialize(self, connection: Connection) -> None:
        """Learn what the server is, or know it already."""
        if not self.learned:
            before = dict(vars(self))
            super().initialize(connection)  # type: ignore[no-untyped-call] # SQLAlchemy gives it no types
            self.learned.update({name: value for name, value in vars(self).items() if before.get(name) is not value})
        vars(self).update(self.learned)

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Let a new pool use the statements of all."""
        engine.update_execution_options(compiled_cache=cls.compiled)


def install() -> None:
    """Use it for all pools from now on."""
    registry.register("postgresql.asyncpg", OneDialect.__module__, OneDialect.__name__)
