"""The file `.env`, and the variables that its values name as `${NAME}` or `${NAME:-default}`.

python-dotenv reads the file. It puts nothing in the place of a variable that is not set, and so a part of a key or of a
password could be missing without a word.
"""

import os
from collections.abc import Collection, Iterator
from typing import Final

from dotenv import dotenv_values
from dotenv.variables import Variable, parse_variables

PATH: Final = ".env"
ENCODING: Final = "utf-8-sig"  # editors of Windows may begin the file with a byte order mark


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
