"""Connection pools for PostgreSQL, which the service and the mock cloud use alike."""

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from domain.settings import Settings

CONNECT_TIMEOUT = 5.0  # seconds
COMMAND_TIMEOUT = 15.0  # seconds
POOL_TIMEOUT = 5.0  # seconds

SERVER_SETTINGS = {
    "jit": "off",  # compiling one of our statements takes longer than running it
    # A process that is frozen or cut off in the middle of a transaction holds row locks that others wait for. The
    # server ends its transaction after this time, or closes its connection when the keepalives are not answered.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def create_engine(settings: Settings, *, command_timeout: float | None = COMMAND_TIMEOUT) -> AsyncEngine:
    """Create the connection pool of a process; a statement may take `command_timeout` seconds."""
    return create_async_engine(
        settings.database_url,
        # SQLAlchemy closes an overflow connection after each use, and opening one costs more than most requests. So the
        # pool keeps as many connections as the two settings allow together.
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
    """Return the same pool in autocommit mode, for single statements.

    A transaction takes two more round trips, for BEGIN and COMMIT or ROLLBACK.
    """
    return engine.execution_options(isolation_level="AUTOCOMMIT")
