"""What TEMPORAL_PAYLOAD_KEYS may be, and payloads encrypted with its keys."""

import base64
from pathlib import Path

import pytest
from temporalio.api.common.v1 import Payload

from domain import payload_keys
from domain.payload_codec import EncryptingCodec, UnreadablePayloadError
from domain.payload_keys import PayloadKey
from domain.settings import Settings, load_settings

OLD, NEW = PayloadKey("2026-05", b"o" * 32), PayloadKey("2026-11", b"n" * 32)
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"web-1"')


def encoded(key: PayloadKey) -> str:
    """The key as it stands in the setting."""
    return f"{key.id}:{base64.b64encode(key.secret).decode()}"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting in the environment, and no `.env` in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_setting_has_several_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_PAYLOAD_KEYS", f"{encoded(NEW)}, {encoded(OLD)}")
    settings = load_settings()
    assert settings.payload_keys == (NEW, OLD)
    assert encoded(NEW) not in repr(settings)
    assert "nnn" not in repr(settings.payload_keys)


def test_plain_in_the_place_of_the_first_key_keeps_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_PAYLOAD_KEYS", f"plain,{encoded(NEW)}")
    assert load_settings().payload_keys == (payload_keys.PLAIN, NEW)


async def test_with_plain_first_nothing_is_encrypted_and_all_is_decrypted() -> None:
    codec = EncryptingCodec(payload_keys.parse(f"plain,{encoded(NEW)}"))
    [encrypted] = await EncryptingCodec([NEW]).encode([PLAIN])
    assert await codec.encode([PLAIN]) == [PLAIN]
    assert await codec.decode([encrypted]) == [PLAIN]


def test_without_the_setting_there_are_no_keys() -> None:
    assert load_settings().payload_keys == ()


@pytest.mark.parametrize(
    "value",
    [
        *("2026-11", "2026-11:", ":bm9uZQ==", "2026-11:not base64", "a b:" + "bm5u" * 10, f"{encoded(NEW)},"),
        "2026-11:" + base64.b64encode(b"n" * 16).decode(),
        f"{encoded(NEW)},{encoded(NEW)}",
        f"{encoded(NEW)},plain",
    ],
)
def test_a_wrong_key_stops_the_start_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("TEMPORAL_PAYLOAD_KEYS", value)
    with pytest.raises(SystemExit, match=r"Wrong setting TEMPORAL_PAYLOAD_KEYS: must (not )?have") as error:
        load_settings()
    assert value not in str(error.value) + "".join(capsys.readouterr())


async def test_a_payload_is_encrypted_with_the_first_key_and_decrypted_with_any() -> None:
    [by_old] = await EncryptingCodec([OLD]).encode([PLAIN])
    both = EncryptingCodec([NEW, OLD])
    [by_new] = await both.encode([PLAIN])
    assert (by_old.metadata["encryption-key-id"], by_new.metadata["encryption-key-id"]) == (b"2026-05", b"2026-11")
    assert b"web-1" not in by_new.SerializeToString()
    assert await both.decode([by_old, by_new, PLAIN]) == [PLAIN] * 3


async def test_no_two_payloads_look_the_same() -> None:
    first, second = await EncryptingCodec([NEW]).encode([PLAIN, PLAIN])
    assert first.data != second.data


async def test_without_keys_nothing_is_encrypted() -> None:
    assert await EncryptingCodec([]).encode([PLAIN]) == [PLAIN]


@pytest.mark.parametrize("keys", [[], [OLD]], ids=["no key", "another key"])
async def test_a_missing_key_is_named(keys: list[PayloadKey]) -> None:
    [encrypted] = await EncryptingCodec([NEW]).encode([PLAIN])
    with pytest.raises(UnreadablePayloadError, match="TEMPORAL_PAYLOAD_KEYS lacks the key '2026-11'"):
        await EncryptingCodec(keys).decode([encrypted])


@pytest.mark.parametrize("change", ["wrong key", "changed", "cut"])
async def test_a_payload_that_was_changed_or_has_another_key_of_that_name_is_refused(change: str) -> None:
    [encrypted] = await EncryptingCodec([NEW]).encode([PLAIN])
    codec = EncryptingCodec([PayloadKey(NEW.id, b"x" * 32) if change == "wrong key" else NEW])
    data = {"changed": encrypted.data[:-1] + b"?", "cut": encrypted.data[:7]}.get(change, encrypted.data)
    with pytest.raises(UnreadablePayloadError, match="'2026-11' of TEMPORAL_PAYLOAD_KEYS is not the one"):
        await codec.decode([Payload(metadata=encrypted.metadata, data=data)])


def test_a_key_has_the_size_of_aes_256() -> None:
    assert payload_keys.KEY_SIZE * 8 == 256
