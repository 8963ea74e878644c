"""The bases of the generated models. Both accept what a later version of the service may add."""

from enum import StrEnum
from typing import Annotated, Any, Self
from unicodedata import normalize
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """The base of every answer. A field that this version does not know is kept."""

    model_config = ConfigDict(extra="allow", defer_build=True)  # a command needs few of the classes


class AnyPage(Answer):
    """A page of a list, whatever its items are."""

    items: list[Any]
    next_cursor: Annotated[str, Field(max_length=8192)] | None  # more would not fit into the line of a request


class Word(StrEnum):
    """The base of every set of words, such as the statuses. A word that this version does not know is kept."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word


def tidy(name: str) -> str:
    """The form in which the service keeps a name: keyboards and files differ in how they write an accented letter."""
    return normalize("NFC", name.strip())


def as_id(name_or_id: UUID | str) -> UUID | None:
    """The id that this is; None if it is a name."""
    if isinstance(name_or_id, UUID):
        return name_or_id
    try:
        return UUID(tidy(name_or_id))
    except ValueError:
        return None
