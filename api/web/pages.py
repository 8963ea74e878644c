"""Lists as pages, by number for people or by cursor for programs; each page takes one database query.

A page costs the same in a short list and in one of a million rows. The rows come from an index in the order of the
list. Counting and skipping rows would take longer in longer lists, so both end after MAX_TOTAL rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response
from pydantic import TypeAdapter
from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    SQLColumnExpression,
    false,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import KeyedColumnElement

from api.web import security
from api.web.dependencies import Process
from api.web.fields import PLAIN_DIGITS
from api.web.models import FieldError, Page
from api.web.problems import ProblemError

P = TypeVar("P", bound=Page[Any])
Rows = Select[*tuple[Any, ...]]

MAX_PAGE = 1_000_000
MAX_LINKS = 7500  # characters; each link repeats the filters, and common clients take no header of more than 8 KiB
_PLACE = {"page", "page_size", "cursor", "sort"}  # parameters that choose a place in the list, not its items
MAX_TOTAL = 10_000  # rows that are counted, and that page numbers can reach; cursors reach them all
# Others see a change only after the commit, which is later than its `updated_at`, but never by so much: a transaction
# has a few statements, of 15 seconds at most, and the server ends one that idles for ten.
MOST_OVERDUE = timedelta(minutes=1)


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
class _Start:
    """Where a page begins: its number and, with a cursor, the position of the row before it.

    `since` is MOST_OVERDUE before the first page was read: what that page could not see has changed after it.
    """

    page: int
    after: tuple[Any, ...] | None = None
    since: datetime | None = None

    def offset(self, page_size: int) -> int:
        """The number of rows to skip; with a cursor none is skipped."""
        return (self.page - 1) * page_size if self.after is None else 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a page and one more, if there is one, and what is known about the whole list.

    `count` is the number of all rows, up to MAX_TOTAL + 1.
    """

    rows: Sequence[Any]
    count: int
    since: datetime
    have_moved: bool


