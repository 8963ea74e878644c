"""What the bodies that clients send have in common. Unknown fields are rejected."""

from collections.abc import Hashable, Sized
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.web.field_errors import MAX_ERRORS

Item = TypeVar("Item", bound=Hashable)


def unique(items: list[Item] | None) -> list[Item] | None:
    """Refuse a list that has an item twice."""
    if items and len(set(items)) < len(items):
        raise PydanticCustomError("repeated_items", "Each may appear once")
    return items


def errors_within(number: int, error: ValidationError) -> list[InitErrorDetails]:
    """The errors of one item of a list, as errors of the list: at most one more than a problem shows."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[: MAX_ERRORS + 1]
    return [
        InitErrorDetails(type=PydanticCustomError(each["type"], each["msg"]), loc=(number, *each["loc"]), input=None)
        for each in found
    ]


def is_absent(value: Any) -> bool:
    """Whether a field is left out of what an idempotency key is compared with."""
    # The key is compared with the fields of the body, so a field that a later version added must not be one of them
    # until somebody sends it. Otherwise a request that is repeated after an upgrade would not be the same.
    return value is None


def is_empty(value: Sized) -> bool:
    """The same for a list or an object."""
    return len(value) == 0


class Request(BaseModel):
    """The base of every body."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_most_unknown_fields(cls, data: Any) -> Any:
        # pydantic makes an error for each of them, and all errors at once. That takes long for thousands.
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields) + MAX_ERRORS:
            return data
        unknown = islice((name for name in data if name not in cls.model_fields), MAX_ERRORS + 1)
        kept = {*cls.model_fields, *unknown}
        return {name: value for name, value in data.items() if name in kept}


def example(**members: Any) -> ConfigDict:
    """The `model_config` of a body that cannot have all its fields at once, with an example of those it may have."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [members]})


class NoInput(Request):
    """The empty body of an action that needs no input."""
