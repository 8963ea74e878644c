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
}

RESTING = {"ACTIVE", "SHUTOFF", "VERIFY_RESIZE", "ERROR", "DELETED"}
TASK_STATES = list(dict.fromkeys(state for row in SPECIFIED.values() for state in row.task_states))


def specified_states() -> set[tuple[str, str | None]]:
    """Every pair of status and task state that the specification lets a VM be in."""
    states: set[tuple[str, str | None]] = {(status, None) for status in RESTING}
    for row in SPECIFIED.values():
        for status in row.sources if row.while_running == UNCHANGED else (row.while_running,):
            states |= {(status, task_state) for task_state in row.task_states}
    return states


def specified_to_allow(action: str, status: str, task_state: str | None, *, launched: bool) -> bool:
    """Whether the specification lets the action begin: delete at any time, all else on a VM at rest that launched."""
    if status not in SPECIFIED[action].sources:
        return False
    return action == "delete" or (task_state is None and launched)
