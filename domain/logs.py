"""The one format of all logs: a line for each event, on standard error, that no value from outside can break."""

import logging
import re
import sys
import time
import unicodedata
from contextvars import ContextVar
from typing import Final, TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="-")
operation_id: ContextVar[str] = ContextVar("operation_id", default="-")
user: ContextVar[str] = ContextVar("user", default="-")
has_line: ContextVar[bool] = ContextVar("has_line", default=True)  # whether the request has a line of its own

_FORMAT: Final = (
    "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
    " request_id=%(request_id)s operation_id=%(operation_id)s user=%(user)s"
)
# Control characters, line and paragraph separators, and those that hide text or turn its direction: they would let a
# value from outside forge a line, or hide one.
_UNSAFE_CATEGORIES: Final = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_LONGEST: Final = 32_768  # characters of a record; an error of PostgreSQL may repeat a megabyte that a client has sent
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Formatter(logging.Formatter):
    """Formats a record as one line; a traceback follows on the same line, with its line ends escaped.

    Of a longer one than _LONGEST, only the beginning and the end are kept.
    """

    def __init__(self) -> None:
        super().__init__(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.request_id, record.user = request_id.get(), user.get()
        record.operation_id = _operation_of_workflow(record) or operation_id.get()
        text = super().format(record)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
        return one_line(text)


def _operation_of_workflow(record: logging.LogRecord) -> str | None:
    """The operation of a record that Temporal's SDK logs: the last id in the id of its workflow."""
    context = getattr(record, "temporal_workflow", None) or getattr(record, "temporal_activity", None) or {}
    ids: list[str] = _UUID.findall(str(context.get("workflow_id", "")))
    return ids[-1] if ids else None


def one_line(text: str) -> str:
    """The text with every character escaped that could break, forge or hide a line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    is_unsafe = unicodedata.category(character) in _UNSAFE_CATEGORIES
    return character.encode("unicode_escape").decode() if is_unsafe else character


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in the standard library
        """Say nothing about a record that cannot be written: on a full disk that would be half a line for each."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def configure(level: str) -> None:
    """Send the log records of the process at `level` and above to standard error."""
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
