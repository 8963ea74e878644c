"""The table of states as the specification has it, written down a second time and independently of domain.lifecycle."""

from dataclasses import dataclass

UNCHANGED = "unchanged"
AS_BEFORE = "as before"
ERROR_OR_UNDECIDED = "ERROR, or VERIFY_RESIZE where it was canceled before anything was done"
ERROR_UNLESS_INTACT = "ERROR, or as before where the server is as it was"

STATUSES = ["BUILDING", "ACTIVE", "SHUTOFF", "REBOOTING", "RESIZING", "VERIFY_RESIZE", "ERROR", "DELETING", "DELETED"]


@dataclass(frozen=True)
class Row:
    """One row: from where, the status while it runs, the task states in order, where it ends, what failure leaves."""

    sources: tuple[str, ...]
    while_running: str
    task_states: tuple[str, ...]
    ends: str
    failure: str


def _row(sources: str, while_running: str, task_states: str, ends: str, failure: str) -> Row:
    return Row(tuple(sources.split()), while_running, tuple(task_states.split()), ends, failure)


_RESIZE = "resize_prep resize_migrating resize_finish"
_ANY = "BUILDING ACTIVE SHUTOFF REBOOTING RESIZING VERIFY_RESIZE ERROR"  # from DELETING and DELETED it is a repeat

