"""Verdicts on servers, on what a real cloud showed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from activities.backends.openstack.bodies import action_from
from activities.backends.openstack.records import ActionEntry, ActionEvent, DownServer, Fault, Gone, ServerRow, Size
from activities.backends.openstack.verdict import (
    Changed,
    Done,
    Failed,
    Undecided,
    Verb,
    Verdict,
    Want,
    Working,
    entry_of,
    verdict,
)
from tests.backends.openstack.recordings import Look, Recording

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
TINY, SMALL = Size(1, 512, 1), Size(1, 2048, 20)
STOP = Want(Verb.STOP, NOON, "req-1")
SERVER = ServerRow("id", "name", "ACTIVE", None, "active", TINY, NOON, NOON, is_from_list=True)


def want_of(recording: Recording, verb: Verb, moment: str = "accepted", size: Size | None = None) -> Want:
    """Return the request that the story sends in that moment."""
    exchange = recording.at(moment)
    return Want(verb, exchange.date, exchange.headers["X-Openstack-Request-Id"], size)


def judge(want: Want, look: Look, delay: float = 0) -> Verdict:
    """Return the verdict of a caller who reads the entry of the action only when the verdict needs it."""
    assert isinstance(look.thing, ServerRow | DownServer | Gone)
    now = look.now + timedelta(seconds=delay)
    found = verdict(want, look.thing, None, now)
    if isinstance(found, Undecided) and found.needs_action:
        return verdict(want, look.thing, look.action, now)
    return found


def verdicts(story: str, verb: Verb, moment: str = "accepted", size: Size | None = None) -> list[Verdict]:
    """Return the verdicts on all that the story shows after the request."""
    recording = Recording(story)
    want = want_of(recording, verb, moment, size)
    return [judge(want, look) for look in recording.looks(moment)]


def is_open(found: Verdict) -> bool:
    """Whether one has to look again."""
    return isinstance(found, Working | Undecided)


@pytest.mark.parametrize(
    ("story", "verb", "moment", "size"),
    [
        ("create/ok", Verb.CREATE, "accepted", TINY),
        ("create/volume_backed", Verb.CREATE, "accepted", None),
        ("stop/ok", Verb.STOP, "accepted", None),
        ("stop/host_away", Verb.STOP, "accepted", None),
        ("stop/killed", Verb.STOP, "accepted", None),
        ("start/ok", Verb.START, "accepted", None),
        ("reboot/soft_ok", Verb.REBOOT, "accepted", None),
        ("reboot/hard_ok", Verb.REBOOT, "accepted", None),
        ("resize/ok_confirm", Verb.CONFIRM, "confirm accepted", SMALL),
        ("resize/confirm_host_away", Verb.CONFIRM, "confirm accepted", SMALL),
        ("resize/ok_revert", Verb.REVERT, "revert accepted", TINY),
        ("rebuild/ok", Verb.REBUILD, "accepted", None),
        ("delete/active", Verb.DELETE, "accepted", None),
        ("delete/building", Verb.DELETE, "accepted", None),
        ("delete/host_away", Verb.DELETE, "accepted", None),
    ],
)
def test_what_succeeds_is_done_when_it_is_over_and_not_before(
    story: str, verb: Verb, moment: str, size: Size | None
) -> None:
    found = verdicts(story, verb, moment, size)
    first_end = next(number for number, each in enumerate(found) if not is_open(each))
    assert found[first_end] == Done()
    assert first_end >= 1


@pytest.mark.parametrize("story", ["resize/ok_confirm", "resize/ok_revert"])
def test_a_resize_is_done_when_it_can_be_confirmed(story: str) -> None:
    recording = Recording(story)
    want = want_of(recording, Verb.RESIZE, size=SMALL)
    found = [(look.moment, judge(want, look)) for look in recording.looks()]
    done = [moment for moment, each in found if each == Done()]
    assert done[0] == "VERIFY_RESIZE, idle"
    assert all(is_open(each) for moment, each in found if moment.startswith("RESIZE"))


@pytest.mark.parametrize(
    ("story", "verb", "moment", "code", "words"),
    [
        ("create/no_valid_host", Verb.CREATE, "accepted", "no_valid_host", "No valid host was found."),
        ("create/spawn_fails", Verb.CREATE, "accepted", "build_failed", "Exceeded maximum number of retries"),
        ("create/killed", Verb.CREATE, "accepted", "server_error", "its host failed while it worked on this"),
        ("stop/fails", Verb.STOP, "accepted", "action_failed", "does not tell why"),
        ("start/fails", Verb.START, "accepted", "action_failed", "does not tell why"),
        ("resize/no_valid_host", Verb.RESIZE, "accepted", "no_valid_host", "keeps its old one"),
        ("resize/source_fails", Verb.RESIZE, "accepted", "server_error", "migrate_disk_and_power_off told to fail"),
        ("resize/destination_fails", Verb.RESIZE, "accepted", "server_error", "finish_migration told to fail"),
        ("resize/revert_fails", Verb.REVERT, "revert accepted", "server_error", "finish_revert_migration told to"),
        ("rebuild/fails", Verb.REBUILD, "accepted", "server_error", "spawn told to fail"),
        ("delete/fails", Verb.DELETE, "accepted", "server_error", "destroy told to fail"),
        ("other_hand/deleted", Verb.STOP, "accepted", "server_gone", "somebody else deleted it"),
    ],
)
def test_what_fails_says_so_with_its_action_time_and_request(
    story: str, verb: Verb, moment: str, code: str, words: str
) -> None:
    found = verdicts(story, verb, moment)
    end = next(each for each in found if not is_open(each))
    assert isinstance(end, Failed)
    assert end.code == code
    assert words in end.message
    if code != "server_gone":
        assert f"(Action {verb} of 2026-11-" in end.message
        assert f" UTC, request {Recording(story).at(moment).headers['X-Openstack-Request-Id']}.)" in end.message


@pytest.mark.parametrize("story", ["reboot/soft_fails", "reboot/hard_fails"])
def test_a_reboot_that_fails_cannot_be_told_from_one_that_does_not(story: str) -> None:
    assert verdicts(story, Verb.REBOOT)[-1] == Done()


@pytest.mark.parametrize(
    ("story", "verb"), [("resize/killed_in_resize_migrating", Verb.RESIZE), ("reboot/killed", Verb.REBOOT)]
)
def test_an_entry_that_nobody_closes_is_a_failure_after_half_a_minute(story: str, verb: Verb) -> None:
    recording = Recording(story)
    want, look = want_of(recording, verb), list(recording.looks())[-1]
    assert all(is_open(each) for each in verdicts(story, verb))
    assert is_open(judge(want, look, delay=20))
    end = judge(want, look, delay=40)
    assert isinstance(end, Failed)
    assert end.code == "action_interrupted"


@pytest.mark.parametrize(
    ("verb", "event"),
    [
        (Verb.RESIZE, "compute_prep_resize"),
        (Verb.REVERT, "compute_revert_resize"),
        (Verb.REBUILD, "rebuild_server"),
    ],
)
def test_an_action_whose_message_to_the_next_host_was_lost_did_not_take_place(verb: Verb, event: str) -> None:
    entry = ActionEntry(verb, "req-1", "user", NOON, None, (ActionEvent(event, NOON, NOON, "Success"),))
    server = replace(SERVER, status="VERIFY_RESIZE") if verb is Verb.REVERT else SERVER
    want = Want(verb, NOON, "req-1")
    assert is_open(verdict(want, server, entry, NOON + timedelta(seconds=20)))
    end = verdict(want, server, entry, NOON + timedelta(seconds=40))
    assert isinstance(end, Failed)
    assert end.code == "action_interrupted"


def test_a_resize_whose_host_died_at_its_end_waits_for_the_host_and_says_so() -> None:
    recording = Recording("resize/killed_in_resize_finish")
    want, look = want_of(recording, Verb.RESIZE), list(recording.looks())[-1]
    found = judge(want, look, delay=3600)
    assert isinstance(found, Working)
    assert found.waits_for.startswith("Waiting for the host: the server is RESIZE, resize_finish since 2026-")


def test_a_confirm_waits_for_its_host_for_ever_because_it_has_no_task_state() -> None:
    recording = Recording("resize/confirm_host_away")
    want = want_of(recording, Verb.CONFIRM, "confirm accepted")
    look = next(iter(recording.looks("confirm accepted")))
    found = judge(want, look, delay=3600)
    assert isinstance(found, Working)
    assert found.waits_for.startswith(
        "Waiting for the host: the server is still VERIFY_RESIZE. (Action confirmResize of"
    )


@pytest.mark.parametrize(
    ("story", "verb", "words"),
    [
        ("other_hand/stopped", Verb.REBOOT, "the server is SHUTOFF"),
        ("other_hand/resized", Verb.START, "the server is VERIFY_RESIZE"),
    ],
)
def test_what_somebody_else_did_afterwards_is_no_failure(story: str, verb: Verb, words: str) -> None:
    found = verdicts(story, verb)
    end = next(each for each in found if not is_open(each))
    assert isinstance(end, Changed)
    assert words in end.message


def test_a_server_that_somebody_else_put_into_error_has_failed_and_says_that_this_ended_well() -> None:
    recording = Recording("other_hand/error")
    look = list(recording.looks())[-1]
    assert isinstance(look.thing, ServerRow)
    read_by_its_id = replace(look, thing=replace(look.thing, is_from_list=False))
    end = judge(want_of(recording, Verb.STOP), read_by_its_id)
    assert isinstance(end, Failed)
    assert "this ended well" in end.message


def test_a_resize_that_somebody_else_confirmed_is_a_change() -> None:
    recording = Recording("resize/ok_confirm")
    want, look = want_of(recording, Verb.RESIZE, size=SMALL), list(recording.looks())[-1]
    found = judge(want, look)
    assert isinstance(found, Changed)
    assert "already confirmed" in found.message


def test_a_confirm_that_met_a_revert_is_a_change() -> None:
    look = list(Recording("resize/ok_revert").looks("revert accepted"))[-1]
    assert isinstance(judge(Want(Verb.CONFIRM, NOON, size=SMALL), look), Changed)


def test_a_rebuild_from_another_image_than_the_wanted_one_is_a_change() -> None:
    look = list(Recording("rebuild/ok").looks())[-1]
    want = want_of(Recording("rebuild/ok"), Verb.REBUILD)
    assert isinstance(judge(replace(want, image_id="other"), look), Changed)


def test_a_server_that_boots_from_a_volume_shows_no_image_after_its_rebuild() -> None:
    want = Want(Verb.REBUILD, NOON, "req-1", image_id="wanted")
    ended = ActionEvent("compute_rebuild_instance", NOON, NOON, "Success")
    entry = ActionEntry("rebuild", "req-1", "user", NOON, None, (ended,))
    assert verdict(want, SERVER, entry, NOON) == Done()


def test_a_build_without_a_task_state_is_not_idle() -> None:
    recording = Recording("create/ok")
    look = next(look for look in recording.looks() if look.moment == "BUILD, idle")
    assert isinstance(judge(want_of(recording, Verb.CREATE), look), Working)


def test_a_row_that_is_missing_or_of_a_down_cell_decides_nothing() -> None:
    for server in (None, DownServer("id"), replace(SERVER, status="UNKNOWN")):
        assert isinstance(verdict(STOP, server, None, NOON + timedelta(days=1)), Undecided)


def test_a_server_that_is_gone_is_what_a_delete_wants() -> None:
    delete = Want(Verb.DELETE, NOON)
    assert verdict(delete, Gone("id"), None, NOON) == Done()
    assert verdict(delete, replace(SERVER, status="SOFT_DELETED"), None, NOON) == Done()


def test_a_fault_from_before_the_request_is_not_its_reason() -> None:
    old = Fault(500, "long ago", NOON - timedelta(hours=1))
    server = replace(SERVER, status="ERROR", fault=old)
    first = verdict(STOP, server, None, NOON)
    assert isinstance(first, Undecided)
    assert first.needs_action
    entry = ActionEntry("stop", "req-1", "user", NOON, "Error")
    end = verdict(STOP, server, entry, NOON)
    assert isinstance(end, Failed)
    assert "long ago" not in end.message


def test_an_error_in_a_list_waits_for_the_server_itself_to_show_its_fault() -> None:
    found = verdict(Want(Verb.CREATE, NOON), replace(SERVER, status="ERROR"), None, NOON)
    assert isinstance(found, Undecided)
    assert not found.needs_action


def test_the_entry_is_read_only_when_the_row_does_not_decide() -> None:
    for server in (replace(SERVER, status="SHUTOFF"), replace(SERVER, task_state="powering-off")):
        found = verdict(STOP, server, None, NOON)
        assert not (isinstance(found, Undecided) and found.needs_action)
    found = verdict(STOP, SERVER, None, NOON)
    assert isinstance(found, Undecided)
    assert found.needs_action


def test_a_delete_whose_server_is_still_there_after_half_a_minute_asks_for_the_entry_and_waits() -> None:
    delete = Want(Verb.DELETE, NOON)
    assert isinstance(verdict(delete, SERVER, None, NOON + timedelta(seconds=20)), Working)
    found = verdict(delete, SERVER, None, NOON + timedelta(seconds=40))
    assert isinstance(found, Undecided)
    assert found.needs_action
    began = ActionEvent("compute_terminate_instance", NOON, None, None)
    entry = ActionEntry("delete", "req-1", "user", NOON, None, (began,))
    assert isinstance(verdict(delete, SERVER, entry, NOON + timedelta(hours=1)), Working)
    failed = verdict(delete, SERVER, replace(entry, message="Error"), NOON)
    assert isinstance(failed, Failed)


def test_the_entry_of_a_lost_answer_is_found_by_verb_user_and_time() -> None:
    recording = Recording("other_hand/stopped")
    entries = [action_from(body) for body in recording.at("actions").body["instanceActions"]]
    reboot, operators_stop = want_of(recording, Verb.REBOOT), want_of(recording, Verb.STOP)
    user_id = next(entry.user_id for entry in entries if entry.action == "create")
    earlier = replace(reboot, since=reboot.since - timedelta(seconds=1))
    found = entry_of(earlier, entries, user_id)
    assert found
    assert found.request_id == reboot.request_id
    assert entry_of(replace(reboot, since=reboot.since + timedelta(hours=1)), entries, user_id) is None
    assert entry_of(operators_stop, entries, user_id) is None
