"""Follows operations at a terminal: each with its step, its attempt and its next one."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread
from time import monotonic, sleep
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from vmctl.cli import exits
from vmctl.cli.session import Session
from vmctl.cli.stops import StoppedError
from vmctl.client import ClientError, WaitTimeoutError
from vmctl.client.models import Operation, OperationStatus

_MOST_LINES = 12
_MOST_IDS = 100  # of one request
_EVENTS_BEGIN_WITHIN = 0.8  # seconds
_ENDED = {OperationStatus.SUCCEEDED: ("✓", "green"), OperationStatus.FAILED: ("✗", "red")}


def follow(session: Session, names: Mapping[UUID, str], timeout: float | None) -> list[Operation]:
    """Wait for operations, and show how far they are. `names` are what they are about, by operation.

    Ctrl-C, a signal or a service that stays away ends the wait, not the operations; it says how to go on.
    """
    progress = _Live(names) if session.err.is_terminal else _Lines(session, names)
    try:
        with progress:
            if isinstance(progress, _Live):
                Thread(target=_show_changes, args=(session, progress), daemon=True).start()
                Thread(target=_look_once, args=(session, progress), daemon=True).start()
            return session.client.operations.wait(
                list(names), timeout=timeout, watch=progress.show, every=progress.every
            )
    except ClientError as error:
        running = _running(names, progress.ended)
        if running and not isinstance(error, WaitTimeoutError) and exits.code_of(error) != exits.NOT_FOUND:
            error.add_note(f"What was asked for goes on. {exits.how_to_go_on(*running)}")
        raise
    except (KeyboardInterrupt, StoppedError) as stop:
        how = exits.how_to_go_on(*_running(names, progress.ended))
        session.say(f"\nInterrupted. What was asked for goes on. {how}")
        raise exits.ReportedError(stop.code if isinstance(stop, StoppedError) else exits.INTERRUPTED) from None


def _running(names: Mapping[UUID, str], ended: Collection[UUID]) -> list[str]:
    return [str(id) for id in names if id not in ended]


def _show_changes(session: Session, progress: "_Live") -> None:
    """Show each change of the operations when the service tells of it, until all have ended.

    It is for the eyes only: that an operation has ended is known from the request that waits for it.
    """
    ids = list(progress.names)
    with suppress(ClientError), session.connect() as client:
        for event in client.events():
            if event.kind == "reset":
                for operation in client.operations.list(id=",".join(map(str, ids[:_MOST_IDS]))):
                    progress.show(operation)
            elif isinstance(event.resource, Operation) and event.resource.id in progress.names:
                progress.show(event.resource)
            if len(progress.ended) == len(ids):
                return


def _look_once(session: Session, progress: "_Live") -> None:
    """Show the steps that began before the events did, and of which no event told."""
    sleep(_EVENTS_BEGIN_WITHIN)
    with suppress(ClientError), session.connect() as client:
        for operation in client.operations.list(id=",".join(map(str, list(progress.names)[:_MOST_IDS]))):
            progress.show(operation)


class _Lines:
    """Prints a line for each change, for logs and pipes."""

    every = 10  # seconds: nobody looks on, so nothing tells of the changes in between

    def __init__(self, session: Session, names: Mapping[UUID, str]) -> None:
        self.ended: set[UUID] = set()
        self._session = session
        self._names = names
        self._said: dict[UUID, str] = {}

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, operation: Operation) -> None:
        """Take note of an operation."""
        line = f"{operation.action} {self._names[operation.id]}: {_state(operation)}"
        if self._said.get(operation.id) != line:
            self._session.say(line)
        self._said[operation.id] = line
        if operation.finished_at:
            self.ended.add(operation.id)


class _Live:
    """Shows all operations at once, and moves."""

    every = 30  # seconds: events tell of the changes in between

    def __init__(self, names: Mapping[UUID, str]) -> None:
        self.ended: set[UUID] = set()
        self.names = names
        self._known: dict[UUID, Operation] = {}
        self._spinners: dict[UUID, Spinner] = {}
        self._begun_at = monotonic()
        self._live = Live(get_renderable=self._render, refresh_per_second=8, console=Console(stderr=True))

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, operation: Operation) -> None:
        """Take note of an operation. What comes late, from the other thread, does not undo an end."""
        if operation.id in self.ended or operation.id not in self.names:
            return
        self._known[operation.id] = operation
        if operation.finished_at:
            self.ended.add(operation.id)

    def _render(self) -> RenderableType:
        known = tuple(self._known.values())  # at once: another thread adds to them
        operations = sorted(known, key=lambda operation: operation.id in self.ended)
        lines: list[RenderableType] = [self._line(operation) for operation in operations[:_MOST_LINES]]
        if len(self.names) > _MOST_LINES:
            lines.append(Text(f"  {len(self.ended)} of {len(self.names)} have ended"))
        return Group(*lines)

    def _line(self, operation: Operation) -> RenderableType:
        what = f"{operation.action} {self.names[operation.id]}"
        if operation.id in self.ended:
            mark, style = _ENDED.get(operation.status, ("-", "yellow"))
            took = operation.finished_at and (operation.finished_at - operation.created_at).total_seconds()
            return Text(f"{mark} {what}: {_state(operation)} after {took:.1f} s", style)
        spinner = self._spinners.setdefault(operation.id, Spinner("dots"))
        spinner.update(text=Text(f"{what}: {_state(operation)}, {monotonic() - self._begun_at:.0f} s"))
        return spinner


def _state(operation: Operation) -> str:
    """How far an operation is, in words."""
    if operation.finished_at:
        return operation.status.lower()
    words = [operation.step or operation.status.lower(), f"{operation.progress} %"]
    if operation.attempt > 1:
        words.append(f"attempt {operation.attempt}")
    if operation.next_retry_at:
        seconds = max(0, (operation.next_retry_at - datetime.now(UTC)).total_seconds())
        words.append(f"next attempt in {seconds:.0f} s ({operation.last_error})")
    return ", ".join(words)
