"""The specification of the lifecycle table: a second copy, written independently of domain/rules."""

from dataclasses import dataclass

UNCHANGED = "unchanged"
AS_BEFORE = "as before"
ERROR_UNLESS_RUNNING = "ERROR, or as before if the server runs"
ERROR_UNLESS_UNCHANGED = "ERROR, or as before if the server is unchanged"
ERROR_UNLESS_UNDECIDED = "ERROR, or VERIFY_RESIZE if the server is unchanged"

STATUSES = ["BUILDING", "ACTIVE", "SHUTOFF", "REBOOTING", "RESIZING", "VERIFY_RESIZE", "ERROR", "DELETING", "DELETED"]


@dataclass(frozen=True)
class Row:
    """One row: allowed statuses, status while it runs, task states in order, status after success, after failure."""

    sources: tuple[str, ...]
    while_running: str
    task_states: tuple[str, ...]
    ends: str
    failure: str


def _row(sources: str, while_running: str, task_states: str, ends: str, failure: str) -> Row:
    return Row(tuple(sources.split()), while_running, tuple(task_states.split()), ends, failure)


_RESIZE = "resize_prep resize_migrating resize_finish"
_ANY = "BUILDING ACTIVE SHUTOFF REBOOTING RESIZING VERIFY_RESIZE ERROR"  # in DELETING or DELETED a delete is a repeat

SPECIFIED = {
    "create": _row("", "BUILDING", "scheduling networking spawning", "ACTIVE", "ERROR"),
    "start": _row("SHUTOFF", UNCHANGED, "powering_on", "ACTIVE", AS_BEFORE),
    "stop": _row("ACTIVE ERROR", UNCHANGED, "powering_off", "SHUTOFF", AS_BEFORE),
    "reboot-soft": _row("ACTIVE", "REBOOTING", "rebooting", "ACTIVE", ERROR_UNLESS_RUNNING),
    "reboot-hard": _row("ACTIVE SHUTOFF ERROR", "REBOOTING", "rebooting_hard", "ACTIVE", ERROR_UNLESS_RUNNING),
    "resize": _row("ACTIVE SHUTOFF", "RESIZING", _RESIZE, "VERIFY_RESIZE", ERROR_UNLESS_UNCHANGED),
    "confirm-resize": _row("VERIFY_RESIZE", "VERIFY_RESIZE", "resize_confirming", AS_BEFORE, ERROR_UNLESS_UNDECIDED),
    "revert-resize": _row("VERIFY_RESIZE", "VERIFY_RESIZE", "resize_reverting", AS_BEFORE, ERROR_UNLESS_UNDECIDED),
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
    "extend-volume": _row("", UNCHANGED, "", AS_BEFORE, AS_BEFORE),
}
OF_NO_VM = {"delete-snapshot", "create-volume", "delete-volume", "extend-volume"}  # they need no idle VM
NOT_WHILE_ATTACHING = {"resize", "snapshot", "restore"}
UNDOABLE = {"create", "resize", "snapshot", "attach-volume", "attach-interface", "create-volume"}  # until their end


def _words(text: str) -> list[str]:
    return text.split()


RESOURCE_STATUSES = {
    "snapshot": _words("CREATING AVAILABLE RESTORING DELETING DELETED ERROR"),
    "volume": _words("CREATING AVAILABLE ATTACHING IN_USE DETACHING EXTENDING DELETING DELETED ERROR"),
    "attachment": _words("ATTACHING ATTACHED DETACHING"),
    "interface": _words("ATTACHING ATTACHED DETACHING"),
}


@dataclass(frozen=True)
class ChangeRow:
    """A change of a resource: allowed statuses (none: it is created), statuses during and after it (None: it is gone).

    `still_there` is its status after a failure if the cloud still has it and that differs from `failure`.
    """

    sources: tuple[str, ...]
    while_running: str
    ends: str | None
    failure: str | None
    still_there: str | None = None

    def resolved(self, status: str | None) -> str | None:
        """Return the status of a resource that was in the first of the allowed statuses before the change."""
        return self.sources[0] if status == AS_BEFORE else status


