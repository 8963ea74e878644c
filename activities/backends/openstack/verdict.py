"""Is it over? What the rows of the cloud say about a request that it has accepted. Pure functions.

A server tells its own end badly. A stop, a start or a resize that fails leaves the server as it was, without a fault:
only the entry of the action says that it failed. If nova-compute is killed, the entry is never closed. A row that is
missing from a list means nothing, and so does one of a cell that is down.

Nova sets the task state before it accepts a request. So a row that was read after the acceptance, and has no task
state, shows the end. The exceptions: a confirm sets none, a build has none between two of its steps, and a delete
during a build may show the finished build for a moment.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from activities.backends.openstack.records import ActionEntry, DownServer, Fault, Gone, ServerRow, Size
from activities.backends.openstack.slow import CELL_IS_DOWN, time_of, work_on

IDLE_LIMIT: Final = timedelta(seconds=30)
UNKNOWN: Final = "UNKNOWN"


class Verb(StrEnum):
    """What was asked of the cloud, as the entries of actions name it; volumes have entries only where a server has."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    RESIZE = "resize"
    CONFIRM = "confirmResize"
    REVERT = "revertResize"
    REBUILD = "rebuild"
    SNAPSHOT = "createImage"
    ATTACH = "attach_volume"
    DETACH = "detach_volume"
    PLUG = "attach_interface"
    UNPLUG = "detach_interface"
    DELETE = "delete"
    EXTEND = "extend"


STABLE: Final = frozenset({"ACTIVE", "SHUTOFF"})
STATUSES: Final = {
    Verb.CREATE: frozenset({"ACTIVE"}),
    Verb.START: frozenset({"ACTIVE"}),
    Verb.STOP: frozenset({"SHUTOFF"}),
    Verb.REBOOT: frozenset({"ACTIVE"}),
    Verb.RESIZE: frozenset({"VERIFY_RESIZE"}),
    Verb.CONFIRM: STABLE,
    Verb.REVERT: STABLE,
    Verb.REBUILD: STABLE,
    Verb.DELETE: frozenset({"DELETED", "SOFT_DELETED"}),
}
"""The statuses in which a server has what was asked."""
NEEDS_PROOF: Final = {Verb.REBOOT, Verb.REBUILD}
"""These end in the status in which they began, so only the entry of the action tells that they took place."""
LAST_EVENTS: Final = {
    Verb.RESIZE: "compute_finish_",
    Verb.REVERT: "compute_finish_revert_",
    Verb.REBUILD: "compute_rebuild_",
}
"""How the names of their last events begin. Until then these go from one host to the next by messages, which may be
lost. So even if every event that began has ended, the action has not, unless it had this one."""
MAY_LAG: Final = {Verb.CONFIRM, Verb.DELETE}
"""After the acceptance of these, an idle row may still be the one from before."""
CODES_OF_FAULTS: Final = {
    "No valid host was found": "no_valid_host",
    "Exceeded maximum number of retries": "build_failed",
    "No fixed IP addresses available": "no_addresses",
}


@dataclass(frozen=True, slots=True)
class Want:
    """A request that the cloud has accepted.

    `since` is the cloud's own time of the acceptance or shortly before, `request_id` names the entry of the action.
    `size` and `image_id` are what a resize, its confirm or revert, and a rebuild should leave, if they are known.
    """

    verb: Verb
    since: datetime
    request_id: str | None = None
    size: Size | None = None
    image_id: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """It has what was asked."""


@dataclass(frozen=True, slots=True)
class Working:
    """The cloud is still working on it; `waits_for` says in a sentence what it waits for."""

    waits_for: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It is over, and the thing does not have what was asked."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Changed:
    """It took place, and then somebody else changed the thing again."""

    message: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """What is known says neither. `needs_action`: the entry of the action would say more."""

    message: str
    needs_action: bool = False


Verdict = Done | Working | Failed | Changed | Undecided


def verdict(  # noqa: PLR0911 - each is a row of the table
    want: Want, server: ServerRow | DownServer | Gone | None, action: ActionEntry | None, now: datetime
) -> Verdict:
    """Return whether a request for a server is over, and how it ended.

    `server` was read after the acceptance, `now` is the cloud's own time of that answer. `action` is None if it was not
    read, or is not there: a verdict rarely needs it, and then says so.
    """
    match server:
        case None:
            return Undecided("The cloud's lists do not show the server, which means nothing yet.")
        case DownServer():
            return Undecided(CELL_IS_DOWN)
        case Gone():
            return _gone(want)
    if server.status == UNKNOWN:
        return Undecided("The cloud shows the server in status UNKNOWN.")
    if server.status in STATUSES[Verb.DELETE]:
        return _gone(want)
    if not server.is_idle:
        return Working(work_on(server, now))
    if server.status == "ERROR":
        return _error(want, server, action)
    if server.status in STATUSES[want.verb]:
        return _wanted(want, server, action, now)
    return _other(want, server, action, now)


def entry_of(want: Want, entries: Iterable[ActionEntry], user_id: str) -> ActionEntry | None:
    """Return the entry of a request whose answer was lost: the first of this verb and of our own user since then."""
    ours = [entry for entry in entries if entry.action == want.verb and entry.user_id == user_id]
    return min((entry for entry in ours if entry.started_at >= want.since), key=_start, default=None)


