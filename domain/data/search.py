"""What resources are searched by, and the SQL that finds those that few have, however many a project has.

Each resource has a row of terms: of each place in its name the three letters from there, and its labels. A trigger
writes it (migration 0026). An index has the terms, each with the kind of resource and the beginning of the project's id
before it, so that a search reads no terms of other projects. The rows that it finds are candidates: other conditions
decide. ADR 062 has the reasons.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, CTE, ColumnElement, Index, Select, Text, Uuid, any_, cast, func, select
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base
from domain.rules import text

MOST_CANDIDATES = 20_000  # of one search; if more have its terms, their list is read in its order instead
_OWNER = "\x01"  # stands for the mark of a project in terms; no text that one can search for has it
_GRAM = 3
_LONGEST_LABEL = 300
_MOST_BYTES = (
    400  # of the terms of one search: they are repeated for each project, and a tsquery has at most a megabyte
)


class SearchTerms(Base):
    """The terms of a VM, a volume or a snapshot with this id."""

    __tablename__ = "search_terms"
    __table_args__ = (
        Index("ix_search_terms", "terms", postgresql_using="gin", postgresql_with={"gin_pending_list_limit": 256}),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    terms: Mapped[str] = mapped_column(TSVECTOR)


@dataclass(frozen=True, slots=True)
class Search:
    """Terms that all of the wanted resources have. `kind` is the letter of their table (see migration 0026)."""

    kind: str
    terms: str

    def candidates(self, owners: Select[UUID]) -> CTE:
        """A statement with one row, whose `ids` are those of the resources of these projects that have the terms.

        They are one more than MOST_CANDIDATES if there are more.
        """
        owner = owners.subquery().c[0]
        mark = func.concat(self.kind, func.left(cast(owner, Text), 6))
        terms = func.string_agg(func.concat("(", func.replace(self.terms, _OWNER, mark), ")"), " | ")
        # In a subquery, so that the planner cannot see the terms. It would read the whole table for those that it takes
        # for common, and others would have a plan of their own in the next statement that is prepared.
        wanted = select(cast(terms, TSQUERY)).scalar_subquery()
        found = select(SearchTerms.id).where(SearchTerms.terms.op("@@")(wanted)).limit(MOST_CANDIDATES + 1)
        ids = func.array(found.scalar_subquery(), type_=ARRAY(Uuid))
        return select(ids.label("ids")).cte("candidates").prefix_with("MATERIALIZED")


def is_one_of(candidates: CTE, id: ColumnElement[UUID]) -> ColumnElement[bool]:
    """Whether the resource with this id is one of the candidates."""
    # Of an array the planner expects few ids, so it looks each of them up, whatever it expects of the other conditions.
    # Without the cast, ANY would compare the id with each row of the subquery.
    return id == any_(cast(select(candidates.c.ids).scalar_subquery(), ARRAY(Uuid)))


def are_too_many(candidates: CTE) -> ColumnElement[bool]:
    """Whether the candidates are not all that have the terms."""
    return select(func.cardinality(candidates.c.ids) > MOST_CANDIDATES).scalar_subquery()


def in_name(part: str) -> Iterable[str]:
    """The terms, as parts of a tsquery, of all names that have the part."""
    for run in text.search_runs(part):
        if len(run) >= _GRAM:
            yield from (_term(_OWNER + run[start : start + _GRAM]) for start in range(len(run) - _GRAM + 1))
        else:
            yield _term(_OWNER + run) + ":*"


def of_label(key: str, values: Iterable[str] | None) -> str:
    """The term, as a part of a tsquery, of all that have the label with one of the values, or with any if None."""
    beginning = f"l{_OWNER}"
    if values is None:
        return _term(f"{beginning}{key}=") + ":*"
    return f"({' | '.join(_term(beginning + f'{key}={value}'[:_LONGEST_LABEL]) for value in sorted(set(values)))})"


def search_for(kind: str, terms: Iterable[str]) -> Search | None:
    """The search for the terms, None if there is none. Of many it has some: they only propose, so that finds more."""
    wanted, left = list[str](), _MOST_BYTES
    for term in sorted(set(terms), key=len):
        left -= len(term.encode())
        if left < 0:
            break
        wanted.append(term)
    return Search(kind, " & ".join(wanted)) if wanted else None


def _term(lexeme: str) -> str:
    quoted = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{quoted}'"
