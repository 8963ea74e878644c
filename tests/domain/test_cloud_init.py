"""What cloud-init gets: user data as it is, keys, or both in one message that loses nothing."""

import email

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from domain.rules import cloud_init
from domain.rules.errors import UserDataTooLargeError
from tests.support.ssh_keys import ED25519

KEYS = [f"{ED25519} ada@laptop", f'{ED25519} "quoted" #1: jürgen 🔑']
SCRIPT = "#!/bin/sh\necho hello\n"
MESSAGE = f"""Content-Type: multipart/mixed; boundary="xx"
MIME-Version: 1.0

--xx
Content-Type: text/x-shellscript

{SCRIPT}
--xx--
"""


def parts_of(document: bytes | None) -> list[tuple[str, bytes]]:
    """The type and content of each part, as cloud-init reads them."""
    assert document
    message = email.message_from_string(document.decode())
    parts = (part for part in message.walk() if not part.is_multipart())
    contents = ((part.get_content_type(), part.get_payload(decode=True)) for part in parts)
    return [(type, content) for type, content in contents if isinstance(content, bytes)]


def keys_in(config: bytes) -> list[str]:
    """The keys of a cloud-config, which has nothing else."""
    assert config.startswith(b"#cloud-config\n")
    values = yaml.safe_load(config)
    keys: list[str] = values.pop("ssh_authorized_keys")
    assert values == {}
    return keys


@pytest.mark.parametrize("user_data", [None, ""])
def test_without_anything_there_is_no_document(user_data: str | None) -> None:
    assert cloud_init.render(user_data, []) is None


@given(st.text(min_size=1))
def test_without_keys_user_data_goes_through_unchanged(user_data: str) -> None:
    assert cloud_init.render(user_data, []) == user_data.encode()


def test_keys_alone_are_a_cloud_config() -> None:
    document = cloud_init.render(None, KEYS)
    assert document
    assert keys_in(document) == KEYS


@given(st.text(min_size=1).filter(lambda text: not cloud_init.is_mime(text)))
@example("#!/bin/sh\r\necho hello")
@example("From here\nFrom there\n--===\n\n.\n")
@example("#cloud-config\nhostname: jürgen\n")
def test_user_data_and_keys_together_lose_nothing(user_data: str) -> None:
    document = cloud_init.render(user_data, KEYS)
    (_, content), (type, config) = parts_of(document)
    assert content == user_data.encode()
    assert type == "text/cloud-config"
    assert keys_in(config) == KEYS


def test_cloud_init_recognizes_both_together_as_a_message_and_user_data_by_its_content() -> None:
    document = cloud_init.render(SCRIPT, KEYS[:1])
    assert document
    assert cloud_init.is_mime(document.decode())
    # cloud-init looks into parts of this type itself, to see whether they are a script, a cloud-config or another thing
    assert parts_of(document)[0] == ("text/plain", SCRIPT.encode())


def test_keys_join_those_of_the_user_data_instead_of_replacing_them() -> None:
    document = cloud_init.render("#cloud-config\nssh_authorized_keys: []\n", KEYS)
    assert document
    *_, keys = email.message_from_bytes(document).walk()
    assert keys["Merge-Type"] == "list(append)+dict(recurse_array)+str()"


def test_a_message_as_user_data_keeps_its_parts() -> None:
    document = cloud_init.render(MESSAGE, KEYS)
    (script, keys) = parts_of(document)
    assert script == ("text/x-shellscript", SCRIPT.encode())
    assert keys_in(keys[1]) == KEYS
    assert cloud_init.render(MESSAGE, []) == MESSAGE.encode()


def test_a_message_that_is_nested_too_deeply_to_be_read_goes_through_as_it_is() -> None:
    levels = "".join(f"Content-Type:multipart/a;boundary={n}\n\n--{n}\n" for n in range(1000))
    opened = f"MIME-Version: 1.0\n{levels}"
    assert opened in (cloud_init.render(opened, KEYS) or b"").decode()
    with pytest.raises(RecursionError):
        email.message_from_string(opened)


def test_as_much_as_fits_into_novas_field_is_accepted_and_a_byte_more_is_not() -> None:
    assert len(cloud_init.render("x" * 49_149, []) or b"") == 49_149
    with pytest.raises(UserDataTooLargeError, match=r"49,150 bytes .* at most 49,149") as refusal:
        cloud_init.render("x" * 49_150, [])
    assert [field.field for field in refusal.value.fields] == ["user_data"]


def test_bytes_count_and_not_characters() -> None:
    assert cloud_init.render("ä" * 24_574, [])
    with pytest.raises(UserDataTooLargeError):
        cloud_init.render("ä" * 24_575, [])


def test_keys_count_too() -> None:
    together = cloud_init.render("x" * 40_000, KEYS)
    assert together
    room = 49_149 - len(together)
    assert len(cloud_init.render("x" * (40_000 + room), KEYS) or b"") == 49_149
    with pytest.raises(UserDataTooLargeError):
        cloud_init.render("x" * (40_001 + room), KEYS)
    with pytest.raises(UserDataTooLargeError) as refusal:
        cloud_init.render(None, KEYS * 400)
    assert [field.field for field in refusal.value.fields] == ["ssh_keys"]
