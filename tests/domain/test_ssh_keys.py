"""Public SSH keys: those that servers accept are kept in one form, all others are refused with the reason."""

import base64
import shutil
import subprocess
from itertools import accumulate
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from domain.rules import ssh_keys, text
from domain.rules.ssh_keys import InvalidKeyError
from tests.support.ssh_keys import ED25519, keys_of_all_types, new_key

TYPE, DATA = ED25519.split()
MANY = 30


def packed(*parts: bytes) -> str:
    """The data of a key with these parts."""
    return base64.b64encode(b"".join(len(part).to_bytes(4) + part for part in parts)).decode()


@pytest.mark.parametrize(("type", "line"), keys_of_all_types().items(), ids=lambda value: value.split()[0])
def test_a_key_of_every_type_is_accepted_and_kept_as_it_is(type: str, line: str) -> None:
    key = ssh_keys.parse(f"{line} ada@laptop")
    assert (key.type, key.line, key.comment) == (type, f"{line} ada@laptop", "ada@laptop")
    assert ssh_keys.parse(line).line == line


def test_keys_that_are_in_hardware_are_accepted() -> None:
    ed25519 = packed(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:")
    ecdsa = packed(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"\x04" + bytes(64), b"ssh:")
    assert ssh_keys.parse(f"sk-ssh-ed25519@openssh.com {ed25519}").data == ed25519
    assert ssh_keys.parse(f"sk-ecdsa-sha2-nistp256@openssh.com {ecdsa}").data == ecdsa


def test_the_fingerprint_is_the_one_that_ssh_keygen_shows(tmp_path: Path) -> None:
    assert ssh_keys.parse(ED25519).fingerprint == "SHA256:UQplo0ygLmiJYi5qlBr9LR3wG3fZyHP8BCEXY4yCYVs"
    program = shutil.which("ssh-keygen")
    if program is None:
        return
    for line in keys_of_all_types().values():
        file = tmp_path / "key.pub"
        file.write_text(line)
        shown = subprocess.run([program, "-lf", file], capture_output=True, text=True, check=True).stdout
        assert ssh_keys.parse(line).fingerprint == shown.split()[1]


def test_space_around_a_key_and_between_its_parts_is_made_one() -> None:
    assert ssh_keys.parse(f"  {TYPE}\t {DATA}   ada  at  home \r\n").line == f"{TYPE} {DATA} ada  at  home"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "one line"),
        (TYPE, "one line"),
        (f"{ED25519}\n{ED25519}", "one line"),
        (f"{ED25519} a\x0bssh-rsa", "one line"),
        (f'command="reboot" {ED25519}', "begin with a type"),
        (f"ssh-dss {DATA}", "begin with a type"),
        (f"ssh-rsa {DATA}", "another type"),
        (f"{TYPE} {DATA[:-5]}", "base64"),
        (f"{TYPE} {DATA[:-8]}", "cut off"),
        (f"{TYPE} {DATA[:-4]}!!!!", "base64"),
        (f"{TYPE} é{DATA}", "base64"),
        (f"{TYPE} ====", "base64"),
        (f"{ED25519} {'c' * 256}", "comment"),
        (f"{ED25519} ada\x07", "comment"),
        (f"{ED25519} ada\u202e", "comment"),
        (f"{TYPE} {packed(b'ssh-ed25519', bytes(31))}", "damaged"),
        (f"{TYPE} {packed(b'ssh-ed25519', bytes(32), b'more')}", "damaged"),
        (f"ecdsa-sha2-nistp256 {packed(b'ecdsa-sha2-nistp256', b'nistp384', bytes(97))}", "damaged"),
        (f"ecdsa-sha2-nistp256 {packed(b'ecdsa-sha2-nistp256', b'nistp256', bytes(65))}", "damaged"),
        (f"ssh-rsa {packed(b'ssh-rsa', bytes([3]), bytes(1))}", "damaged"),
        (f"ssh-rsa {packed(b'ssh-rsa', bytes([1]), bytes([1] * 256))}", "damaged"),
        (f"ssh-rsa {packed(b'ssh-rsa', bytes([3]), bytes([255] * 256))}", "damaged"),
        (f"ssh-rsa {packed(b'ssh-rsa', bytes([3]), bytes([1] * 2049))}", "damaged"),
        (f"sk-ssh-ed25519@openssh.com {packed(b'sk-ssh-ed25519@openssh.com', bytes(32))}", "damaged"),
    ],
)
def test_what_no_server_accepts_is_refused_with_the_reason(line: str, reason: str) -> None:
    with pytest.raises(InvalidKeyError, match=reason) as refusal:
        ssh_keys.parse(line)
    assert DATA not in str(refusal.value)


def test_a_comment_that_is_far_too_long_is_not_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a quarter of a second for 8,000 accents, in which the API serves nobody else."""
    monkeypatch.setattr(text, "tidy", lambda comment: pytest.fail(f"normalized {len(comment)} characters"))
    with pytest.raises(InvalidKeyError, match="comment"):
        ssh_keys.parse(f"{ED25519} a" + "\u0301" * 1020)


@pytest.mark.parametrize("size", [512, 1023])
def test_an_rsa_key_that_is_too_short_is_refused(size: int) -> None:
    modulus = (1 << (size - 1)) + 1
    parts = packed(b"ssh-rsa", b"\x01\x00\x01", modulus.to_bytes(size // 8 + 1))
    with pytest.raises(InvalidKeyError, match="damaged"):
        ssh_keys.parse(f"ssh-rsa {parts}")


@pytest.mark.parametrize("format", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_the_sender_of_a_private_key_is_told_so_and_it_is_not_repeated(format: PrivateFormat) -> None:
    private = rsa.generate_private_key(65_537, 2048).private_bytes(Encoding.PEM, format, NoEncryption()).decode()
    with pytest.raises(InvalidKeyError, match="private key") as refusal:
        ssh_keys.parse(private)
    assert not any(line in str(refusal.value) for line in private.splitlines())


@given(st.text())
def test_any_text_is_refused_without_another_error(line: str) -> None:
    with pytest.raises(InvalidKeyError):
        ssh_keys.parse(line)


@given(st.binary(max_size=120))
def test_any_data_is_refused_without_another_error(data: bytes) -> None:
    with pytest.raises(InvalidKeyError):
        ssh_keys.parse(f"ssh-rsa {base64.b64encode(data).decode()}")


def test_every_cut_of_a_key_is_refused() -> None:
    blob = base64.b64decode(DATA)
    for end in accumulate([1] * (len(blob) - 1)):
        with pytest.raises(InvalidKeyError):
            ssh_keys.parse(f"{TYPE} {base64.b64encode(blob[:end]).decode()}")


def test_new_keys_have_different_fingerprints() -> None:
    assert len({ssh_keys.parse(new_key()).fingerprint for _ in range(MANY)}) == MANY
