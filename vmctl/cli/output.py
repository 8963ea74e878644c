"""Prints results: as a table, as JSON, or as YAML."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vmctl.cli.session import current, printable
from vmctl.cli.streams import shows_all_letters

Fields = Mapping[str, Any]
_SEPARATOR = re.compile('[,;="]')


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[
    Format, typer.Option("--output", "-o", envvar="VMCTL_OUTPUT", help="How to print the result.", show_envvar=True)
]


class _FreeForm(dict[str, Any]):
    """Labels or details. They may have an id and a name, and are no reference to a resource."""


def _as_free_form(name: str, value: object) -> object:
    return _FreeForm(value) if name in {"labels", "details"} and isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Column:
    """A column of a table; a wide one is only in the wide table."""

    title: str
    cell: Callable[[Fields], object]
    is_wide: bool = False


def field(name: str, *, title: str | None = None, is_wide: bool = False) -> Column:
    """A column that shows a field."""
    title = title or name.removesuffix("_id").replace("_", " ").upper()
    return Column(title, lambda fields: _as_free_form(name, fields.get(name)), is_wide)


AGE = Column("AGE", lambda fields: _age(fields["created_at"]))
ID = field("id", title="ID")
WIDE_ID = field("id", title="ID", is_wide=True)
_STYLES = {
    **dict.fromkeys(("ACTIVE", "AVAILABLE", "IN_USE", "ATTACHED", "SUCCEEDED"), "green"),
    **dict.fromkeys(("ERROR", "FAILED"), "red"),
    **dict.fromkeys(("SHUTOFF", "DELETED", "CANCELED", "SUPERSEDED"), "bright_black"),
}


def fields_of(item: BaseModel) -> dict[str, Any]:
    """The fields of a resource as the service sent them, those included that this version does not know."""
    return item.model_dump(mode="json")


def print_list(items: Iterable[BaseModel], columns: Sequence[Column], output: Format) -> None:
    """Print several resources."""
    rows = [fields_of(item) for item in items]
    if output in {Format.JSON, Format.YAML}:
        _print_data(rows, output)
        return
    shown = [column for column in columns if output is Format.WIDE or not column.is_wide]
    lines = [[Text(column.title, "bold") for column in shown]]
    lines += [[styled(column.cell(row)) for column in shown] for row in rows]
    widths = [max(cell.cell_len for cell in cells) for cells in zip(*lines, strict=True)]
    for cells in lines:
        for cell, width in zip(cells[:-1], widths, strict=False):
            cell.pad_right(width - cell.cell_len)
        # A line that is longer than the terminal goes on in the next one. Narrower columns could not be read.
        current().out.print(Text("  ").join(cells), soft_wrap=True)


def print_one(item: BaseModel, output: Format) -> None:
    """Print one resource."""
    fields = fields_of(item)
    if output in {Format.JSON, Format.YAML}:
        _print_data(fields, output)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, {}, []):
            table.add_row(name, styled(_as_free_form(name, value)))
    _print_table(table)


def as_json(data: object, indent: int | None = None) -> str:
    """Data as JSON; in ASCII with escapes, if the output cannot show a letter or it could steer a terminal."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return text if _can_be_shown(text) else json.dumps(data, indent=indent)


def _can_be_shown(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n")) and shows_all_letters()


def styled(value: object) -> Text:
    """A value as a person reads it; a status has its color."""
    text = _plain(value)
    return Text(text, _STYLES.get(text, "yellow" if text.isupper() and text.endswith("ING") else ""))


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping) and {"id", "name"} <= value.keys() and not isinstance(value, _FreeForm):
        return printable(value["name"])
    if isinstance(value, Mapping):
        return ", ".join(f"{_part(name)}={_part(part)}" for name, part in value.items())
    if isinstance(value, list):
        return (
            "; ".join(map(_plain, value)) if value and isinstance(value[0], Mapping) else ", ".join(map(_part, value))
        )
    text = printable(str(value))
    return _quoted(text) if "  " in text else text  # many spaces could look like the next column, or the next line


def _part(value: object) -> str:
    """A part of a longer text; what could be taken for several parts is in quotes."""
    text = _plain(value)
    return _quoted(text) if isinstance(value, str) and _SEPARATOR.search(text) else text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _print_data(data: object, output: Format) -> None:
    if output is Format.JSON:
        text = as_json(data, indent=2)
    else:
        from vmctl.cli.yaml_text import as_yaml  # noqa: PLC0415 - see there

        text = as_yaml(data)
        if not _can_be_shown(text):
            text = as_yaml(data, ascii_only=True)
    sys.stdout.write(f"{text}\n")


def _print_table(table: Table) -> None:
    if current().out.is_terminal:
        current().out.print(table)
        return
    # A program reads it, or a pager: every line whole, and no spaces at its end.
    console = Console(width=100_000, highlight=False, no_color=True)
    with console.capture() as capture:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _age(created_at: str) -> str:
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
