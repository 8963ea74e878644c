"""The scenarios that are crashed: every operation, alone and with calls that the cloud refuses.

`matrix.txt` lists the points that each scenario passes. FAILPOINTS=record writes it; FAILPOINTS=all compares it with
the code. Points contain names of the product's functions, so renaming one of those changes the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from activities.backends.mock.schema import FaultMode
from domain.rules.states import Action
from tests.faults import setups
from tests.faults.setups import LOST, REFUSE, Prepare

RECORDED: Final = Path(__file__).with_name("matrix.txt")
EFFECT_THEN_REFUSED: Final = (LOST, REFUSE)


@dataclass(frozen=True)
class Scenario:
    """An operation, and what the cloud does to it.

    `refuses` are verbs of the cloud with their faults, of which the last is repeated for ever. `beyond` names a
    scenario whose points are left out, because that scenario is crashed there. With `auto_confirm` the resize is
    confirmed at the end of its confirm window; with `canceled` an operator cancels its workflow while it waits.
    """

    name: str
    action: Action
    prepare: Prepare
    refuses: tuple[tuple[str, tuple[FaultMode, ...]], ...] = ()
    ends: str = "SUCCEEDED"
    beyond: str = ""
    auto_confirm: bool = False
    canceled: bool = False

    @property
    def must_run_alone(self) -> bool:
        """Whether its faults would hit other scenarios: the id of a new resource is not known in time to select it."""
        return bool(self.refuses) and self.prepare in {setups.create, setups.create_volume}


def _refused(action: Action, prepare: Prepare, verb: str, *modes: FaultMode) -> Scenario:
    return Scenario(f"{action}, refused", action, prepare, ((verb, modes or (REFUSE,)),), "FAILED", beyond=action)


def _undo_refused(action: Action, prepare: Prepare, verb: str, undo: str) -> Scenario:
    refuses = ((verb, EFFECT_THEN_REFUSED), (undo, (REFUSE,)))
    return Scenario(f"{action}, undo refused", action, prepare, refuses, beyond=f"{action}, refused")


WITHOUT_FAULTS: Final[dict[Action, Prepare]] = {
    Action.CREATE: setups.create,
    Action.START: setups.start,
    Action.STOP: setups.stop,
    Action.REBOOT_SOFT: setups.reboot_soft,
    Action.REBOOT_HARD: setups.reboot_hard,
    Action.RESIZE: setups.resize,
    Action.CONFIRM_RESIZE: setups.confirm_resize,
    Action.REVERT_RESIZE: setups.revert_resize,
    Action.SNAPSHOT: setups.snapshot,
    Action.RESTORE: setups.restore,
    Action.ATTACH_VOLUME: setups.attach_volume,
    Action.DETACH_VOLUME: setups.detach_volume,
    Action.ATTACH_INTERFACE: setups.attach_interface,
    Action.DETACH_INTERFACE: setups.detach_interface,
    Action.DELETE: setups.delete,
    Action.DELETE_SNAPSHOT: setups.delete_snapshot,
    Action.CREATE_VOLUME: setups.create_volume,
    Action.DELETE_VOLUME: setups.delete_volume,
    Action.EXTEND_VOLUME: setups.extend_volume,
}

SCENARIOS: Final = [
    *(
        Scenario(action, action, prepare, auto_confirm=action is Action.RESIZE)
        for action, prepare in WITHOUT_FAULTS.items()
    ),
    _refused(Action.CREATE, setups.create, "create_server", *EFFECT_THEN_REFUSED),
    _refused(Action.START, setups.start, "start_server"),
    _refused(Action.STOP, setups.stop, "stop_server"),
    _refused(Action.REBOOT_SOFT, setups.reboot_soft, "reboot_server"),
    _refused(Action.REBOOT_HARD, setups.reboot_hard, "reboot_server"),
    _refused(Action.RESIZE, setups.resize, "resize_server", *EFFECT_THEN_REFUSED),
    _refused(Action.CONFIRM_RESIZE, setups.confirm_resize, "confirm_server_resize"),
    _refused(Action.REVERT_RESIZE, setups.revert_resize, "revert_server_resize"),
    _refused(Action.SNAPSHOT, setups.snapshot, "create_server_image", *EFFECT_THEN_REFUSED),
    _refused(Action.RESTORE, setups.restore, "rebuild_server"),
    _refused(Action.ATTACH_VOLUME, setups.attach_volume, "attach_volume", *EFFECT_THEN_REFUSED),
    _refused(Action.DETACH_VOLUME, setups.detach_volume, "detach_volume"),
    _refused(Action.ATTACH_INTERFACE, setups.attach_interface, "create_server_interface", *EFFECT_THEN_REFUSED),
    _refused(Action.DETACH_INTERFACE, setups.detach_interface, "delete_server_interface"),
    _refused(Action.DELETE, setups.delete, "delete_server"),
    _refused(Action.DELETE_SNAPSHOT, setups.delete_snapshot, "delete_image"),
    _refused(Action.CREATE_VOLUME, setups.create_volume, "create_volume", *EFFECT_THEN_REFUSED),
    _refused(Action.DELETE_VOLUME, setups.delete_volume, "delete_volume"),
    _refused(Action.EXTEND_VOLUME, setups.extend_volume, "extend_volume"),
    _undo_refused(Action.ATTACH_VOLUME, setups.attach_volume, "attach_volume", "detach_volume"),
    _undo_refused(
        Action.ATTACH_INTERFACE, setups.attach_interface, "create_server_interface", "delete_server_interface"
    ),
    Scenario("create, on a volume", Action.CREATE, setups.create_on_volume, beyond="create"),
    Scenario("resize, canceled", Action.RESIZE, setups.resize, beyond="resize", canceled=True),
    Scenario("confirm-resize, without workflow", Action.CONFIRM_RESIZE, setups.confirm_without_workflow),
    Scenario("revert-resize, without workflow", Action.REVERT_RESIZE, setups.revert_without_workflow),
    Scenario("delete, during snapshot", Action.DELETE, setups.delete_during_snapshot, beyond="delete"),
    Scenario("delete, undeletable volume", Action.DELETE, setups.delete_with_undeletable_volume, beyond="delete"),
    Scenario(
        "delete, stuck workflow", Action.DELETE, setups.delete_with_stuck_workflow, beyond="delete, during snapshot"
    ),
]
BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}

Matrix = dict[str, list[str]]
"""The points that each scenario passes, in order."""


def recorded() -> Matrix:
    """The recorded matrix."""
    matrix: Matrix = {}
    for line in RECORDED.read_text().splitlines():
        if line.startswith("    "):
            matrix[list(matrix)[-1]].append(line.strip())
        elif line:
            matrix[line] = []
    return matrix


def write(matrix: Matrix) -> None:
    """Record a matrix."""
    blocks = (f"{name}\n" + "".join(f"    {point}\n" for point in matrix[name]) for name in BY_NAME)
    RECORDED.write_text("\n".join(blocks))


@dataclass(frozen=True)
class Cell:
    """One crash: a scenario and the point at which its process dies."""

    scenario: Scenario
    point: str
    position: int  # the number of points before it

    @property
    def in_api(self) -> bool:
        """Whether the API crashes, and not a worker, whose points begin with an activity."""
        return len(self.point.split()) == 2 and self.point.split()[1] in "-+"


def cells(matrix: Matrix) -> list[Cell]:
    """All crashes of a matrix."""
    result = []
    for name, points in matrix.items():
        scenario = BY_NAME[name]
        covered = set(matrix[scenario.beyond]) if scenario.beyond else set()
        result += [Cell(scenario, point, index) for index, point in enumerate(points) if point not in covered]
    return result
