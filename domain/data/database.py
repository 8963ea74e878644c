"""Connections to PostgreSQL, the same for the service and for the mock cloud."""

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from domain.settings import Settings

CONNECT_TIMEOUT = 5.0  # seconds
COMMAND_TIMEOUT = 15.0  # seconds
POOL_TIMEOUT = 5.0  # seconds

# A process that is frozen or cut off in the middle of a transaction must not keep its locks for long.
SERVER_SETTINGS = {
    "jit": "off",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def create_engine(settings: Settings, *, command_timeout: float | None = COMMAND_TIMEOUT) -> AsyncEngine:
    """The pool of connections of one process; a statement may take `command_timeout` seconds."""
    return create_async_engine(
        settings.database_url,
        # An overflow connection is closed after each use, and opening one costs more than most requests: keep all.
        pool_size=settings.db_pool_size + settings.db_max_overflow,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        echo=settings.db_echo,
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": command_timeout,
            "server_settings": {"application_name": settings.app_name, **SERVER_SETTINGS},
        },
    )


def autocommit(engine: AsyncEngine) -> AsyncEngine:
    """The same pool without transactions, so that a statement costs one round trip."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")
