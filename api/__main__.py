"""The API process: `python -m api`."""

import asyncio
import gc

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
    # The garbage collector need not search what stays for ever. Each full search of it would stop the process for tens
    # of milliseconds, and a body with thousands of empty arrays causes one.
    gc.collect()
    gc.freeze()
    serve(app, settings)


if __name__ == "__main__":
    main()
