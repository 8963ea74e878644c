"""The API process: `python -m api`."""

import asyncio

from api.app import create_app
from api.server.serve import serve
from domain import logs, temporal
from domain.data import database
from domain.settings import load_settings


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = load_settings()
    app = create_app(settings)
    logs.configure(settings.log_level)
    temporal.forward_logs()
    asyncio.run(database.refuse_unusable(settings))
    serve(app, settings)


if __name__ == "__main__":
    main()
