"""Inserts any number of rows in one statement that is always the same, so that it is built and planned only once.

The rows are one parameter, a JSON array, which PostgreSQL reads as a table.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import JSON, ColumnElement, Insert, Integer, Text, bindparam, cast, column, func, insert, select

from domain.data.base import Base

POSITION: Final = "position"
"""A number that a row may have beside its columns: it is created that many microseconds later, for a stable order."""


def insert_all(model: type[Base], parameter: str, names: Iterable[str]) -> Insert:
    """The statement that inserts the rows of the parameter, in their order; `names` are the keys of each row."""
    columns = [column(name, Integer() if name == POSITION else model.__table__.c[name].type) for name in names]
    array = cast(bindparam(parameter, type_=Text()), JSON)
    rows = func.json_to_recordset(array).table_valued(*columns).render_derived(with_types=True)
    values: dict[str, ColumnElement[Any]] = {each.name: rows.c[each.name] for each in columns}
    if POSITION in values:
        values["created_at"] = func.now() + values.pop(POSITION) * timedelta(microseconds=1)
    return insert(model).from_select(list(values), select(*values.values()))


def to_parameter(rows: Sequence[Mapping[str, Any]]) -> str:
    """The value of the parameter."""
    return json.dumps(rows, default=str)
