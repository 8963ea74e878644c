"""The file `.env`: what python-dotenv, which reads it, leaves out without an error.

It leaves out a line that it cannot read, and puts nothing in the place of a variable (`${NAME}` or `${NAME:-default}`)
that is not set. So a key or a password, or a part of one, could be missing.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from dotenv.variables import Variable, parse_variables

PATH: Final = ".env"
ENCODING: Final = "utf-8-sig"  # editors of Windows may begin the file with a byte order mark


def unreadable_line() -> int | None:
    """The number of the first line that cannot be read, for example because of a quote without its end."""
    if not Path(PATH).is_file():
        return None
    with Path(PATH).open(encoding=ENCODING) as file:
        wrong = next((binding.original for binding in parse_stream(file) if binding.error), None)
    if wrong is None:
        return None
    empty_lines = wrong.string[: len(wrong.string) - len(wrong.string.lstrip())].count("\n")
    return wrong.line + empty_lines


def variables(skipped: Collection[str] = ()) -> Iterator[tuple[str, Variable]]:
    """The variables of the environment that the file names, each with the line that does so.

    A variable that a line above sets is the same for every process. Lines that the environment overrides do not count,
    nor do those that are `skipped`: settings that the process does not read.
    """
    unread = {name.upper() for name in skipped} | {name.upper() for name, value in os.environ.items() if value}
    above = set[str]()
    for line, value in dotenv_values(PATH, interpolate=False, encoding=ENCODING).items():
        for atom in parse_variables(value or ""):
            if isinstance(atom, Variable) and atom.name not in above and line.upper() not in unread:
                yield line, atom
        above.add(line)


def unset_variables(skipped: Collection[str]) -> Iterator[tuple[str, str]]:
    """Those that are not set and have no default, each after the name of its line."""
    for line, variable in variables(skipped):
        if variable.default is None and variable.name not in os.environ:
            yield line, variable.name
