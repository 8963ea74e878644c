"""Bodies: all that was recorded can be read, and what lacks something is refused."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from activities.backends.openstack import bodies
from activities.backends.openstack.bodies import UnreadableError
from activities.backends.openstack.records import DownServer, ServerRow, Size
from tests.backends.openstack.recordings import RECORDED, Recording, all_recordings


def row(**changes: Any) -> dict[str, Any]:
    """Return the body of a server that is ACTIVE, with changes; a change to None removes the field."""
    body = Recording("create/ok").at("one server").body["server"] | changes
    return {name: value for name, value in body.items() if value is not None or name not in changes}


@pytest.mark.parametrize("name", all_recordings())
def test_everything_that_was_recorded_can_be_read(name: str) -> None:
    for exchange in Recording(name).exchanges:
        exchange.servers()
        exchange.thing()
        exchange.action()
        assert exchange.date.tzinfo


@pytest.mark.parametrize("name", all_recordings())
def test_nothing_recorded_has_an_address_a_token_or_a_password(name: str) -> None:
    text = (RECORDED / f"{name}.json").read_text()
    assert re.findall(r'127\.0\.0\.1|localhost|gAAAA|"adminPass": "(?!scrubbed)', text) == []


def test_what_was_recorded_stays_small() -> None:
    assert sum(path.stat().st_size for path in RECORDED.glob("*/*")) < 650_000


def test_a_server_is_read_with_what_the_service_uses() -> None:
    server = bodies.server_from(row(), is_from_list=False)
    assert isinstance(server, ServerRow)
    assert (server.name, server.status, server.task_state, server.vm_state) == ("create-ok", "ACTIVE", None, "active")
    assert server.size == Size(vcpus=1, ram_mb=512, disk_gb=1)
    assert server.tags == {"vm:0b7a", "op:51c9"}
    assert server.metadata == {"osvm_vm": "0b7a", "osvm_operation": "51c9"}
    assert server.image_id
    assert server.updated_at.tzinfo


def test_words_in_parentheses_after_a_status_are_cut_off() -> None:
    server = bodies.server_from(row(status="ACTIVE (disk resized)"), is_from_list=True)
    assert isinstance(server, ServerRow)
    assert server.status == "ACTIVE"


def test_a_task_state_that_is_null_is_idle_and_one_that_is_missing_cannot_be_read() -> None:
    server = bodies.server_from(row(), is_from_list=True)
    assert isinstance(server, ServerRow)
    assert server.is_idle
    with pytest.raises(UnreadableError, match="task_state` is not there") as refusal:
        bodies.server_from(row(**{bodies.TASK_STATE: None}), is_from_list=True)
    assert refusal.value.retryable


@pytest.mark.parametrize("change", [{"id": None}, {"status": 3}, {"flavor": None}, {"updated": "yesterday"}])
def test_a_server_without_what_is_needed_cannot_be_read(change: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        bodies.server_from(row(**change), is_from_list=True)


@pytest.mark.parametrize("body", ["<html>", None, [], {"servers": "none"}])
def test_a_body_that_is_no_list_cannot_be_read(body: Any) -> None:
    with pytest.raises(UnreadableError):
        bodies.listed(body, "servers")


def test_unknown_fields_change_nothing() -> None:
    assert bodies.server_from(row(new_field={"a": 1}), is_from_list=True) == bodies.server_from(
        row(), is_from_list=True
    )


def test_a_server_of_a_cell_that_is_down_is_known_only_to_exist() -> None:
    recording = Recording("lists/down_cell")
    down = [found for exchange in recording.exchanges for found in exchange.servers()]
    assert down
    assert all(isinstance(found, DownServer) for found in down)
    # The other rows of the plain list are of the cell that is up: they have no status.
    assert {found.get("status") for found in recording.at("plain").body["servers"]} == {"UNKNOWN", None}
    assert recording.at("changes").body["servers"] == []


def test_a_deleted_server_has_lost_its_marks() -> None:
    rows = [found for exchange in Recording("lists/changes").exchanges for found in exchange.servers()]
    deleted = [found for found in rows if isinstance(found, ServerRow) and found.status == "DELETED"]
    assert deleted
    assert all(not found.tags and not found.metadata for found in deleted)


def test_an_event_that_a_killed_host_left_open_does_not_count_once_it_was_begun_again() -> None:
    entry = [action for exchange in Recording("stop/killed").exchanges if (action := exchange.action())][-1]
    assert [event.result for event in entry.events] == [None, "Success"]
    assert entry.has_ended


def test_an_event_that_failed_tells_it_before_the_message_does() -> None:
    entry = [action for exchange in Recording("attach/fails").exchanges if (action := exchange.action())][-1]
    assert entry.events[0].result == "Error"
    assert replace(entry, message=None).has_failed


def test_an_entry_without_events_has_not_ended() -> None:
    entry = Recording("stop/host_away").at("action").action()
    assert entry
    assert entry.events == ()
    assert not entry.has_ended
    assert not entry.has_failed


def test_times_without_a_zone_are_utc() -> None:
    entry = next(filter(None, (exchange.action() for exchange in Recording("create/ok").exchanges)))
    assert entry.started_at.tzinfo is UTC
    assert abs(entry.started_at - datetime(2026, 11, 27, 12, 43, tzinfo=UTC)).days == 0


def test_a_snapshot_names_its_server_and_its_marks() -> None:
    recording = Recording("snapshot/ok")
    image = bodies.image_from(recording.at("active").body)
    assert image.server_id == recording.server_id() == image.marks["osvm_server"]
    assert image.volume_snapshot_ids == ()


def test_a_snapshot_of_a_volume_backed_server_names_the_snapshots_of_its_volumes_and_not_its_server() -> None:
    recording = Recording("create/volume_backed")
    image = bodies.image_from(recording.at("active").body)
    assert image.marks["osvm_snapshot"] == "77aa"
    snapshots = recording.at("volume snapshots").body["snapshots"]
    assert image.volume_snapshot_ids == tuple(snapshot["id"] for snapshot in snapshots)
    assert image.size_bytes == 0
    assert image.server_id is None


def test_a_mapping_of_block_devices_that_is_no_json_cannot_be_read() -> None:
    body = Recording("create/volume_backed").at("active").body
    with pytest.raises(UnreadableError, match="block_device_mapping"):
        bodies.image_from(body | {"block_device_mapping": "["})