@dataclass(frozen=True, slots=True)
class Paging:
    """The requested page."""

    process: Process
    request: Request
    response: Response
    page: int
    page_size: int
    cursor: str | None

    async def fetch(self, statement: Rows, order: Order, shape: type[P]) -> P:
        """Fetch the requested page of the statement's rows, and set the Link header of the answer."""
        start = self._start(order)
        found = await self._read(statement, order, start)
        total = min(found.count, MAX_TOTAL)
        if found.count > MAX_TOTAL and start.offset(self.page_size) >= MAX_TOTAL:
            raise _page_too_deep()
        items = found.rows[: self.page_size]
        has_next = len(found.rows) > len(items)
        next_cursor = self._cursor(order, start.page + 1, items[-1], found.since) if has_next else None
        page = shape.model_validate(
            {
                "items": items,
                "total": total,
                "total_is_exact": total == found.count,
                "page": start.page,
                "page_size": self.page_size,
                "pages": -(-total // self.page_size),
                "next_cursor": next_cursor,
                "items_moved": found.have_moved,
                "next_changes_since": found.since,
            }
        )
        links = self._links(page, order)
        if links:
            self.response.headers["Link"] = links
        return page

    async def _read(self, statement: Rows, order: Order, start: _Start) -> _Rows:
        counted, long_lists, key = _count(statement, order), self.process.long_lists, self._key
        is_long = long_lists.has(key)
        about: dict[str, Any] = {"read_since": func.now() - MOST_OVERDUE}
        if not is_long:
            about["total"] = counted
        if order.changed is not None and start.since is not None:
            # In the order of the changes, to make the plan use the index that has them.
            changed = statement.where(order.changed >= start.since).order_by(order.changed.desc())
            about["have_moved"] = _any(changed)
        columns = [value.label(name) for name, value in about.items()]
        # They are columns of every row, which saves a second query unless the page is empty.
        wanted = self._slice(statement.add_columns(*columns), order, start)
        async with self.process.autocommit.connect() as connection:
            rows = (await connection.execute(wanted)).all()
            first = rows[0] if rows else (await connection.execute(select(*columns))).one()
        count = MAX_TOTAL + 1 if is_long else first.total
        if count > MAX_TOTAL and not is_long:
            long_lists.remember(key)
        return _Rows(rows, count, start.since or first.read_since, "have_moved" in about and first.have_moved)

    @property
    def _key(self) -> int:
        """Names the list: who reads it, its path and its filters, in the client's own words."""
        filters = sorted((name, value) for name, value in self.request.query_params.multi_items() if name not in _PLACE)
        return hash((self.request.headers.get("Authorization"), self.request.url.path, *filters))

    def _slice(self, statement: Rows, order: Order, start: _Start) -> Rows:
        columns = [column.desc() if order.descending else column for column in order.columns]
        limited = statement.order_by(*columns).limit(self.page_size + 1)  # one more row tells whether a page follows
        if start.after is None:
            offset = start.offset(self.page_size)
            # No row is shown from beyond MAX_TOTAL, so none is read.
            return limited.offset(offset) if offset < MAX_TOTAL else limited.where(false())
        position = tuple_(*order.columns)
        return limited.where(position < start.after if order.descending else position > start.after)

    def _start(self, order: Order) -> _Start:
        if self.cursor is None:
            if order.only_cursors and self.page > 1:
                raise _only_cursors()
            return _Start(self.page)
        match security.unseal(self.process.signing, self.cursor):
            case [self.request.url.path, order.name, page, position, *since]:
                # Cursors of earlier versions have no time.
                return _Start(page, order.position.validate_python(position), *map(datetime.fromisoformat, since))
        detail = "The cursor is not from this list in this order. Start again without a cursor."
        raise ProblemError(
            "invalid_cursor", detail, [FieldError(code="invalid_cursor", detail=detail, parameter="cursor")]
        )

    def _cursor(self, order: Order, page: int, last: Any, since: datetime) -> str:
        """The cursor of the page after the row `last`.

        It names the list and the order, because a position means nothing in another. It is sealed, so that clients can
        only pass positions that came from here, and these always have the types of the order's columns.
        """
        position = order.position.dump_python(tuple(getattr(last, column.key) for column in order.columns), mode="json")
        payload = [self.request.url.path, order.name, page, position, since.isoformat()]
        return security.seal(self.process.signing, payload)

    def _links(self, page: Page[Any], order: Order) -> str:
        last = max(page.pages, 1)
        targets: dict[str, dict[str, Any]] = {"first": {"page": 1}}
        has_numbers = not order.only_cursors
        if page.total_is_exact and has_numbers:
            targets["last"] = {"page": last}
        # In a long list, cursors go on after the last page that has a number. They only lead forward, so no link leads
        # back from there.
        if page.page > 1 and has_numbers and (page.total_is_exact or page.page - 1 <= last):
            targets["prev"] = {"page": min(page.page - 1, last)}
        if page.next_cursor:
            targets["next"] = {"page": page.page + 1, "cursor": page.next_cursor}
        links = {rel: f'<{self._url(target)}>; rel="{rel}"' for rel, target in targets.items()}
        for rel in ("first", "last", "prev", "next"):  # the least useful first
            if sum(map(len, links.values())) > MAX_LINKS:
                links.pop(rel, None)
        return ", ".join(links.values())

    def _url(self, target: dict[str, Any]) -> str:
        parameters = self.request.query_params.multi_items()
        kept = [(name, value) for name, value in parameters if name not in {"page", "cursor"}]
        return f"{self.request.url.path}?{urlencode([*kept, *target.items()])}"


def _count(statement: Rows, order: Order) -> ScalarSelect[int]:
    """The number of the statement's rows, but not more than one above MAX_TOTAL."""
    # Not a parameter: the plan would not know how few rows are read.
    enough: ColumnElement[int] = literal_column(str(MAX_TOTAL + 1))
    # Counted in the order of the list, to make the plan use its index. Without an order, the planner may expect to meet
    # enough rows of the owner soon in a scan of the whole table, which may begin with a million rows of others.
    some = statement.with_only_columns(literal(1), maintain_column_froms=True).order_by(*order.columns).limit(enough)
    return select(func.count()).select_from(some.subquery()).scalar_subquery()


def _any(statement: Rows) -> ScalarSelect[bool]:
    """Whether the statement has a row."""
    one = statement.with_only_columns(literal(1), maintain_column_froms=True).limit(1)
    return select(func.count() > 0).select_from(one.subquery()).scalar_subquery()


def _only_cursors() -> ProblemError:
    detail = "What changes meanwhile would be missed between two page numbers. Follow `next_cursor` instead of `page`."
    errors = [FieldError(code="conflicting_parameters", detail=detail, parameter="page")]
    return ProblemError("validation_failed", detail, errors)


def _page_too_deep() -> ProblemError:
    detail = f"Page numbers reach the first {MAX_TOTAL:,} items of a list. Follow `next_cursor` to go further."
    return ProblemError("page_too_deep", detail, [FieldError(code="page_too_deep", detail=detail, parameter="page")])


async def _paging(  # noqa: PLR0913, PLR0917 - FastAPI passes every parameter
    process: Process,
    request: Request,
    response: Response,
    page: Annotated[int, Query(ge=1, le=MAX_PAGE, description="The number of the page, from 1."), PLAIN_DIGITS] = 1,
    page_size: Annotated[int | None, Query(ge=1, description="The number of items in a page."), PLAIN_DIGITS] = None,
    cursor: Annotated[
        str | None,
        Query(max_length=4096, description="`next_cursor` of the previous page. If given, `page` is ignored."),
    ] = None,
) -> Paging:
    settings = process.settings
    if page_size is not None and page_size > settings.max_page_size:
        detail = f"A page has at most {settings.max_page_size} items."
        errors = [FieldError(code="too_large", detail=detail, parameter="page_size")]
        raise ProblemError("validation_failed", detail, errors)
    return Paging(process, request, response, page, page_size or settings.default_page_size, cursor)


WantedPage = Annotated[Paging, Depends(_paging)]
