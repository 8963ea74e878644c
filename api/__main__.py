"""The API process: `python -m api`."""

import asyncio

import uvicorn

from api.app import create_app
from domain import logs, temporal
from domain.data import database
from domain.settings import load_settings

REQUEST_GRACE = 3  # seconds that requests in progress may take at shutdown


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = load_settings()
    app = create_app(settings)
    logs.configure(settings.log_level)
    temporal.forward_logs()
    asyncio.run(database.refuse_unusable(settings))
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_GRACE,
    )


if __name__ == "__main__":
    main()
