"""What resources are searched by, and the SQL that finds those that few have, however many a project has.

Each resource has a row of terms: of each place in its name the three letters from there, and its labels. A trigger
writes it (migration 0026). An index has the terms, each with the kind of resource and the beginning of the project's id
before it, so that a search reads no terms of other projects. The rows that it finds are candidates: other conditions
decide. ADR 062 has the reasons.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Index,
    Select,
    SQLColumnExpression,
    Text,
    Uuid,
    any_,
    case,
    cast,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base
from domain.rules import text

MOST_CANDIDATES = 20_000  # of one search; if more have its terms, their list is read in its order instead
_OWNER = "\x01"  # stands for the mark of a project in terms; no text that one can search for has it
_GRAM = 3
_LONGEST_LABEL = 300
MOST_TERMS = 12  # of one search; PostgreSQL looks for each term of each project by itself


class SearchTerms(Base):
    """The terms of a VM, a volume or a snapshot with this id."""

    __tablename__ = "search_terms"
    __table_args__ = (
        Index("ix_search_terms", "terms", postgresql_using="gin", postgresql_with={"gin_pending_list_limit": 256}),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    terms: Mapped[str] = mapped_column(TSVECTOR)


Term = tuple[str, ...]
"""Words of a tsquery, one of which all of the wanted resources have."""


@dataclass(frozen=True, slots=True)
class Search:
    """Terms that all of the wanted resources have. `kind` is the letter of their table (see migration 0026)."""

    kind: str
    terms: str

    def candidates(self, owners: Select[UUID]) -> CTE:
        """A statement with one row, whose `ids` are those of the resources of these projects that have the terms.

        It looks at one more than MOST_CANDIDATES.
        """
        # Materialized, so that the planner cannot see the terms of a single project. It would read the whole table for
        # those that it takes for common, and others would have a plan of their own in the next statement.
        projects = owners.cte("owners").prefix_with("MATERIALIZED")
        mark = func.concat(self.kind, func.left(cast(projects.c[0], Text), 6))
        wanted = cast(func.replace(self.terms, _OWNER, mark), TSQUERY)
        # One look for each project. One look for the terms of all of them would take forty times as long for a
        # thousand projects, because it would ask for each row about the terms of each project.
        of_project = select(SearchTerms.id).where(SearchTerms.terms.op("@@")(wanted)).limit(MOST_CANDIDATES + 1)
        each = of_project.lateral("found")
        found = select(each.c.id).select_from(projects.join(each, true())).limit(MOST_CANDIDATES + 1)
        ids = func.array(found.scalar_subquery(), type_=ARRAY(Uuid))
        return select(ids.label("ids")).cte("candidates").prefix_with("MATERIALIZED")


def is_one_of(candidates: CTE, id: ColumnElement[UUID]) -> ColumnElement[bool]:
    """Whether the resource with this id is one of the candidates."""
    # Of an array the planner expects few ids, so it looks each of them up, whatever it expects of the other conditions.
    # Without the cast, ANY would compare the id with each row of the subquery.
    return id == any_(cast(select(candidates.c.ids).scalar_subquery(), ARRAY(Uuid)))


def are_too_many(candidates: CTE) -> ColumnElement[bool]:
    """Whether the candidates are perhaps not all that have the terms."""
    return select(func.cardinality(candidates.c.ids) > MOST_CANDIDATES).scalar_subquery()


def in_nfc(texts: SQLColumnExpression[str]) -> ColumnElement[str]:
    """The texts in NFC. Only those of early VMs and those with accents that stand alone may have another form."""
    return case((texts.regexp_match(text.other_form_pattern()), func.normalize(texts)), else_=texts)


def in_name(part: str) -> Iterable[Term]:
    """The terms of all names that have the part."""
    for run in text.search_runs(part):
        if len(run) >= _GRAM:
            for start in range(len(run) - _GRAM + 1):
                yield (_quoted(_OWNER + run[start : start + _GRAM]),)
        else:
            yield (_quoted(_OWNER + run) + ":*",)


def of_label(key: str, values: Iterable[str] | None) -> Term:
    """The term of all that have the label with one of the values, or with any if None."""
    beginning = f"l{_OWNER}"
    if values is None:
        return (_quoted(f"{beginning}{key}=") + ":*",)
    return tuple(_quoted(beginning + f"{key}={value}"[:_LONGEST_LABEL]) for value in sorted(set(values)))


def search_for(kind: str, terms: Iterable[Term]) -> Search | None:
    """The search for what has the terms; None if there are none, or only some with more words than MOST_TERMS.

    Of more than that, it leaves out those with the most words, and then those with the shortest. What it finds are
    candidates, and that only makes them more.
    """
    wanted, left = list[str](), MOST_TERMS
    for words in sorted(set(terms), key=lambda words: (len(words), -len(words[0]), words)):
        left -= len(words)
        if left < 0:
            break
        wanted.append(f"({' | '.join(words)})")
    return Search(kind, " & ".join(wanted)) if wanted else None


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
