"""Types for the texts that clients send: names, labels, accounts. `domain/rules/text.py` has the rules behind them."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from unicodedata import name

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, SecretStr, StringConstraints
from pydantic_core import PydanticCustomError, PydanticKnownError

from domain.rules import addresses, passwords, text
from domain.rules.labels import MOST_LABELS
from domain.rules.usernames import USERNAME

_UNSEEN = rf"\x00-\x1f\x7f-\x9f{text.UNSEEN}"
_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f]"
LABEL_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?"
_MOST_CHANGES = 2 * MOST_LABELS  # so many remove all labels and set as many others
_DIGITS = re.compile(r"-?[0-9]+(\.0+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
# Characters. NFC joins at most four into one, so a longer text has more than 256 in that form, too. Normalizing takes a
# time that grows with the square of the accents in a row: 12 seconds for those that fit into a body.
_LONGEST_SENT = 4 * passwords.LONGEST


def _plain_keys(schema: dict[str, Any]) -> None:
    # pydantic describes the keys as `patternProperties`, which few generators of clients know.
    ((pattern, values),) = schema.pop("patternProperties").items()
    schema |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}


def _or_null(schema: dict[str, Any]) -> None:
    # One schema and not a choice of two, whose null `api.web.openapi_schemas` would leave out.
    kinds = schema.pop("anyOf")
    schema |= kinds[0] | {"type": [kind["type"] for kind in kinds]}


def _at_most(most: int) -> BeforeValidator:
    # pydantic checks every label before it checks their number, and would make an error for each of thousands.
    def check(labels: Any) -> Any:
        if isinstance(labels, dict) and len(labels) > most:
            raise PydanticCustomError("too_long", "There may be at most {most} labels", {"most": most})
        return labels

    return BeforeValidator(check)


def _integral(value: Any) -> Any:
    # In JSON, and in JSON Schema, 10.0 is the integer 10.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain_digits(value: Any) -> Any:
    # pydantic also takes spaces around the digits and underscores between them.
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise PydanticCustomError("wrong_type", "Input should be a valid integer")
    return value


def _written_as_time(value: Any) -> Any:
    # pydantic also takes dates, and numbers of seconds.
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        hint = " (write the + of an offset as %2B)" if isinstance(value, str) and " " in value else ""
        raise PydanticCustomError(
            "wrong_format", "Write a time as 2026-11-27T19:00:00Z (RFC 3339){hint}", {"hint": hint}
        )
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the first or the last hours of the calendar
        raise PydanticCustomError("wrong_format", "This time is out of range") from None


def _tidy(value: Any) -> Any:
    if not isinstance(value, str) or len(value.strip()) > _LONGEST_SENT:
        return value  # of the wrong type or too long, as pydantic is about to find
    return text.tidy(value)


def _seen(value: str) -> str:
    character = text.find_unseen(value)
    if character is not None:
        what = {"code": f"U+{ord(character):04X}", "name": name(character, "a control or unassigned character")}
        message = "Readers cannot see the character {code} ({name}) in this place; leave it out"
        raise PydanticCustomError("unseen_character", message, what)
    return value


def _visible(value: str) -> str:
    if not text.is_visible(value):
        raise PydanticCustomError("nothing_visible", "A name needs a character that readers can see")
    return value


def _email(value: str) -> str:
    domain = value.rpartition("@")[2]
    try:
        text.dns_name(domain)
    except ValueError:
        raise PydanticCustomError("invalid_domain", "The part after the @ is not a valid domain") from None
    return value


def whole(value: str) -> str:
    """Refuse half of a surrogate pair; pydantic checks this itself only if the text has another constraint."""
    if _HALF_A_PAIR.search(value):
        raise PydanticKnownError("string_unicode")
    return value


def _whole(secret: SecretStr) -> SecretStr:
    whole(secret.get_secret_value())
    return secret


def _password(password: SecretStr) -> SecretStr:
    value = _whole(password).get_secret_value()
    # Early accounts may have a password that is longer in its normal form.
    if len(value) > _LONGEST_SENT or min(map(len, text.password_forms(value))) > passwords.LONGEST:
        raise PydanticCustomError("password_length", f"A password has at most {passwords.LONGEST} characters")
    return password


def _strong(password: SecretStr) -> SecretStr:
    value = text.password_forms(password.get_secret_value())[0]
    if not passwords.SHORTEST <= len(value) <= passwords.LONGEST:
        message = f"A password has {passwords.SHORTEST} to {passwords.LONGEST} characters"
        raise PydanticCustomError("password_length", message)
    if not (any(map(str.isupper, value)) and any(map(str.islower, value)) and any(map(str.isdigit, value))):
        message = "A password needs an upper case letter, a lower case letter and a digit"
        raise PydanticCustomError("password_too_weak", message)
    if passwords.is_obvious(value):
        raise PydanticCustomError("password_too_common", "Many people have this password, so it is tried first")
    return SecretStr(value)


def _ip_address(value: str) -> str:
    try:
        return addresses.canonical(value)
    except ValueError:
        raise PydanticCustomError("wrong_format", "This is no IP address") from None


# A text is made tidy (BeforeValidator), then measured, then its characters are checked. The patterns are only for
# readers of the OpenAPI document: `_seen` knows more characters than a pattern can list, and names the wrong one.
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255),
    BeforeValidator(_tidy),
    AfterValidator(_seen),
    AfterValidator(_visible),
    Field(json_schema_extra={"pattern": rf"^[^{_UNSEEN}]*[^\s{_UNSEEN}][^{_UNSEEN}]*$"}),
]
_LabelKey = Annotated[str, StringConstraints(pattern=f"^{LABEL_KEY}$")]
LabelValue = Annotated[
    str,
    StringConstraints(max_length=255),
    BeforeValidator(_tidy),
    AfterValidator(_seen),
    Field(json_schema_extra={"pattern": f"^[^{_UNSEEN}]*$"}),
]
Labels = Annotated[
    dict[_LabelKey, LabelValue],
    Field(max_length=MOST_LABELS, json_schema_extra=_plain_keys),
    _at_most(MOST_LABELS),
]
LabelChanges = Annotated[
    dict[_LabelKey, Annotated[LabelValue | None, Field(json_schema_extra=_or_null)]],
    Field(max_length=_MOST_CHANGES, json_schema_extra=_plain_keys),
    _at_most(_MOST_CHANGES),
]
# For integers. Write them after the bounds: the OpenAPI document shows only bounds that come before them.
WHOLE = BeforeValidator(_integral)
PLAIN_DIGITS = BeforeValidator(_plain_digits)
Time = Annotated[AwareDatetime, BeforeValidator(_written_as_time), AfterValidator(_in_utc)]
# A text to search for. It may hold more than a Name, because early resources have names that are refused today.
Text = Annotated[str, StringConstraints(max_length=255, pattern=f"^{_PRINTABLE}*$")]
IPAddress = Annotated[str, StringConstraints(max_length=45, pattern=r"^[0-9A-Fa-f.:]+$"), AfterValidator(_ip_address)]
Username = Annotated[str, StringConstraints(pattern=USERNAME)]
Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$"),
    BeforeValidator(_tidy),
    AfterValidator(_seen),
    AfterValidator(_email),
]
Password = Annotated[SecretStr, AfterValidator(_password), Field(json_schema_extra={"maxLength": passwords.LONGEST})]
NewPassword = Annotated[
    SecretStr,
    AfterValidator(_password),
    AfterValidator(_strong),
    Field(
        json_schema_extra={
            "minLength": passwords.SHORTEST,
            "maxLength": passwords.LONGEST,
            "pattern": r"^(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])",
        }
    ),
]
Secret = Annotated[SecretStr, AfterValidator(_whole)]
