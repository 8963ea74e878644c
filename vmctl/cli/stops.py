"""What ends the command from outside, apart from Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)


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


def _stop(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(number)
