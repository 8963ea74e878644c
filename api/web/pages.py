"""Lists as pages, by number for people or by cursor for programs; each page takes one database query."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlalchemy import func, select

from api.web import lists, security
from api.web.dependencies import Process
from api.web.fields import PLAIN_DIGITS
from api.web.lists import List, Order, Readable, Rows, Start
from api.web.models import FieldError, Page
from api.web.problems import ProblemError
from domain.data.projects import SHARES, roles_in
from domain.data.search import are_too_many
from domain.data.time_limit import TimeLimit
from domain.rules import access
from domain.rules.access import Verb

P = TypeVar("P", bound=Page[Any])

MAX_PAGE = 1_000_000
LIST_LIMIT = 3.0  # seconds for the statements of a page; a usual one takes milliseconds
MAX_LINKS = 7500  # characters; each link repeats the filters, and common clients take no header of more than 8 KiB
_PLACE = {"page", "page_size", "cursor", "sort"}  # parameters that choose a place in the list, not its items
# Others see a change only after the commit, which is later than its `updated_at`, but never by so much: a transaction
# has a few statements, of 15 seconds at most, and the server ends one that idles for ten.
MOST_OVERDUE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a page and one more, if there is one, and what is known about the whole list.

    `count` is the number of all rows, up to MAX_TOTAL + 1 (see lists.py).
    """

    rows: Sequence[Any]
    count: int
    since: datetime
    have_moved: bool
    is_incomplete: bool  # the user has other projects, whose rows are missing
    has_missed: bool  # the search has found too many candidates, and not all of them