def _failure(want: Want, action: ActionEntry) -> Failed:
    """Return the failure that an entry shows. The cloud tells its reason only to its operators."""
    reached_a_host = any(event.name.startswith("compute_") for event in action.events)
    if want.verb is Verb.RESIZE and not reached_a_host:
        message = "No valid host was found for the new size; the server keeps its old one."
        return Failed("no_valid_host", f"{message} {_which(want, action)}")
    return Failed("action_failed", f"The cloud failed to do it, and does not tell why. {_which(want, action)}")


def _interruption(want: Want, action: ActionEntry) -> Failed:
    """Return the failure of an action whose entry nobody will ever close."""
    message = f"The host stopped while it worked on this, and does not go on. {_which(want, action)}"
    return Failed("action_interrupted", message)


def by_action(want: Want, action: ActionEntry | None, idle_since: datetime, now: datetime, look: str) -> Verdict:
    """Return the verdict on a thing that is idle and does not have what was asked.

    `idle_since` is the time of its last change. `look` is a clause that says what it looks like.
    """
    if action is None:
        return Undecided(f"It is over, and {look}.", needs_action=True)
    if action.has_failed:
        return _failure(want, action)
    if not _has_ended(want, action):
        # The row and the entry are two answers, so an entry may be open a moment longer.
        if now - max(idle_since, want.since) < IDLE_LIMIT:
            return Undecided(f"It seems to be over, and {look}; the cloud has not closed its entry.", needs_action=True)
        return _interruption(want, action)
    return Changed(f"It took place, and afterwards something else happened: {look}. {_which(want, action)}")


def _has_ended(want: Want, action: ActionEntry) -> bool:
    last = LAST_EVENTS.get(want.verb, "")
    return action.has_ended and any(event.name.startswith(last) for event in action.events)


def _gone(want: Want) -> Verdict:
    if want.verb is Verb.DELETE:
        return Done()
    return Failed("server_gone", "The cloud no longer has the server: somebody else deleted it.")


def _error(want: Want, server: ServerRow, action: ActionEntry | None) -> Verdict:
    fault = server.fault
    # The fault may be one of long ago. Times are whole seconds, so one second may be lost.
    if fault and fault.created_at >= want.since - timedelta(seconds=1):
        return Failed(code_of(fault), f"{fault.message.rstrip('.')}. {_which(want, action)}")
    if fault is None and server.is_from_list:
        return Undecided("The server is in ERROR, and a list may leave out its fault.")
    if action is None:
        return Undecided("The server is in ERROR, without a fault of this time.", needs_action=True)
    if action.has_failed:
        reason = "The server is in ERROR, and the cloud does not tell why."
    # The entry of a build ends well even if the build failed.
    elif action.has_ended and want.verb is not Verb.CREATE:
        reason = "The server is in ERROR, although this ended well: perhaps somebody else put it there."
    else:
        reason = "The server is in ERROR: its host failed while it worked on this."
    return Failed("server_error", f"{reason} {_which(want, action)}")


def _wanted(want: Want, server: ServerRow, action: ActionEntry | None, now: datetime) -> Verdict:
    if want.verb in NEEDS_PROOF:
        found = by_action(want, action, server.updated_at, now, f"the server is {server.status}")
        if not isinstance(found, Changed):
            return found
    if want.size and want.size != server.size:
        return Changed("It took place, but the server has another size: somebody else ended its resize.")
    # A server that boots from a volume shows no image.
    if want.image_id and server.image_id and want.image_id != server.image_id:
        return Changed("It took place, and afterwards somebody else rebuilt the server from another image.")
    return Done()


def _other(want: Want, server: ServerRow, action: ActionEntry | None, now: datetime) -> Verdict:
    if want.verb in MAY_LAG and not (action and action.has_failed):
        is_late = now - max(server.updated_at, want.since) >= IDLE_LIMIT
        if not is_late:
            return Working(f"Waiting for the host: the server is still {server.status}.")
        if action is None:
            return Undecided(f"The server is still {server.status}.", needs_action=True)
        # Without a task state, a host that is away or slow looks like one that was interrupted.
        if not action.has_ended:
            return Working(f"Waiting for the host: the server is still {server.status}. {_which(want, action)}")
    has_ended = action is not None and _has_ended(want, action) and not action.has_failed
    if want.verb is Verb.RESIZE and server.size == want.size and has_ended:
        return Changed("The server has its new size, and somebody else has already confirmed that.")
    return by_action(want, action, server.updated_at, now, f"the server is {server.status}")


def code_of(fault: Fault) -> str:
    """Return the code that programs know a fault by."""
    return next((code for words, code in CODES_OF_FAULTS.items() if words in fault.message), "server_error")


def _which(want: Want, action: ActionEntry | None) -> str:
    """Return a sentence that lets an operator of the cloud find the action in its logs."""
    at = action.started_at if action else want.since
    request_id = action.request_id if action else want.request_id
    return f"(Action {want.verb} of {time_of(at)}, request {request_id or 'unknown'}.)"


def _start(entry: ActionEntry) -> datetime:
    return entry.started_at
