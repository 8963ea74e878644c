"""Types for what clients send to their guests: SSH keys and user data."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from api.web.fields import whole
from domain.rules import cloud_init, ssh_keys
from domain.rules.ssh_keys import InvalidKeyError

_LONGEST_KEY = 8192  # characters; an RSA key of 16,384 bits has 2,800


def _public_key(line: str) -> str:
    try:
        return ssh_keys.parse(line).line
    except InvalidKeyError as error:
        raise PydanticCustomError("invalid_ssh_key", "{reason}", {"reason": str(error)}) from None


# It stands in paths, so it has no slash and does not begin with a dot.
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._@-]{0,62}[A-Za-z0-9._@-])?$")]
PublicKeyLine = Annotated[str, StringConstraints(max_length=_LONGEST_KEY), AfterValidator(_public_key)]
# The limit is one of bytes, of user data and keys together. The command counts them, and says how many there are.
UserData = Annotated[
    str,
    AfterValidator(whole),
    Field(
        description="What cloud-init carries out at the first boot: a script, a cloud-config, or a MIME message. Plain "
        f"text. Together with the SSH keys it has at most {cloud_init.LARGEST:,} bytes in UTF-8. No answer shows it.",
        json_schema_extra={"writeOnly": True, "maxLength": cloud_init.LARGEST, "x-max-bytes": cloud_init.LARGEST},
    ),
]
