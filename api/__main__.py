"""The API process: `python -m api`."""

import gc

# Nothing is garbage while modules are loaded, and to look for some takes a quarter of the start.
if __name__ == "__main__":
    gc.disable()

import asyncio
import ctypes
import socket

from api.app import create_app
from api.server import processes
from api.server.serve import serve
from domain import logs, temporal
from domain.data import database
from domain.settings import load_settings

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE_BLOCK = 64 * 1024  # bytes


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = load_settings()
    app = create_app(settings)
    logs.configure(settings.log_level)
    asyncio.run(database.refuse_unusable(settings))
    _tune_memory()

    def end_waits() -> None:
        app.state.vmapi.changes.end()

    def serve_in_process(listening: socket.socket | None = None) -> None:
        temporal.forward_logs()  # starts threads, which no process inherits
        serve(app, settings, end_waits, listening)

    if settings.api_processes > 1:
        processes.run(settings, serve_in_process)
    serve_in_process()


def _tune_memory() -> None:
    """Have the garbage collector and the C library take less time and memory while requests are served."""
    # The garbage collector need not search what stays for ever. Each full search of it would stop the process for tens
    # of milliseconds, and a body with thousands of empty arrays causes one.
    gc.collect()
    gc.freeze()
    gc.enable()
    # glibc returns a large block to the system when it is freed. By default it raises the size from which a block is
    # large each time, and after a flood of large bodies the process would keep 100 MB and more between small blocks.
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGE_BLOCK)


if __name__ == "__main__":
    main()
