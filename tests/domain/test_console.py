"""The end of a console's log: as many lines as were asked for, and no more bytes than an answer may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.rules import console
from domain.rules.console import Tail


@pytest.mark.parametrize(
    ("log", "lines", "output"),
    [
        ("", 1, ""),
        ("\n", 1, ""),
        ("a", 1, "a"),
        ("a\n", 1, "a"),
        ("a\nb\nc\n", 2, "b\nc"),
        ("a\nb\nc\n", 3, "a\nb\nc"),
        ("a\nb\nc\n", 9, "a\nb\nc"),
        ("a\r\nb\x0cc", 2, "a\r\nb\x0cc"),
        ("half \ud83d of a pair", 1, "half ? of a pair"),
    ],
)
def test_the_last_lines_are_shown(log: str, lines: int, output: str) -> None:
    assert console.tail(log, lines) == Tail(output, is_truncated=False)


def test_a_log_that_is_too_long_begins_with_a_whole_line() -> None:
    line = "ü" * 50
    shown = console.tail("\n".join([line] * 10_000), 10_000)
    assert set(shown.output.split("\n")) == {line}
    assert console.LARGEST - 102 < len(shown.output.encode()) <= console.LARGEST
    assert shown.is_truncated


def test_one_line_that_is_too_long_loses_its_beginning() -> None:
    shown = console.tail("ü" * console.LARGEST, 1)
    assert shown == Tail("ü" * (console.LARGEST // 2), is_truncated=True)


@given(st.text(), st.integers(1, 5))
def test_it_is_always_the_end_of_the_log(log: str, lines: int) -> None:
    shown = console.tail(log, lines)
    assert log.removesuffix("\n").endswith(shown.output)
    assert shown.output.count("\n") < lines
