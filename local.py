"""The supervisor behind `make up`: runs PostgreSQL, Temporal, worker and API under DATA_DIR until SIGINT or SIGTERM."""

import signal

if __name__ == "__main__":
    # The imports below take half a second. A Ctrl-C meanwhile ends the process at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import asyncio
import contextlib
import errno
import http.client
import io
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from domain import env_file
from domain.settings import Settings, SettingsWithoutKey, load_settings
from migrations import data_dir as data_dirs
from migrations import embedded_postgres, embedded_temporal
from migrations.children import STOP_SIGNALS, Child, StartError, StopRequested, say, spawn, tail
from migrations.data_dir import DataDirError
from migrations.embedded_postgres import PostgresError

ROOT = Path(__file__).resolve().parent
LOGS_INTERVAL, MIGRATION_TIMEOUT, ANSWER_TIMEOUT = 1, 600, 5  # seconds
# Ctrl-C sends SIGINT to every process of the terminal's group. With a session of its own a child does not get it,
# so that the supervisor alone decides in which order the children stop.
PROCESS_OPTIONS: dict[str, Any] = {"cwd": ROOT, "start_new_session": True}
# What API, worker and migrations get of our environment besides the settings.
INHERITED = {"PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"}
INHERITED |= {"SSL_CERT_FILE", "SSL_CERT_DIR"}
SECRETS = Settings.model_fields.keys() - SettingsWithoutKey.model_fields.keys()


@contextlib.contextmanager
def own_ports(settings: Settings) -> Iterator[None]:
    """Raise StartError if a port that the stack will listen on is taken; else keep other stacks from it.

    Our programs take their ports seconds later. Without the reservation two stacks that start together would both find
    them free, and the programs of one would answer to the other.
    """
    addresses = {"API_PORT": (settings.api_host, settings.api_port)}
    if "temporal_address" not in settings.model_fields_set:
        addresses["TEMPORAL_PORT"] = ("127.0.0.1", settings.temporal_port)
        addresses["TEMPORAL_UI_PORT"] = ("127.0.0.1", settings.temporal_ui_port)
    with contextlib.ExitStack() as reservations:
        # All ports stay open until the last is checked: two settings may name the same one.
        with contextlib.ExitStack() as sockets:
            for setting, (host, port) in addresses.items():
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                try:
                    if sys.platform == "linux":  # a name in memory, which goes with its socket
                        name = f"\0openstack-vm-api {port} {host}"[:100]  # its limit is 108 bytes
                        reservations.enter_context(socket.socket(socket.AF_UNIX)).bind(name)
                    sockets.enter_context(socket.create_server((host, port), family=family))
                except OSError as error:
                    raise StartError(_explain(setting, host, port, error)) from None
        yield


def _explain(setting: str, host: str, port: int, error: OSError) -> str:
    """Say why nothing can listen there, and which setting to change: the host's if it is not of this machine."""
    reason = (error.strerror or str(error)).partition(" (while")[0]
    # A name that cannot be looked up has a negative number.
    if (error.errno or 0) < 0 or error.errno == errno.EADDRNOTAVAIL:
        why, advice, setting = f"The host {host}", "Choose an address of this machine", "API_HOST"
    else:
        why, advice = f"Port {port} on {host} ({setting})", "Free it or choose another"
    return f"{why} cannot be used: {reason}. {advice}: make up {setting}=..."


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of API, worker and migrations: our settings but the secret keys, and INHERITED.

    They also get the variables that .env names for other settings, because each of them reads that file itself.

    Libraries read many more variables, which a shell may have for other programs. PGSSLMODE would keep us from our own
    database, WEB_CONCURRENCY the API from starting. PG* is for the user's own database, and OS_* for a cloud.
    Each is given only with it.
    """
    names = INHERITED | {name.upper() for name in SettingsWithoutKey.model_fields}
    named = {variable.name for _, variable in env_file.variables(skipped=SECRETS)}
    prefixes = ["LC_"]
    if "database_url" in settings.model_fields_set:
        prefixes.append("PG")
    if settings.compute_backend == "openstack":
        prefixes.append("OS_")
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in names or name in named or name.startswith(tuple(prefixes))
    }


def signing_keys(settings: Settings, data_dir: Path) -> dict[str, str]:
    """Return the environment with which the API signs: the keys of the settings, or the stack's own."""
    fallbacks = [fallback.get_secret_value() for fallback in settings.secret_key_fallbacks]
    if settings.secret_key is not None:
        key = settings.secret_key.get_secret_value()
    else:
        key = data_dirs.secret_key(data_dir)
        fallbacks += data_dirs.former_secret_keys(data_dir)
    return {"SECRET_KEY": key, "SECRET_KEY_FALLBACKS": ",".join(fallbacks)}


