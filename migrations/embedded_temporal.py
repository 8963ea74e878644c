"""The Temporal dev server of `make up` and of the tests: its commands, its tuning and the links into its Web UI."""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from domain.settings import Settings

TEMPORAL = str(Path(sys.executable).with_name("temporal"))
DATABASE = "temporal.db"
UNFINISHED = "temporal.unfinished"  # exists until the server has served for the first time
HISTORY_QUEUES = ("transfer", "timer", "visibility", "outbound")
# The dev server's defaults sync the disk 64 times for each workflow and poll its queues only 20 times a second.
TUNING = [
    *("--sqlite-pragma=journal_mode=wal", "--sqlite-pragma=synchronous=normal"),
    *(f"--dynamic-config-value=history.{queue}ProcessorMaxPollRPS=1000" for queue in HISTORY_QUEUES),
    '--dynamic-config-value=history.timerProcessorMaxTimeShift="10ms"',
    *(f"--dynamic-config-value=matching.numTaskqueue{side}Partitions=1" for side in ("Read", "Write")),
    "--dynamic-config-value=matching.enableFairness=true",  # round-robin by owner; the default is oldest first
    "--dynamic-config-value=system.forceSearchAttributesCacheRefreshOnRead=false",
]
# The server also opens an HTTP API on a random port, and no flag closes it. It takes requests of any content type, so
# a page of any site in a browser of this machine could end all workflows. No address can have this host name.
NO_HTTP_API = '--dynamic-config-value=frontend.httpAllowedHosts=["none.invalid"]'
# The tool also reads TEMPORAL_* and, in the home directory, files with other addresses and TLS. It gets none of them.
ENVIRONMENT = {"PATH": os.defpath}
WAITING = 'WaitsFor IS NOT NULL AND ExecutionStatus = "Running"'
NO_CONFIGURATION = ["--disable-config-file", "--disable-config-env"]


def process_options(data_dir: Path) -> dict[str, Any]:
    """Options for subprocess. In a session of its own the server does not get the signals of our process group."""
    return {"cwd": data_dir, "start_new_session": True, "env": ENVIRONMENT}


def discard_unfinished_state(data_dir: Path) -> None:
    """Remove a state that was never served. The server makes its tables only in a new file.

    So a server that ends while it makes them, by Ctrl-C or on a full disk, would leave a file that no server can use.
    """
    if (data_dir / UNFINISHED).exists():
        for ending in ("", "-wal", "-shm"):
            (data_dir / f"{DATABASE}{ending}").unlink(missing_ok=True)
    elif not (data_dir / DATABASE).exists():
        (data_dir / UNFINISHED).touch()


def keep_state(data_dir: Path) -> None:
    """Keep the state from now on. The server serves, so its tables are complete, and it may get workflows."""
    (data_dir / UNFINISHED).unlink(missing_ok=True)
    os.fsync(folder := os.open(data_dir, os.O_RDONLY))  # after a power cut the mark must not be back
    os.close(folder)


def server_command(settings: Settings) -> list[str]:
    """Command line of the server with its Web UI. Its state is one file in the folder in which it is started.

    The name of the file becomes part of a URI, in which `#`, `?` and `%` have a meaning. So it is relative: the path of
    the folder may contain them.
    """
    ports = [f"--port={settings.temporal_port}", f"--ui-port={settings.temporal_ui_port}"]
    state = [f"--db-filename={DATABASE}", f"--namespace={settings.temporal_namespace}"]
    quiet = ["--ui-disable-news-fetch", "--log-level=error", *NO_CONFIGURATION]
    return [TEMPORAL, "server", "start-dev", "--ip=127.0.0.1", *ports, *state, *quiet, NO_HTTP_API, *TUNING]


def retention_command(settings: Settings) -> list[str]:
    """Command that keeps closed workflows for 30 days; it also serves as probe, as it fails until the server is up."""
    target = [f"--namespace={settings.temporal_namespace}", f"--address=127.0.0.1:{settings.temporal_port}"]
    return [TEMPORAL, "operator", "namespace", "update", "--retention=30d", *target, *NO_CONFIGURATION]


def waiting_url(settings: Settings, web_ui: str) -> str:
    """Address of the Web UI's list of the workflows that wait to be confirmed or try again."""
    return f"{web_ui}/namespaces/{quote(settings.temporal_namespace)}/workflows?query={quote(WAITING)}"
