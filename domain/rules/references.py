"""What a request names: a flavor, an image, a network or a security group, by its id or by a name that only one has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeVar
from uuid import UUID

from domain.rules.errors import FieldIssue, ServiceError, UnknownReferenceError, unknown_id
from domain.rules.text import in_nfc

MOST_CANDIDATES: Final = 20  # ids in one error; a cloud may have hundreds of images with one name


class Named(Protocol):
    """Something that has an id and a name."""

    @property
    def id(self) -> UUID:
        """The id."""

    @property
    def name(self) -> str:
        """The name, which others may have, too."""


T = TypeVar("T", bound=Named)


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a request names: a UUID is an id, a text is a name or an id. `field` is the body's field."""

    value: UUID | str
    field: str

    @property
    def id(self) -> UUID | None:
        """The value as an id; None if it can only be a name."""
        return self.value if isinstance(self.value, UUID) else as_id(self.value)

    @property
    def name(self) -> str | None:
        """The value as a name; None if it can only be an id."""
        return self.value if isinstance(self.value, str) else None

    @property
    def spellings(self) -> set[str]:
        """The name as it was sent, and in NFC; empty if the value can only be an id."""
        return {self.value, in_nfc(self.value)} if isinstance(self.value, str) else set()


class AmbiguousNameError(ServiceError):
    """Several things have a name that the body uses. The issues have the ids of these things."""

    code: ClassVar[str] = "ambiguous_name"

    def __init__(self, fields: Sequence[FieldIssue]) -> None:
        super().__init__("Several things have the same name. Name one by its id; `errors` lists the ids.")
        self.fields = fields


class RepeatedItemsError(ServiceError):
    """The body names something twice that it may name once, such as one volume for two VMs."""

    code: ClassVar[str] = "validation_failed"
    item_code: ClassVar[str] = "repeated_items"

    def __init__(self, fields: Sequence[FieldIssue]) -> None:
        super().__init__("The request names something twice that it may name once; `errors` says where.")
        self.fields = fields


def pick(found: Sequence[T], choice: Choice, word: str) -> T | FieldIssue:
    """Return the one that the request has chosen, or what is wrong with the choice; `word` is for example "flavor".

    Names are equal if they are equal in NFC: keyboards and files differ in how they write an accented letter.
    """
    id, name = choice.id, choice.name
    # As in Nova, an id comes before a name that looks like this id. A name that is written as it was sent comes first.
    matches = [each for each in found if each.id == id] or [each for each in found if each.name == name]
    if not matches and name is not None:
        matches = [each for each in found if in_nfc(each.name) == in_nfc(name)]
    match matches:
        case [one]:
            return one
        case []:
            return _unknown(choice, word)
    ids = tuple(sorted(each.id for each in matches))
    detail = f"{len(ids)} {word}s have the name {name}. Name one by its id."
    return FieldIssue(choice.field, AmbiguousNameError.code, detail, ids[:MOST_CANDIDATES])


def pick_one(found: Sequence[T], choice: Choice, word: str) -> T:
    """Return the one that the request has chosen; UnknownReferenceError or AmbiguousNameError if there is none."""
    picked = pick(found, choice, word)
    if isinstance(picked, FieldIssue):
        check([picked])
    return picked  # type: ignore[return-value] # `check` has raised for an issue


def check(issues: Sequence[FieldIssue]) -> None:
    """Raise the error that has these issues, if there are any."""
    if not issues:
        return
    if all(issue.code == AmbiguousNameError.code for issue in issues):
        raise AmbiguousNameError(issues)
    raise UnknownReferenceError("The request refers to things that do not exist; `errors` names them.", issues)


def check_once(ids: Sequence[tuple[UUID, str]], word: str) -> None:
    """Raise RepeatedItemsError if an id comes twice; each comes with the body's field that has it."""
    seen: set[UUID] = set()
    issues = []
    for id, field in ids:
        if id in seen:
            detail = f"The request names this {word} twice: {id}."
            issues.append(FieldIssue(field, RepeatedItemsError.item_code, detail))
        seen.add(id)
    if issues:
        raise RepeatedItemsError(issues)


def as_id(text: str) -> UUID | None:
    """The text as an id; None if it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _unknown(choice: Choice, word: str) -> FieldIssue:
    if isinstance(choice.value, UUID):
        return unknown_id(choice.field, choice.value)
    return FieldIssue(choice.field, UnknownReferenceError.code, f"There is no such {word}: {choice.value}.")
