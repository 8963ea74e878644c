"""Numbers in options, in ASCII digits. Python alone would also take `1_0` for ten, and the digits of other scripts."""

import re
from collections.abc import Callable
from math import isfinite
from typing import Any

import typer

_WHOLE = re.compile("[0-9]{1,18}")
_HIGHEST = 10**18 - 1


def whole(*names: str, help: str, most: int = _HIGHEST) -> Any:
    """An option for a whole number from 1 to `most`."""
    return typer.Option(*names, help=help, metavar="NUMBER", parser=_between_1_and(most))


def _between_1_and(most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value)  # a default is a number already
        if not _WHOLE.fullmatch(text) or not 1 <= int(text) <= most:
            limit = "" if most == _HIGHEST else f" and at most {most:,}"
            raise typer.BadParameter(f"{text} is no whole number that is at least 1{limit}.")
        return int(text)

    return parse


def seconds(value: str) -> float:
    """Parse an option for a time in seconds; BadParameter if it is negative, or no number."""
    try:
        number = float(value) if value.isascii() and "_" not in value else -1.0
    except ValueError:
        number = -1.0
    if number >= 0 and isfinite(number):
        return number
    raise typer.BadParameter("Give a number of seconds. To wait without an end, leave --timeout out.")
