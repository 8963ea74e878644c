"""Types for the texts that clients send: names, labels, accounts. Each type has its pattern and length."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, StringConstraints
from pydantic_core import PydanticCustomError

_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f]"
_EMAIL_PART = r"[^@\s\x00-\x1f\x7f-\x9f]+"
LABEL_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?"


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
    Field(max_length=64, json_schema_extra={"additionalProperties": False}),
]
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
