"""The one format of all logs: one line for each record, whatever it holds."""

import errno
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from domain import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave the root logger and the warnings as they were."""
    root, show = logging.getLogger(), warnings.showwarning
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], warnings.showwarning = handlers, show
    root.setLevel(level)


def logged(capsys: pytest.CaptureFixture[str], message: str, *values: object, **options: Any) -> str:
    """What the process writes for one record."""
    logs.configure("INFO")
    logging.getLogger("the.logger").warning(message, *values, **options)
    return capsys.readouterr().err


def test_a_line_has_the_time_in_utc_the_level_the_logger_and_who_caused_it(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = [(v, v.set(f"the-{v.name}")) for v in (logs.request_id, logs.operation_id, logs.user)]
    line = logged(capsys, "it %s", "works")
    for variable, token in tokens:
        variable.reset(token)
    context = "request_id=the-request_id operation_id=the-operation_id user=the-user"
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z WARNING the\.logger it works {context}\n", line)


@pytest.mark.parametrize(
    "value", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x00b", "a\u2028b", "a\u0085b", "a\u202eb", "a\ud800b", "a\x7fb"]
)
def test_a_value_cannot_break_forge_or_hide_a_line(capsys: pytest.CaptureFixture[str], value: str) -> None:
    line = logged(capsys, "name %s", value)
    assert len(line.splitlines()) == 1
    assert value not in line
    assert value.encode("unicode_escape").decode() in line


def test_letters_of_all_languages_stay_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Jürgen 東京 žluť" in logged(capsys, "%s", "Jürgen 東京 žluť")


def test_an_exception_and_its_traceback_are_on_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = logged(capsys, "it failed", exc_info=ValueError("first\nsecond"))
    assert len(line.splitlines()) == 1
    assert line.endswith("it failed request_id=- operation_id=- user=-\\nValueError: first\\nsecond\n")


def test_of_a_very_long_record_the_beginning_and_the_end_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    line = logged(capsys, "it failed", exc_info=ValueError("x" * 1_000_000 + "the end"))
    assert len(line) < 40_000
    assert "WARNING the.logger it failed request_id=" in line
    assert line.endswith("the end\n")


def test_records_of_temporals_sdk_name_the_operation_of_their_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    vm, operation = uuid4(), uuid4()
    for workflow_id in (f"stop-{vm}-{operation}", f"stop-{vm}-{operation}-2"):
        line = logged(capsys, "m", extra={"temporal_activity": {"workflow_id": workflow_id}})
        assert f"operation_id={operation} " in line


def test_warnings_are_logged_like_everything_else(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=False)  # it may still be on, with another function to show warnings
        logs.configure("INFO")
        warnings.warn("old\nthing", UserWarning, stacklevel=1)
    [line] = capsys.readouterr().err.splitlines()
    assert " WARNING py.warnings " in line
    assert "old\\nthing" in line


def test_a_record_for_which_the_disk_has_no_room_leaves_no_half_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            super().write(text)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", disk := FullDisk())
    logs.configure("INFO")
    logging.getLogger("the.logger").warning("lost")
    assert disk.getvalue().splitlines()[1:] == []


def test_a_record_that_is_wrong_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Logging error" in logged(capsys, "%s and %s", "one")