def _not_ready(url: str) -> str:
    """Why the API is not ready, empty if it is."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=ANSWER_TIMEOUT).close()
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return ""


def postgres_server(data_dir: Path, socket_dir: Path, logs: Path) -> Child:
    """The database server of an existing cluster, not yet started."""
    return Child(
        "postgres",
        embedded_postgres.server_command(data_dir, socket_dir),
        logs,
        stop_timeout=5,
        stop_signal=signal.SIGINT,  # on SIGTERM PostgreSQL would wait for its clients to disconnect
        probe=embedded_postgres.ready_command(socket_dir),
        options=embedded_postgres.PROCESS_OPTIONS,
        prepare=partial(embedded_postgres.prepare_start, data_dir / "postgres"),
    )


def temporal_server(settings: Settings, data_dir: Path, logs: Path) -> Child:
    """The Temporal dev server, not yet started."""
    return Child(
        "temporal",
        embedded_temporal.server_command(settings),
        logs,
        stop_timeout=4,
        probe=embedded_temporal.retention_command(settings),
        options=embedded_temporal.process_options(data_dir),
        prepare=partial(embedded_temporal.discard_unfinished_state, data_dir),
    )


def own_servers(settings: Settings, data_dir: Path, logs: Path, addresses: dict[str, str]) -> Iterator[Child]:
    """Yield the servers that the settings do not name, and add their addresses to an environment."""
    if "database_url" not in settings.model_fields_set:
        socket_dir = embedded_postgres.init_cluster(data_dir)
        addresses["DATABASE_URL"] = embedded_postgres.database_url(socket_dir)
        addresses |= {"DB_API_ROLE": embedded_postgres.API_ROLE, "DB_WORKER_ROLE": embedded_postgres.WORKER_ROLE}
        yield postgres_server(data_dir, socket_dir, logs)
    if "temporal_address" not in settings.model_fields_set:
        addresses["TEMPORAL_ADDRESS"] = f"127.0.0.1:{settings.temporal_port}"
        if "temporal_ui_url" not in settings.model_fields_set:
            addresses["TEMPORAL_UI_URL"] = f"http://127.0.0.1:{settings.temporal_ui_port}"
        yield temporal_server(settings, data_dir, logs)


def as_role(settings: Settings, ours: Mapping[str, str], role: str) -> dict[str, str]:
    """Return the environment of a process that has the rights of this role in our own database."""
    if "database_url" in settings.model_fields_set:  # the user's own database, with the user's own account
        return dict(ours)
    return {**ours, "DATABASE_URL": ours["DATABASE_URL"].replace(f"//{embedded_postgres.OWNER}@", f"//{role}@")}


async def migrate(logs: Path, options: Mapping[str, Any]) -> None:
    """Run `python -m migrations`, which prepares the database and Temporal."""
    path = logs / "migrations.log"
    with path.open("wb") as log:
        process = await spawn([sys.executable, "-m", "migrations"], log.fileno(), options)
    try:
        code = await asyncio.wait_for(process.wait(), MIGRATION_TIMEOUT)
    except TimeoutError:
        process.kill()  # the database rolls the unfinished migration back
        raise StartError(f"The migrations have not ended after {MIGRATION_TIMEOUT} s{tail(path)}") from None
    if code:
        raise StartError(f"The database or Temporal could not be prepared{tail(path)}")


async def start(settings: Settings, data_dir: Path, children: list[Child]) -> None:
    """Start everything in order and print the addresses; `children` collects what must be stopped later."""
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    say(f"Starting; logs are in {logs}")
    keys = signing_keys(settings, data_dir)
    ours = environment(settings)
    for server in own_servers(settings, data_dir, logs, ours):
        children.append(server.start())  # noqa: PERF401 - one by one: if a later one fails, these must be stopped
    await asyncio.gather(*(server.until(server.does_not_serve) for server in children))
    if "temporal_address" not in settings.model_fields_set:
        embedded_temporal.keep_state(data_dir)
        # Else a restart that finds no state, because somebody has removed it, would mark the new one as unfinished, and
        # nobody would take the mark away.
        children[-1].prepare = lambda: None
    options = PROCESS_OPTIONS | {"env": ours}
    await migrate(logs, options)
    of_worker = PROCESS_OPTIONS | {"env": as_role(settings, ours, embedded_postgres.WORKER_ROLE)}
    children.append(Child("worker", [sys.executable, "-m", "worker"], logs, of_worker, stop_timeout=8).start())
    with_key = PROCESS_OPTIONS | {"env": as_role(settings, ours, embedded_postgres.API_ROLE) | keys}
    api = Child("api", [sys.executable, "-m", "api"], logs, with_key, stop_timeout=5).start()
    children.append(api)
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    url = f"http://{host}:{settings.api_port}/api/v1"
    not_ready = partial(asyncio.to_thread, _not_ready, f"{url}/health/ready")
    await asyncio.gather(api.until(not_ready), *(child.until(child.has_not_settled) for child in children))
    temporal_ui = ours.get("TEMPORAL_UI_URL", settings.temporal_ui_url).rstrip("/")
    say(f"Ready.\n  API          {url}\n  API docs     {url}/docs\n  Temporal UI  {temporal_ui}")
    say(f"  What waits   {embedded_temporal.waiting_url(settings, temporal_ui)}")
    say(f"  Data         {data_dir} (kept between starts)\nStop with Ctrl-C.")


async def keep_logs_small(logs: Path) -> None:
    """Limit the size of the logs for ever."""
    while True:
        with contextlib.suppress(OSError):  # the next try may succeed
            data_dirs.limit_logs(logs)
        await asyncio.sleep(LOGS_INTERVAL)


async def run(settings: Settings, data_dir: Path) -> None:
    """Keep the stack running until the first SIGINT or SIGTERM; later ones change nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # closing the terminal does not stop the stack
    # The signals are blocked and a thread waits for them. A signal handler would be removed when the event loop closes,
    # and a second Ctrl-C after that would kill us and change the exit code. Blocked signals stay pending instead.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    children: list[Child] = []
    starting = asyncio.create_task(start(settings, data_dir, children))
    keeping_logs_small = asyncio.create_task(keep_logs_small(data_dir / "logs"))
    stopping = asyncio.create_task(asyncio.to_thread(signal.sigwait, STOP_SIGNALS))
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            with contextlib.suppress(StopRequested):
                starting.result()
            await stopping
    finally:
        say("Stopping")
        starting.cancel()
        keeping_logs_small.cancel()
        await asyncio.wait([starting, keeping_logs_small])
        for child in reversed(children):
            await child.stop()
        # After a failed start no signal has come. The thread would wait for one for ever and keep the process alive.
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Check the data directory and the ports, then run the stack until a signal stops it."""
    os.chdir(ROOT)
    # If who starts us ignores it, the kernel tells nobody how a program has ended, and Python takes it for a success.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):  # the terminal's encoding may lack letters of a path
        sys.stdout.reconfigure(errors="backslashreplace")
    os.umask(0o077)  # what we and our programs create is for this user only
    settings = load_settings()
    try:
        data_dir = data_dirs.prepare(settings.data_dir, checkout=ROOT, database_user=embedded_postgres.USER)
        with own_ports(settings):
            asyncio.run(run(settings, data_dir))
    except (StartError, DataDirError, PostgresError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"The start failed: {error}")


if __name__ == "__main__":
    main()
