"""The standard streams, which may be closed, full, or without most letters."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path

import typer

_INPUT = "-"
# Bytes of a file, or characters of a line. The service takes at most 49,149 bytes of user data, 8,192 characters of a
# key and 1,024 of a password, and refuses more. This bound is for what has no end, such as /dev/zero.
_MOST = 65_536


def prepare() -> None:
    """Open the streams that are closed, and let the output write a letter that its encoding lacks as an escape.

    If they stayed closed, the first connections would get their numbers. To read from a closed input, or to write a
    result to a closed output, still fails.
    """
    for name, mode, access in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, access), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Throw away what could not be written. Python would try it again at its end, and complain."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shows_all_letters() -> bool:
    """Whether the encoding of the output has all letters."""
    return (sys.stdout.encoding or "utf-8").lower().startswith("utf")


def read(file: Path) -> str:
    """The text of a file, or of the standard input if it is `-`; BadParameter if there is none, or it is too large.

    The text is read as UTF-8, whatever the locale, and keeps its line ends.
    """
    try:
        if str(file) == _INPUT:
            content = sys.stdin.buffer.read(_MOST + 1)
        else:
            with file.open("rb") as opened:
                content = opened.read(_MOST + 1)
        if len(content) > _MOST:
            raise typer.BadParameter(f"{file} is too large: it has more than {_MOST:,} bytes.")
        return content.decode()
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"Cannot read {file}: {error}") from None


def read_line(what: str) -> str:
    """The next line of the standard input; BadParameter if it is empty or too long, or there is none."""
    try:
        line = sys.stdin.readline(_MOST + 1).removesuffix("\n").removesuffix("\r")  # as files of Windows end it
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"Cannot read the {what} from the standard input: {error}") from None
    if not line:
        raise typer.BadParameter(f"The standard input has no {what}.")
    if len(line) > _MOST:
        raise typer.BadParameter(f"The {what} is too long: it has more than {_MOST:,} characters.")
    return line
