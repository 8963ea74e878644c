"""Verdicts on volumes, images and ports, on what a real cloud showed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from activities.backends.openstack.records import ActionEntry, Gone, ImageRow, PortRow, ServerRow, VolumeRow
from activities.backends.openstack.resource_verdicts import VolumeWant, image_verdict, port_verdict, volume_verdict
from activities.backends.openstack.verdict import Changed, Done, Failed, Undecided, Verb, Verdict, Want, Working
from tests.backends.openstack.recordings import Exchange, Look, Recording
from tests.backends.openstack.test_verdicts import is_open


def volume_want(exchange: Exchange, verb: Verb, server_id: str | None = None, size_gb: int = 0) -> VolumeWant:
    """Return the request that the exchange is about."""
    request_id = exchange.headers["X-Openstack-Request-Id"]
    return VolumeWant(verb, exchange.date, request_id, server_id=server_id, size_gb=size_gb)


def judge_volume(want: VolumeWant, look: Look, delay: float = 0) -> Verdict:
    """Return the verdict of a caller who reads the entry of the action only when the verdict needs it."""
    assert isinstance(look.thing, VolumeRow | Gone)
    now = look.now + timedelta(seconds=delay)
    found = volume_verdict(want, look.thing, None, now)
    if isinstance(found, Undecided) and found.needs_action:
        return volume_verdict(want, look.thing, look.action, now)
    return found


def volume_end(story: str, verb: Verb, moment: str = "accepted", size_gb: int = 0) -> Verdict:
    """Return the first verdict that is an end."""
    recording = Recording(story)
    is_of_server = verb in {Verb.ATTACH, Verb.DETACH}
    want = volume_want(recording.at(moment), verb, recording.server_id() if is_of_server else None, size_gb)
    found = [judge_volume(want, look) for look in recording.things(moment)]
    return next(each for each in found if not is_open(each))


@pytest.mark.parametrize(
    ("story", "verb", "moment", "size_gb"),
    [
        ("volume/ok", Verb.CREATE, "accepted", 0),
        ("volume/ok", Verb.EXTEND, "extend", 2),
        ("volume/extend", Verb.EXTEND, "extend attached", 5),
        ("volume/ok", Verb.DELETE, "delete", 0),
        ("attach/ok", Verb.ATTACH, "accepted", 0),
        ("detach/ok", Verb.DETACH, "accepted", 0),
    ],
)
def test_what_succeeds_is_done(story: str, verb: Verb, moment: str, size_gb: int) -> None:
    assert volume_end(story, verb, moment, size_gb) == Done()


@pytest.mark.parametrize(
    ("story", "verb", "code"),
    [
        ("volume/fails", Verb.CREATE, "volume_error"),
        ("attach/fails", Verb.ATTACH, "action_failed"),
        ("detach/fails", Verb.DETACH, "action_failed"),
    ],
)
def test_what_fails_says_so(story: str, verb: Verb, code: str) -> None:
    end = volume_end(story, verb)
    assert isinstance(end, Failed)
    assert end.code == code


def test_a_volume_is_not_attached_before_it_shows_the_server() -> None:
    recording = Recording("attach/ok")
    want = volume_want(recording.at("accepted"), Verb.ATTACH, recording.server_id())
    reserved = next(look for look in recording.things() if look.moment == "reserved")
    assert isinstance(judge_volume(want, reserved), Working)


def test_an_attach_whose_host_was_killed_waits_for_the_host() -> None:
    recording = Recording("attach/killed")
    want = volume_want(recording.at("accepted"), Verb.ATTACH, recording.server_id())
    found = judge_volume(want, list(recording.things())[-1], delay=3600)
    assert found == Working("Waiting for the host: the volume is attaching.")


def test_a_volume_that_another_hand_detached_again_is_a_change() -> None:
    attached, detached = Recording("attach/ok"), Recording("detach/ok")
    want = volume_want(attached.at("accepted"), Verb.ATTACH, attached.server_id())
    entry = list(attached.things())[-1].action
    look = replace(list(detached.things())[-1], action=entry)
    assert isinstance(judge_volume(want, look), Changed)


def test_a_volume_that_an_extend_left_as_it_was_is_a_failure() -> None:
    recording = Recording("volume/ok")
    look = next(look for look in recording.things() if look.moment == "available")
    found = judge_volume(volume_want(recording.at("extend"), Verb.EXTEND, size_gb=2), look)
    assert isinstance(found, Failed)
    assert found.code == "volume_unchanged"


def test_a_volume_that_is_gone_is_what_a_delete_and_a_detach_want() -> None:
    exchange = Recording("volume/ok").at("accepted")
    ends = {verb: volume_verdict(volume_want(exchange, verb), Gone("id"), None, exchange.date) for verb in Verb}
    assert {verb for verb, end in ends.items() if end == Done()} == {Verb.DELETE, Verb.DETACH}
    assert isinstance(volume_verdict(volume_want(exchange, Verb.CREATE), None, None, exchange.date), Undecided)


def test_an_attach_that_failed_while_the_volume_stays_attaching_is_a_failure() -> None:
    recording = Recording("attach/killed")
    want = volume_want(recording.at("accepted"), Verb.ATTACH, recording.server_id())
    look = list(recording.things())[-1]
    assert isinstance(look.thing, VolumeRow)
    assert look.action
    failed = replace(look.action, message="Error")
    assert isinstance(volume_verdict(want, look.thing, failed, look.now + timedelta(hours=1)), Failed)


def snapshot(story: str) -> tuple[Recording, Want]:
    """Return a story of a snapshot, and the request in it."""
    recording = Recording(story)
    accepted = recording.at("accepted")
    return recording, Want(Verb.SNAPSHOT, accepted.date, accepted.headers["X-Openstack-Request-Id"])


def server_of(recording: Recording, moment: str) -> ServerRow:
    """Return the server as it was in that moment."""
    found = next(look.thing for look in recording.looks() if look.moment.startswith(moment))
    assert isinstance(found, ServerRow)
    return found


def judge_image(recording: Recording, want: Want, look: Look, server: ServerRow, delay: float = 0) -> Verdict:
    """Return the verdict of a caller who reads the entry of the action only when the verdict needs it."""
    assert isinstance(look.thing, ImageRow | Gone)
    now = look.now + timedelta(seconds=delay)
    found = image_verdict(want, look.thing, server, None, now)
    if isinstance(found, Undecided) and found.needs_action:
        entry = [action for exchange in recording.exchanges if (action := exchange.action())][-1]
        return image_verdict(want, look.thing, server, entry, now)
    return found


def test_a_snapshot_is_done_when_its_image_is_active_and_not_while_it_is_queued() -> None:
    recording, want = snapshot("snapshot/ok")
    busy = server_of(recording, "ACTIVE, image")
    found = [judge_image(recording, want, look, busy) for look in recording.things()]
    assert found[-1] == Done()
    assert all(isinstance(each, Working) for each in found[:-1])


@pytest.mark.parametrize(
    ("story", "code"),
    [
        ("snapshot/fails", "action_failed"),
        ("snapshot/over_quota", "action_failed"),
        ("snapshot/image_deleted", "image_gone"),
    ],
)
def test_a_snapshot_without_an_image_has_failed(story: str, code: str) -> None:
    recording, want = snapshot(story)
    end = judge_image(recording, want, list(recording.things())[-1], server_of(recording, "ACTIVE, idle"))
    assert isinstance(end, Failed)
    assert end.code == code


def test_a_snapshot_whose_host_was_killed_stays_queued_and_is_a_failure_after_half_a_minute() -> None:
    recording, want = snapshot("snapshot/killed")
    look, server = list(recording.things())[-1], server_of(recording, "ACTIVE, idle")
    assert isinstance(look.thing, ImageRow)
    assert look.thing.status == "queued"
    assert is_open(judge_image(recording, want, look, server))
    end = judge_image(recording, want, look, server, delay=40)
    assert isinstance(end, Failed)
    assert end.code == "action_interrupted"


def test_a_snapshot_of_a_server_that_somebody_deleted_has_failed() -> None:
    recording, want = snapshot("snapshot/server_deleted")
    look = next(look for look in Recording("snapshot/ok").things() if look.moment == "image")
    end = judge_image(recording, want, look, server_of(recording, "DELETED"))
    assert isinstance(end, Failed)
    assert end.code == "server_gone"


def test_an_image_that_is_not_listed_decides_nothing() -> None:
    recording, want = snapshot("snapshot/ok")
    now = recording.at("accepted").date
    assert isinstance(image_verdict(want, None, None, None, now), Undecided)


def test_an_image_that_somebody_deactivated_is_a_change() -> None:
    recording, want = snapshot("snapshot/ok")
    look = list(recording.things())[-1]
    assert isinstance(look.thing, ImageRow)
    off = replace(look, thing=replace(look.thing, status="deactivated"))
    assert isinstance(judge_image(recording, want, off, server_of(recording, "ACTIVE")), Changed)


def test_an_image_that_is_queued_although_all_ended_well_is_a_failure() -> None:
    recording, want = snapshot("snapshot/ok")
    look = next(look for look in recording.things() if look.moment == "queued")
    end = judge_image(recording, want, look, server_of(recording, "ACTIVE, idle"))
    assert isinstance(end, Failed)
    assert end.code == "image_error"


def test_an_image_that_lost_a_race_stays_queued() -> None:
    recording = Recording("snapshot/race")
    assert recording.at("createImage").status == 500
    assert [image["status"] for image in recording.at("found by its marks").body["images"]] == ["queued"]


def port_end(story: str, verb: Verb, moment: str) -> Verdict:
    """Return the first verdict on the port that is an end."""
    recording = Recording(story)
    accepted = recording.at(moment)
    want = Want(verb, accepted.date, accepted.headers["X-Openstack-Request-Id"])
    found = []
    for look in recording.things(moment):
        assert isinstance(look.thing, PortRow | Gone)
        found.append(port_verdict(want, recording.server_id(), look.thing, look.action))
    return next(each for each in found if not is_open(each))


def test_a_port_is_plugged_and_unplugged() -> None:
    assert port_end("interface/ok", Verb.PLUG, "attach") == Done()
    assert port_end("interface/ok", Verb.UNPLUG, "detach") == Done()


@pytest.mark.parametrize(("verb", "moment"), [(Verb.PLUG, "attach"), (Verb.UNPLUG, "detach")])
def test_a_port_that_the_host_fails_to_change_is_a_failure(verb: Verb, moment: str) -> None:
    end = port_end("interface/fails", verb, moment)
    assert isinstance(end, Failed)
    assert end.code == "action_failed"


def test_a_port_that_somebody_deleted_is_unplugged_and_can_no_longer_be_plugged() -> None:
    recording = Recording("interface/port_deleted")
    gone = next(iter(recording.things("somebody"))).thing
    assert isinstance(gone, Gone)
    want = Want(Verb.UNPLUG, recording.at("somebody").date)
    assert port_verdict(want, "server", gone, None) == Done()
    end = port_verdict(replace(want, verb=Verb.PLUG), "server", gone, None)
    assert isinstance(end, Failed)
    assert end.code == "port_gone"


def test_a_port_that_is_not_listed_decides_nothing_and_one_of_another_server_is_a_conflict() -> None:
    recording = Recording("interface/ok")
    plugged = next(look.thing for look in recording.things("attach") if look.moment == "ACTIVE, plugged")
    assert isinstance(plugged, PortRow)
    want = Want(Verb.PLUG, recording.at("attach").date)
    assert isinstance(port_verdict(want, "server", None, None), Undecided)
    end = port_verdict(want, "another server", plugged, None)
    assert isinstance(end, Failed)
    assert end.code == "conflict"


def test_a_port_that_is_not_plugged_yet_asks_for_the_entry_and_then_waits_for_the_host() -> None:
    recording = Recording("interface/ok")
    free = next(look.thing for look in recording.things("create") if look.moment == "port")
    assert isinstance(free, PortRow)
    want = Want(Verb.PLUG, recording.at("attach").date)
    first = port_verdict(want, "server", free, None)
    assert isinstance(first, Undecided)
    assert first.needs_action
    entry = ActionEntry("attach_interface", "req-1", "user", want.since, None)
    assert isinstance(port_verdict(want, "server", free, entry), Working)