@dataclass(frozen=True, slots=True)
class Paging:
    """The requested page. TooSlowError if the statements for it take longer than LIST_LIMIT."""

    process: Process
    request: Request
    response: Response
    page: int
    page_size: int
    cursor: str | None
    limit: TimeLimit = field(default_factory=lambda: TimeLimit(LIST_LIMIT))

    async def fetch(self, statement: Rows, order: Order, shape: type[P]) -> P:
        """Fetch the requested page of the statement's rows, and set the Link header of the answer."""
        start = self._start(order)
        is_long = self.process.long_lists.has(self._key)
        about, statement = self._statement(List(statement, order), start, is_long=is_long)
        async with self.limit.connect(self.process.autocommit) as connection:
            rows = (await connection.execute(statement, start.values)).all()
            first = rows[0] if rows else (await connection.execute(about, start.values)).one()
        return self._page(self._found(rows, first, start), start, order, shape)

    async def fetch_readable(self, make: Callable[[], Rows], order: Order, shape: type[P], whose: Readable) -> P:
        """Fetch the requested page of those of the rows that the user may read; `make` makes their statement.

        The statement has to follow from the path and the query parameters alone. NotFoundError if the user may not read
        the project that `whose` names.
        """
        start = self._start(order)
        found = await self._read(make, order, start, whose)
        if not found.rows and whose.project_id:
            await self._check_project(whose.user_id, whose.project_id)
        return self._page(found, start, order, shape)

    def _page(self, found: _Rows, start: Start, order: Order, shape: type[P]) -> P:
        total = min(found.count, lists.MAX_TOTAL)
        if found.count > lists.MAX_TOTAL and start.offset(self.page_size) >= lists.MAX_TOTAL:
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

    async def _check_project(self, user_id: UUID, project_id: UUID) -> None:
        async with self.process.autocommit.connect() as connection:
            roles = await roles_in(connection, user_id, [project_id])
        access.check(roles.get(project_id), Verb.READ, "project", project_id)

    async def _read(self, make: Callable[[], Rows], order: Order, start: Start, whose: Readable) -> _Rows:
        if whose.search:
            # What few have is found by an index. What many have is found soon in the order of the list.
            if not self.process.common_searches.has(self._key):
                found = await self._read_projects(make, order, start, whose)
                if found.has_missed or found.count > lists.MAX_TOTAL:
                    self.process.common_searches.remember(self._key)
                if not found.has_missed:
                    return found
            whose = replace(whose, search=None)
        return await self._read_projects(make, order, start, whose)

    async def _read_projects(self, make: Callable[[], Rows], order: Order, start: Start, whose: Readable) -> _Rows:
        sharing_users, user = self.process.sharing_users, whose.user_id.int
        if whose.project_id or not sharing_users.has(user):
            # Most users have one project, and the statement for one is built and planned much faster. It also tells
            # whether there are more.
            def make_list() -> List:
                return whose.of_one(make(), order)

            is_sharing = whose.project_id is None
            found = await self._read_list(make_list, start, whose, "one", is_sharing=is_sharing)
            if not found.is_incomplete:
                return found
            sharing_users.remember(user)
        return await self._read_list(lambda: whose.of_all(make(), order), start, whose, "all")

    async def _read_list(
        self, make: Callable[[], List], start: Start, whose: Readable, kind: str, *, is_sharing: bool = False
    ) -> _Rows:
        """Read the page; with `is_sharing` also find out whether the user has other projects."""
        values = {**start.values, "user_id": whose.user_id}
        place = start.offset(self.page_size) if start.after is None else None
        is_long = self.process.long_lists.has(self._key)
        key = (self._words, place, self.page_size, start.since is None, whose.is_personal, kind, is_long, whose.search)

        def statements() -> tuple[Rows, Rows]:
            return self._statement(make(), start, is_long=is_long, is_sharing=is_sharing)

        prepared = self.process.repeated_lists.find(key, lambda: statements()[1])
        rows: Sequence[Any] = await prepared.fetch(self.process.engine, values, self.limit) if prepared else ()
        if rows:
            return self._found(rows, rows[0], start)
        about, statement = statements()
        async with self.limit.connect(self.process.autocommit) as connection:
            if not prepared:
                rows = (await connection.execute(statement, values)).all()
            first = rows[0] if rows else (await connection.execute(about, values)).one()
        return self._found(rows, first, start)

    def _statement(self, wanted: List, start: Start, *, is_long: bool, is_sharing: bool = False) -> tuple[Rows, Rows]:
        """The statement that tells about the whole list, and that for the page, whose rows tell it, too."""
        about: dict[str, Any] = {"read_since": func.now() - MOST_OVERDUE}
        if not is_long:
            about["total"] = wanted.count()
        if wanted.order.changed is not None and start.since is not None:
            about["have_moved"] = wanted.has_changed(wanted.order.changed)
        if is_sharing:
            about["is_incomplete"] = SHARES
        if wanted.candidates is not None:
            about["has_missed"] = are_too_many(wanted.candidates)
        columns = [value.label(name) for name, value in about.items()]
        # As columns of every row they save a second query, unless the page is empty.
        return select(*columns), wanted.slice(start, self.page_size).add_columns(*columns)

    def _found(self, rows: Sequence[Any], first: Any, start: Start) -> _Rows:
        count = getattr(first, "total", lists.MAX_TOTAL + 1)
        if count > lists.MAX_TOTAL and hasattr(first, "total"):
            self.process.long_lists.remember(self._key)
        flags = (getattr(first, name, False) for name in ("have_moved", "is_incomplete", "has_missed"))
        return _Rows(rows, count, start.since or first.read_since, *flags)

    @property
    def _words(self) -> Hashable:
        """The path and all that the client says of the list, in the client's own words, but the cursor's content."""
        parameters = [(name, value) for name, value in self.request.query_params.multi_items() if name != "cursor"]
        return self.request.url.path, *parameters

    @property
    def _key(self) -> int:
        """Names the list: who reads it, its path and its filters, in the client's own words."""
        filters = sorted((name, value) for name, value in self.request.query_params.multi_items() if name not in _PLACE)
        return hash((self.request.headers.get("Authorization"), self.request.url.path, *filters))

    def _start(self, order: Order) -> Start:
        if self.cursor is None:
            if order.only_cursors and self.page > 1:
                raise _only_cursors()
            return Start(self.page)
        match security.unseal(self.process.signing, self.cursor):
            case [self.request.url.path, order.name, page, position, *since]:
                # Cursors of earlier versions have no time.
                return Start(page, order.position.validate_python(position), *map(datetime.fromisoformat, since))
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


def _only_cursors() -> ProblemError:
    detail = "What changes meanwhile would be missed between two page numbers. Follow `next_cursor` instead of `page`."
    errors = [FieldError(code="conflicting_parameters", detail=detail, parameter="page")]
    return ProblemError("validation_failed", detail, errors)


def _page_too_deep() -> ProblemError:
    detail = f"Page numbers reach the first {lists.MAX_TOTAL:,} items of a list. Follow `next_cursor` to go further."
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
