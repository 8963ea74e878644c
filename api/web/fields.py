"""Types for the texts that clients send: names, labels, accounts. Each type has its pattern and length."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints
from pydantic_core import PydanticCustomError

_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f]"
_EMAIL_PART = r"[^@\s\x00-\x1f\x7f-\x9f]+"
LABEL_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?"
_MOST_LABELS = 64
_DIGITS = re.compile(r"-?[0-9]+(\.0+)?")


def _few(labels: Any) -> Any:
    # pydantic checks every label before it checks their number, and would make an error for each of thousands.
    if isinstance(labels, dict) and len(labels) > _MOST_LABELS:
        raise PydanticCustomError("too_long", "There may be at most {most} labels", {"most": _MOST_LABELS})
    return labels


def _whole(value: Any) -> Any:
    # In JSON, and in JSON Schema, 10.0 is the integer 10.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain_digits(text: Any) -> Any:
    # pydantic also takes spaces around the digits and underscores between them.
    if isinstance(text, str) and not _DIGITS.fullmatch(text):
        raise PydanticCustomError("wrong_type", "Input should be a valid integer")
    return text


def _strong(password: SecretStr) -> SecretStr:
    text = password.get_secret_value()
    if not (any(map(str.isupper, text)) and any(map(str.islower, text)) and any(map(str.isdigit, text))):
        message = "A password needs an upper case letter, a lower case letter and a digit"
        raise PydanticCustomError("password_too_weak", message)
    return password


Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=255,
        pattern=rf"^{_PRINTABLE}*[^\s\x00-\x1f\x7f-\x9f]{_PRINTABLE}*$",  # with a character that is not white space
    ),
]
Text = Annotated[str, StringConstraints(max_length=255, pattern=f"^{_PRINTABLE}*$")]
Labels = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=f"^{LABEL_KEY}$")],
        Text,
    ],
    # In the JSON schema, keys are `patternProperties`. Without the extra entry it would allow all other keys, too.
    Field(max_length=_MOST_LABELS, json_schema_extra={"additionalProperties": False}),
    BeforeValidator(_few),
]
# For integers; they stand after the bounds, because pydantic describes the bounds before them only.
WHOLE = BeforeValidator(_whole)
PLAIN_DIGITS = BeforeValidator(_plain_digits)
Username = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,63}$")]
Email = Annotated[str, StringConstraints(max_length=254, pattern=rf"^{_EMAIL_PART}@{_EMAIL_PART}$")]
NewPassword = Annotated[
    SecretStr,
    Field(
        min_length=8,
        max_length=256,
        json_schema_extra={"pattern": r"^(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])"},
    ),
    AfterValidator(_strong),
]
