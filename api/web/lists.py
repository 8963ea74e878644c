"""What a list is: its rows, their order, and whose they are. See pages.py.

A page costs the same in a short list and in one of a million rows. The rows come from an index in the order of the
list. Counting and skipping rows would take longer in longer lists, so both end after MAX_TOTAL rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import (
    CTE,
    ColumnElement,
    DateTime,
    ScalarSelect,
    Select,
    SQLColumnExpression,
    bindparam,
    false,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import KeyedColumnElement

from domain.data.projects import OF_USER, USER, is_member, of_all_projects
from domain.data.search import Search, is_one_of

Rows = Select[*tuple[Any, ...]]

MAX_TOTAL = 10_000  # rows that are counted, and that page numbers can reach; cursors reach them all


@dataclass(frozen=True)
class Order:
    """How a list is sorted: by columns that are never null and together unique, all in one direction.

    A row's position is its values in these columns. PostgreSQL can compare positions as tuples, and no two rows share
    one. If a row's values may change, `changed` is the column with the time of its last change. Cursors tell then
    whether rows may have moved. With `only_cursors`, page numbers lead nowhere.
    """

    name: str
    columns: tuple[InstrumentedAttribute[Any] | KeyedColumnElement[Any], ...]
    descending: bool = False
    changed: SQLColumnExpression[datetime] | None = None
    only_cursors: bool = False

    @cached_property
    def position(self) -> TypeAdapter[tuple[Any, ...]]:
        """Converts a row's position, its values in these columns, from and to JSON."""
        types = tuple(column.type.python_type for column in self.columns)
        return TypeAdapter(tuple[types])  # type: ignore[valid-type] # only known at run time


@dataclass(frozen=True, slots=True)
class Readable:
    """Whose rows a list has: those of all projects that the user may read, or of one of them.

    `owner_id` is the column with the project. With a `search` the rows are looked for by its terms.
    """

    owner_id: InstrumentedAttribute[UUID]
    user_id: UUID
    project_id: UUID | None = None
    search: Search | None = None

    @property
    def is_personal(self) -> bool:
        """Whether only the user's own project is meant."""
        return self.project_id == self.user_id

    def narrow(self, rows: Rows) -> Rows:
        """Their rows, if that is one project: the named one if USER may read it, or else the user's own."""
        if self.project_id is None or self.is_personal:
            return rows.where(self.owner_id == USER)
        return rows.where(self.owner_id == self.project_id, is_member(self.project_id))

    def of_one(self, rows: Rows, order: "Order") -> "List":
        """The list of these of the rows, if they are of one project; see `narrow`."""
        project = USER if self.project_id is None or self.is_personal else literal(self.project_id)
        return self._found(self.narrow(rows), order, select(project)) or List(self.narrow(rows), order)

    def of_all(self, rows: Rows, order: "Order") -> "List":
        """The list of these of the rows, if they are of several projects."""
        return self._found(rows.where(self.owner_id.in_(OF_USER)), order, OF_USER) or List(rows, order, self)

    def _found(self, rows: Rows, order: "Order", projects: Select[UUID]) -> "List | None":
        """The list of those of the rows that the search finds in these projects; None if there is no search."""
        if self.search is None:
            return None
        candidates = self.search.candidates(projects)
        return List(rows.where(is_one_of(candidates, self.owner_id.class_.id)), order, candidates=candidates)

    def choose(self, rows: Rows) -> Rows:
        """Their rows, in no order, if that is several projects; `rows` is sorted and limited."""
        return of_all_projects(rows, self.owner_id)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a page begins: its number and, with a cursor, the position of the row before it.

    `since` is MOST_OVERDUE before the first page was read: what that page could not see has changed after it.
    """

    page: int
    after: tuple[Any, ...] | None = None
    since: datetime | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The values of the parameters that the statement of a page has because of its beginning."""
        return {"since": self.since} | {_after(index): value for index, value in enumerate(self.after or ())}

    def offset(self, page_size: int) -> int:
        """The number of rows to skip; with a cursor none is skipped."""
        return (self.page - 1) * page_size if self.after is None else 0


@dataclass(frozen=True, slots=True)
class List:
    """A list to read one page of. `candidates` are the ids that a search has found; None without a search."""

    statement: Rows
    order: Order
    whose: Readable | None = None
    candidates: CTE | None = None

    def slice(self, start: Start, page_size: int) -> Rows:
        """The rows of the page and one more, which tells whether a page follows."""
        order, offset = self.order, start.offset(page_size)
        if offset >= MAX_TOTAL:  # no row is shown from beyond it, so none is read
            return self.statement.where(false())
        rows = self.statement.order_by(*_sorted(order.columns, order))
        if start.after is not None:
            position = tuple_(*order.columns)
            after = tuple_(*(bindparam(_after(n), type_=column.type) for n, column in enumerate(order.columns)))
            rows = rows.where(position < after if order.descending else position > after)
        if self.whose is None:
            return rows.limit(page_size + 1).offset(offset)
        # The rows to skip may be of any of the projects.
        chosen = self.whose.choose(rows.limit(offset + page_size + 1))
        columns = [chosen.selected_columns[column.key] for column in order.columns]
        return chosen.order_by(*_sorted(columns, order)).limit(page_size + 1).offset(offset)

    def count(self) -> ScalarSelect[int]:
        """The number of rows, but not more than one above MAX_TOTAL."""
        # Not a parameter: the plan would not know how few rows are read.
        enough: ColumnElement[int] = literal_column(str(MAX_TOTAL + 1))
        # Counted in the order of the list, to make the plan use its index. Without an order, the planner may expect to
        # meet enough rows of the owner soon in a scan of the whole table, which may begin with a million of others.
        some = _ones(self.statement).order_by(*self.order.columns).limit(enough)
        if self.whose is not None:
            some = self.whose.choose(some).limit(enough)
        return select(func.count()).select_from(some.subquery()).scalar_subquery()

    def has_changed(self, changed: SQLColumnExpression[datetime]) -> ScalarSelect[bool]:
        """Whether a row has changed since the time that the parameter `since` has."""
        since = bindparam("since", type_=DateTime(timezone=True))
        # In the order of the changes, to make the plan use the index that has them.
        one = _ones(self.statement).where(changed >= since).order_by(changed.desc()).limit(1)
        if self.whose is not None:
            one = self.whose.choose(one)
        return select(func.count() > 0).select_from(one.subquery()).scalar_subquery()


def _after(index: int) -> str:
    return f"after_{index}"


def _sorted(columns: Iterable[Any], order: Order) -> list[Any]:
    return [column.desc() if order.descending else column for column in columns]


def _ones(statement: Rows) -> Rows:
    """A 1 for each row of the statement."""
    return statement.with_only_columns(literal(1).label("one"), maintain_column_froms=True)
