"""Lists as pages: numbered for people, by cursor for programs that read far; one round trip each."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response
from pydantic import TypeAdapter
from sqlalchemy import Select, func, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import KeyedColumnElement

from api.web import security
from api.web.dependencies import Process
from api.web.models import FieldError, Page
from api.web.problems import ProblemError

P = TypeVar("P", bound=Page[Any])
Rows = Select[*tuple[Any, ...]]

MAX_PAGE = 1_000_000


@dataclass(frozen=True)
class Order:
    """How a list is sorted: by columns that are never null and together unique, all in one direction."""

    name: str
    columns: tuple[InstrumentedAttribute[Any] | KeyedColumnElement[Any], ...]
    descending: bool = False

    @cached_property
    def place(self) -> TypeAdapter[tuple[Any, ...]]:
        """Reads and writes the values of these columns in a row, its place in the list."""
        types = tuple(column.type.python_type for column in self.columns)
        return TypeAdapter(tuple[types])  # type: ignore[valid-type] # known at run time only


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a page begins: its number and, with a cursor, the place of the row before it."""

    page: int
    after: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Paging:
    """The page that the request asks for."""

    process: Process
    request: Request
    response: Response
    page: int
    page_size: int
    cursor: str | None

    async def fetch(self, statement: Rows, order: Order, shape: type[P]) -> P:
        """That page of the statement's rows; sets the answer's Link header."""
        start = self._start(order)
        total = statement.with_only_columns(func.count(), maintain_column_froms=True)
        wanted = self._slice(statement.add_columns(total.scalar_subquery().label("total")), order, start)
        async with self.process.autocommit.connect() as connection:
            rows = (await connection.execute(wanted)).all()
            count = rows[0].total if rows else await connection.scalar(total) or 0
        items = rows[: self.page_size]
        page = shape.model_validate(
            {
                "items": items,
                "total": count,
                "page": start.page,
                "page_size": self.page_size,
                "pages": -(-count // self.page_size),
                "next_cursor": self._cursor(order, start.page + 1, items[-1]) if len(rows) > len(items) else None,
            }
        )
        self.response.headers["Link"] = self._links(page)
        return page

    def _slice(self, statement: Rows, order: Order, start: _Start) -> Rows:
        by = [column.desc() if order.descending else column for column in order.columns]
        limited = statement.order_by(*by).limit(self.page_size + 1)  # the one more shows that there is a next page
        if start.after is None:
            return limited.offset((start.page - 1) * self.page_size)
        place = tuple_(*order.columns)
        return limited.where(place < start.after if order.descending else place > start.after)

    def _start(self, order: Order) -> _Start:
        if self.cursor is None:
            return _Start(self.page)
        match security.unseal(self.process.signing, self.cursor):
            case [self.request.url.path, order.name, page, place]:
                return _Start(page, order.place.validate_python(place))
        detail = "This cursor is not from this list in this order; start again without it."
        raise ProblemError(
            "invalid_cursor", detail, [FieldError(code="invalid_cursor", detail=detail, parameter="cursor")]
        )

    def _cursor(self, order: Order, page: int, last: Any) -> str:
        place = tuple(getattr(last, column.key) for column in order.columns)
        sealed = [order.name, page, order.place.dump_python(place, mode="json")]
        return security.seal(self.process.signing, [self.request.url.path, *sealed])

    def _links(self, page: Page[Any]) -> str:
        last = max(page.pages, 1)
        targets: dict[str, dict[str, Any]] = {"first": {"page": 1}, "last": {"page": last}}
        if page.page > 1:
            targets["prev"] = {"page": min(page.page - 1, last)}
        if page.next_cursor:
            targets["next"] = {"page": page.page + 1, "cursor": page.next_cursor}
        return ", ".join(f'<{self._url(place)}>; rel="{rel}"' for rel, place in targets.items())

    def _url(self, place: dict[str, Any]) -> str:
        asked = self.request.query_params.multi_items()
        kept = [(name, value) for name, value in asked if name not in {"page", "cursor"}]
        return f"{self.request.url.path}?{urlencode([*kept, *place.items()])}"


async def _paging(  # noqa: PLR0913, PLR0917 - what FastAPI fills in
    process: Process,
    request: Request,
    response: Response,
    page: Annotated[int, Query(ge=1, le=MAX_PAGE, description="From 1.")] = 1,
    page_size: Annotated[int | None, Query(ge=1, description="How many items a page has.")] = None,
    cursor: Annotated[
        str | None,
        Query(max_length=4096, description="`next_cursor` of the page before; takes the place of `page`."),
    ] = None,
) -> Paging:
    settings = process.settings
    if page_size is not None and page_size > settings.max_page_size:
        detail = f"A page has at most {settings.max_page_size} items."
        errors = [FieldError(code="less_than_equal", detail=detail, parameter="page_size")]
        raise ProblemError("validation_failed", detail, errors)
    return Paging(process, request, response, page, page_size or settings.default_page_size, cursor)


WantedPage = Annotated[Paging, Depends(_paging)]
