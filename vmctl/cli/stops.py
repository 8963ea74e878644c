"""What ends the command from outside, apart from Ctrl-C."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from time import monotonic
from types import FrameType
from typing import Any

# Seconds. A terminal that is closed sends two signals, and so does `timeout`: to the process and to its group.
_SAME_CAUSE = 0.5
_NUMBERS = (signal.SIGTERM, signal.SIGHUP)
_HELD_BACK = "\nThe login is being renewed, and the command ends after that. A second signal ends it at once.\n"


class StoppedError(BaseException):
    """A signal asks the command to end; `code` is the exit code that a shell gives for it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


@contextmanager
def raised() -> Iterator[None]:
    """Raise StoppedError where a signal would end the process at once, and leave the terminal as a wait has it.

    A signal that is ignored, as under nohup, stays ignored.
    """
    numbers = [number for number in _NUMBERS if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


class Delay:
    """Holds signals back, while an end of the command would end the login. A second one ends it all the same."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._held_back: int | None = None
        self._since = 0.0  # of the monotonic clock, when that one came

    def begin(self) -> None:
        """Hold signals back. Only the main thread is interrupted by them, and only it may do this."""
        if current_thread() is not main_thread():
            return
        for number in (signal.SIGINT, *_NUMBERS):
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._hold_back)

    def end(self) -> None:
        """Let signals through, first the one that was held back; without a beginning, do nothing."""
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)
        held_back, self._held_back = self._held_back, None
        if held_back is not None:
            handlers[held_back](held_back, None)

    def _hold_back(self, number: int, frame: FrameType | None) -> None:
        if self._held_back is not None:
            if monotonic() < self._since + _SAME_CAUSE:
                return
            self._held_back = None
            self._handlers[number](number, frame)
        self._held_back, self._since = number, monotonic()
        with suppress(OSError):
            sys.stderr.write(_HELD_BACK)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(number)