def _change(
    sources: str, while_running: str, ends: str | None, failure: str | None, still_there: str | None = None
) -> ChangeRow:
    return ChangeRow(tuple(sources.split()), while_running, ends, failure, still_there)


CHANGES = {
    "create": {
        "interface": _change("", "ATTACHING", "ATTACHED", None, "ATTACHED"),
        "volume": _change("AVAILABLE", "ATTACHING", "IN_USE", "AVAILABLE", "IN_USE"),  # that it boots from
        "attachment": _change("", "ATTACHING", "ATTACHED", None, "ATTACHED"),
    },
    "snapshot": {"snapshot": _change("", "CREATING", "AVAILABLE", "ERROR")},
    "restore": {"snapshot": _change("AVAILABLE", "RESTORING", "AVAILABLE", "AVAILABLE")},
    "attach-volume": {
        "volume": _change("AVAILABLE", "ATTACHING", "IN_USE", "AVAILABLE"),
        "attachment": _change("", "ATTACHING", "ATTACHED", None),
    },
    "detach-volume": {
        "volume": _change("IN_USE", "DETACHING", "AVAILABLE", "IN_USE"),
        "attachment": _change("ATTACHED", "DETACHING", None, "ATTACHED"),
    },
    "attach-interface": {"interface": _change("", "ATTACHING", "ATTACHED", None)},
    "detach-interface": {"interface": _change("ATTACHED", "DETACHING", None, "ATTACHED")},
    "delete-snapshot": {"snapshot": _change("AVAILABLE ERROR", "DELETING", "DELETED", "ERROR", "AVAILABLE")},
    "create-volume": {"volume": _change("", "CREATING", "AVAILABLE", "ERROR")},
    "delete-volume": {"volume": _change("AVAILABLE ERROR", "DELETING", "DELETED", "ERROR", "AVAILABLE")},
    "extend-volume": {"volume": _change("AVAILABLE IN_USE", "EXTENDING", AS_BEFORE, "ERROR", AS_BEFORE)},
}

# What a delete of the VM does to its resources, by kind and status. It does not touch any others.
_DETACHED, _FREED = _change("", "DETACHING", None, "ATTACHED"), _change("", "DETACHING", "AVAILABLE", "IN_USE")
CHANGES_BY_VM_DELETE = {
    **{("snapshot", status): _change("", "DELETING", "DELETED", "ERROR") for status in ("CREATING", "ERROR")},
    ("snapshot", "RESTORING"): _change("", "AVAILABLE", "AVAILABLE", "AVAILABLE"),
    **{("volume", status): _FREED for status in ("ATTACHING", "IN_USE", "DETACHING", "EXTENDING")},
    **{(kind, status): _DETACHED for kind in ("attachment", "interface") for status in RESOURCE_STATUSES[kind]},
}
# A volume with delete_on_termination, unless its detach was accepted before the delete.
DELETED_ON_TERMINATION = _change("", "DELETING", "DELETED", "IN_USE")

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
    """Whether the action may begin by the specification: delete at any time, others on an idle VM that has launched."""
    if status not in SPECIFIED[action].sources or (attaching and action in NOT_WHILE_ATTACHING):
        return False
    return action == "delete" or (task_state is None and launched)


def specified_failure(action: str, previous: str, residue: str) -> str:
    """Return the VM's status after a failure, by the specification."""
    failure = SPECIFIED[action].failure
    if residue == "not_begun" and action not in {"create", "delete"}:
        return "VERIFY_RESIZE" if failure == ERROR_UNLESS_UNDECIDED else previous
    match failure, residue:
        case (_, _) if failure == AS_BEFORE:
            return previous
        case (_, "unchanged") if failure == ERROR_UNLESS_UNDECIDED:
            return "VERIFY_RESIZE"
        case (_, "unchanged") if failure == ERROR_UNLESS_UNCHANGED:
            return previous
        case (_, "running") if failure == ERROR_UNLESS_RUNNING:
            return "ACTIVE" if previous == "SHUTOFF" else previous  # a HARD reboot has powered the server on
    return "ERROR"
