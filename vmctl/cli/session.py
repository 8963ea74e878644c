"""What every command needs: the service, the terminal, and whether somebody is there to answer."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from functools import cached_property
from uuid import UUID

import typer
from rich.console import Console

from vmctl.cli import config, exits
from vmctl.client import AmbiguousNameError, Client, ClientError, UnusableError, retries
from vmctl.client.base import as_id
from vmctl.client.sync.transport import trial

_PATIENCE = 20.0  # seconds in which an unreachable or busy service is tried again
_PROJECT = "VMCTL_PROJECT"


_SHOWN = "\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # the joiners belong to words and to emoji


def printable(text: str) -> str:
    """A text with escapes for what steers a terminal or cannot be seen. Who wrote it is not the person who reads it."""
    return "".join(
        sign if sign.isprintable() or sign in _SHOWN else sign.encode("unicode_escape").decode() for sign in text
    )


class Session:
    """One run of the command."""

    def __init__(self, url: str | None, *, is_completion: bool = False, is_trial: bool = False) -> None:
        self._url = url
        self.is_trial = is_trial  # the first change is only tried, and ends the command
        self.trial = ExitStack()
        if is_trial:
            self.trial.enter_context(trial())
        self._is_completion = is_completion  # the shell waits, and shows what is printed within the line
        self._last_reason = ""
        self._project_ids: dict[str | None, UUID | None] = {}
        # What a command returns goes to `out`, and everything else to `err`: a pipe gets the result and nothing else.
        self.out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    @cached_property
    def url(self) -> str:
        """The service: of --url, of VMCTL_URL, of the last login, or the one on this machine."""
        return (self._url or config.read().get("url") or config.DEFAULT_URL).rstrip("/").removesuffix("/api/v1")

    @cached_property
    def client(self) -> Client:
        """The client of the service that the command uses."""
        return self.connect() if self._is_completion else self.connect(_PATIENCE, self._say_retry)

    def connect(self, patience: float = 0, on_retry: Callable[[str, float], None] | None = None) -> Client:
        """Return a new client of the service."""
        token = os.environ.get("VMCTL_TOKEN") or None
        return Client(self.url, token=token, tokens=config.FileTokens(self.url), patience=patience, on_retry=on_retry)

    def project_id(self, named: str | None = None) -> UUID | None:
        """The id of the project that a command means: the one that it names, or that of VMCTL_PROJECT, or none."""
        if named not in self._project_ids:
            known = self._usual_project_id() if named is None else self.client.projects.find_id(named)
            self._project_ids[named] = known
        return self._project_ids[named]

    def _usual_project_id(self) -> UUID | None:
        wanted = os.environ.get(_PROJECT)
        if wanted is None:
            return None
        if not wanted.strip():  # the unset variable of a script must not mean all projects
            raise UnusableError(f"{_PROJECT} is empty. Give it a value, or unset it.")
        projects = self.client.projects
        try:
            if id := as_id(wanted):
                return projects.get(id).id  # the lists of an unknown one would only be empty
            return projects.find_id(wanted)
        except ClientError as error:
            if isinstance(error, AmbiguousNameError) or exits.code_of(error) == exits.NOT_FOUND:
                error.add_note(f"This is the value of {_PROJECT}.")
            raise

    def say(self, text: str) -> None:
        """Tell the person something that is not the result. If nobody can be told, the command goes on."""
        with suppress(OSError):
            self.err.print(printable(text), markup=False)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something that cannot be undone, unless the answer was given with --yes."""
        if yes:
            return
        if not sys.stdin.isatty():
            self.say(f"{question} Nobody is there to answer. Add --yes.")
            raise exits.ReportedError(exits.USAGE)
        typer.confirm(question, abort=True, err=True)

    def _say_retry(self, reason: str, seconds: float) -> None:
        if reason != self._last_reason:
            when = f" in {seconds:.0f} s" if seconds > retries.LONGEST_DELAY else ""
            self.say(f"{reason.rstrip('.')}. Trying again{when}.")
        self._last_reason = reason


_CURRENT: ContextVar[Session] = ContextVar("session")


def begin(url: str | None, *, is_trial: bool = False) -> None:
    """Begin the session of the running command."""
    _CURRENT.set(Session(url, is_trial=is_trial))


def end() -> None:
    """End the session, if one has begun, and close its connections."""
    session = _CURRENT.get(None)
    if session is not None:
        session.trial.close()
        if "client" in vars(session):
            session.client.close()


def current() -> Session:
    """The session of the running command."""
    return _CURRENT.get()