SPECIFIED = {
    "create": _row("", "BUILDING", "scheduling networking spawning", "ACTIVE", "ERROR"),
    "start": _row("SHUTOFF", UNCHANGED, "powering_on", "ACTIVE", AS_BEFORE),
    "stop": _row("ACTIVE ERROR", UNCHANGED, "powering_off", "SHUTOFF", AS_BEFORE),
    "reboot-soft": _row("ACTIVE", "REBOOTING", "rebooting", "ACTIVE", ERROR_UNLESS_INTACT),
    "reboot-hard": _row("ACTIVE SHUTOFF ERROR", "REBOOTING", "rebooting_hard", "ACTIVE", ERROR_UNLESS_INTACT),
    "resize": _row("ACTIVE SHUTOFF", "RESIZING", _RESIZE, "VERIFY_RESIZE", ERROR_UNLESS_INTACT),
    "confirm-resize": _row("VERIFY_RESIZE", "VERIFY_RESIZE", "resize_confirming", AS_BEFORE, ERROR_OR_UNDECIDED),
    "revert-resize": _row("VERIFY_RESIZE", "VERIFY_RESIZE", "resize_reverting", AS_BEFORE, ERROR_OR_UNDECIDED),
    "snapshot": _row("ACTIVE SHUTOFF", UNCHANGED, "image_snapshot image_uploading", AS_BEFORE, AS_BEFORE),
    "restore": _row("ACTIVE SHUTOFF", UNCHANGED, "restoring", AS_BEFORE, "ERROR"),
    "attach-volume": _row("ACTIVE SHUTOFF", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
    "detach-volume": _row("ACTIVE SHUTOFF", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
    "attach-interface": _row("ACTIVE SHUTOFF", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
    "detach-interface": _row("ACTIVE SHUTOFF", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
    "delete": _row(_ANY, "DELETING", "deleting", "DELETED", "ERROR"),
    "delete-snapshot": _row("", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
    "create-volume": _row("", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
    "delete-volume": _row("", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
}
OF_NO_VM = {"delete-snapshot", "create-volume", "delete-volume"}  # they neither need a VM at rest nor end with one
NOT_WHILE_ATTACHING = {"resize", "snapshot", "restore"}


def _words(text: str) -> list[str]:
    return text.split()


RESOURCE_STATUSES = {
    "snapshot": _words("CREATING AVAILABLE RESTORING DELETING DELETED ERROR"),
    "volume": _words("CREATING AVAILABLE ATTACHING IN_USE DETACHING DELETING DELETED ERROR"),
    "attachment": _words("ATTACHING ATTACHED DETACHING"),
    "interface": _words("ATTACHING ATTACHED DETACHING"),
}


@dataclass(frozen=True)
class Turn:
    """What an action does to a resource: from where (nowhere: it makes it), while it runs, after it; None: gone.

    `intact` is what a failure leaves where the resource is seen to be as it was, if that is another than `failure`.
    """

    sources: tuple[str, ...]
    while_running: str
    ends: str | None
    failure: str | None
    intact: str | None = None


def _turn(sources: str, while_running: str, ends: str | None, failure: str | None, intact: str | None = None) -> Turn:
    return Turn(tuple(sources.split()), while_running, ends, failure, intact)


TURNS = {
    "create": {"interface": _turn("", "ATTACHING", "ATTACHED", None, "ATTACHED")},
    "snapshot": {"snapshot": _turn("", "CREATING", "AVAILABLE", "ERROR")},
    "restore": {"snapshot": _turn("AVAILABLE", "RESTORING", "AVAILABLE", "AVAILABLE")},
    "attach-volume": {
        "volume": _turn("AVAILABLE", "ATTACHING", "IN_USE", "AVAILABLE"),
        "attachment": _turn("", "ATTACHING", "ATTACHED", None),
    },
    "detach-volume": {
        "volume": _turn("IN_USE", "DETACHING", "AVAILABLE", "IN_USE"),
        "attachment": _turn("ATTACHED", "DETACHING", None, "ATTACHED"),
    },
    "attach-interface": {"interface": _turn("", "ATTACHING", "ATTACHED", None)},
    "detach-interface": {"interface": _turn("ATTACHED", "DETACHING", None, "ATTACHED")},
    "delete-snapshot": {"snapshot": _turn("AVAILABLE ERROR", "DELETING", "DELETED", "ERROR", "AVAILABLE")},
    "create-volume": {"volume": _turn("", "CREATING", "AVAILABLE", "ERROR")},
    "delete-volume": {"volume": _turn("AVAILABLE ERROR", "DELETING", "DELETED", "ERROR", "AVAILABLE")},
}

# What a delete of the VM does to each resource of it, by kind and status; what is not here it leaves alone.
_GOES, _IS_LET_GO = _turn("", "DETACHING", None, "ATTACHED"), _turn("", "DETACHING", "AVAILABLE", "IN_USE")
TURNS_OF_VM_DELETE = {
    **{("snapshot", status): _turn("", "DELETING", "DELETED", "ERROR") for status in ("CREATING", "ERROR")},
    ("snapshot", "RESTORING"): _turn("", "AVAILABLE", "AVAILABLE", "AVAILABLE"),
    **{("volume", status): _IS_LET_GO for status in ("ATTACHING", "IN_USE", "DETACHING")},
    **{(kind, status): _GOES for kind in ("attachment", "interface") for status in RESOURCE_STATUSES[kind]},
}
# A volume that is to go with its VM; one whose detach was accepted before the delete was asked to stay.
DELETED_ON_TERMINATION = _turn("", "DELETING", "DELETED", "IN_USE")

RESTING = {"ACTIVE", "SHUTOFF", "VERIFY_RESIZE", "ERROR", "DELETED"}
TASK_STATES = list(dict.fromkeys(state for row in SPECIFIED.values() for state in row.task_states))


def specified_states() -> set[tuple[str, str | None]]:
    """Every pair of status and task state that the specification lets a VM be in."""
    states: set[tuple[str, str | None]] = {(status, None) for status in RESTING}
    for row in SPECIFIED.values():
        for status in row.sources if row.while_running == UNCHANGED else (row.while_running,):
            states |= {(status, task_state) for task_state in row.task_states}
    return states


def specified_to_allow(
    action: str, status: str, task_state: str | None, *, launched: bool, attaching: bool = False
) -> bool:
    """Whether the specification lets the action begin: delete at any time, all else on a VM at rest that launched."""
    if status not in SPECIFIED[action].sources or (attaching and action in NOT_WHILE_ATTACHING):
        return False
    return action == "delete" or (task_state is None and launched)
