"""Every operation, and how each comes about: what has to be there, what is asked, what the cloud refuses, how it ends.

Which points an operation passes, `matrix.txt` says; it was recorded (FAILPOINTS=record), and is compared with the code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from activities.backends.mock.schema import FaultMode
from domain.rules.states import Action
from tests.faults import scenes
from tests.faults.scenes import LOST, REFUSE, Prepare

RECORDED: Final = Path(__file__).with_name("matrix.txt")
EFFECT_THEN_REFUSED: Final = (LOST, REFUSE)


@dataclass(frozen=True)
class Scenario:
    """An operation that is carried out, or that the cloud refuses; `refuses` are verbs, and how each goes wrong.

    Of the last fault of a verb there is no end. It is crashed at the points that the scenario it goes `beyond` has not
    got. `unasked` is whether its resize is confirmed by its window, `canceled` whether an operator cancels its workflow
    when it waits for that.
    """

    name: str
    action: Action
    prepare: Prepare
    refuses: tuple[tuple[str, tuple[FaultMode, ...]], ...] = ()
    ends: str = "SUCCEEDED"
    beyond: str = ""
    unasked: bool = False
    canceled: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether what it is about is not known before, so that its faults meet all that is done at the time."""
        return bool(self.refuses) and self.prepare in {scenes.create, scenes.create_volume}


def _refused(action: Action, prepare: Prepare, verb: str, *modes: FaultMode) -> Scenario:
    return Scenario(f"{action}, refused", action, prepare, ((verb, modes or (REFUSE,)),), "FAILED", beyond=action)


def _kept(action: Action, prepare: Prepare, verb: str, undo: str) -> Scenario:
    refuses = ((verb, EFFECT_THEN_REFUSED), (undo, (REFUSE,)))
    return Scenario(f"{action}, undo refused", action, prepare, refuses, beyond=f"{action}, refused")


WELL: Final[dict[Action, Prepare]] = {
    Action.CREATE: scenes.create,
    Action.START: scenes.start,
    Action.STOP: scenes.stop,
    Action.REBOOT_SOFT: scenes.reboot_soft,
    Action.REBOOT_HARD: scenes.reboot_hard,
    Action.RESIZE: scenes.resize,
    Action.CONFIRM_RESIZE: scenes.confirm_resize,
    Action.REVERT_RESIZE: scenes.revert_resize,
    Action.SNAPSHOT: scenes.snapshot,
    Action.RESTORE: scenes.restore,
    Action.ATTACH_VOLUME: scenes.attach_volume,
    Action.DETACH_VOLUME: scenes.detach_volume,
    Action.ATTACH_INTERFACE: scenes.attach_interface,
    Action.DETACH_INTERFACE: scenes.detach_interface,
    Action.DELETE: scenes.delete,
    Action.DELETE_SNAPSHOT: scenes.delete_snapshot,
    Action.CREATE_VOLUME: scenes.create_volume,
    Action.DELETE_VOLUME: scenes.delete_volume,
}

SCENARIOS: Final = [
    *(Scenario(action, action, prepare, unasked=action is Action.RESIZE) for action, prepare in WELL.items()),
    _refused(Action.CREATE, scenes.create, "create_server", *EFFECT_THEN_REFUSED),
    _refused(Action.START, scenes.start, "start_server"),
    _refused(Action.STOP, scenes.stop, "stop_server"),
    _refused(Action.REBOOT_SOFT, scenes.reboot_soft, "reboot_server"),
    _refused(Action.REBOOT_HARD, scenes.reboot_hard, "reboot_server"),
    _refused(Action.RESIZE, scenes.resize, "resize_server", *EFFECT_THEN_REFUSED),
    _refused(Action.CONFIRM_RESIZE, scenes.confirm_resize, "confirm_server_resize"),
    _refused(Action.REVERT_RESIZE, scenes.revert_resize, "revert_server_resize"),
    _refused(Action.SNAPSHOT, scenes.snapshot, "create_server_image", *EFFECT_THEN_REFUSED),
    _refused(Action.RESTORE, scenes.restore, "rebuild_server"),
    _refused(Action.ATTACH_VOLUME, scenes.attach_volume, "attach_volume", *EFFECT_THEN_REFUSED),
    _refused(Action.DETACH_VOLUME, scenes.detach_volume, "detach_volume"),
    _refused(Action.ATTACH_INTERFACE, scenes.attach_interface, "create_server_interface", *EFFECT_THEN_REFUSED),
    _refused(Action.DETACH_INTERFACE, scenes.detach_interface, "delete_server_interface"),
    _refused(Action.DELETE, scenes.delete, "delete_server"),
    _refused(Action.DELETE_SNAPSHOT, scenes.delete_snapshot, "delete_image"),
    _refused(Action.CREATE_VOLUME, scenes.create_volume, "create_volume", *EFFECT_THEN_REFUSED),
    _refused(Action.DELETE_VOLUME, scenes.delete_volume, "delete_volume"),
    _kept(Action.ATTACH_VOLUME, scenes.attach_volume, "attach_volume", "detach_volume"),
    _kept(Action.ATTACH_INTERFACE, scenes.attach_interface, "create_server_interface", "delete_server_interface"),
    Scenario("resize, canceled", Action.RESIZE, scenes.resize, beyond="resize", canceled=True),
    Scenario("confirm-resize, alone", Action.CONFIRM_RESIZE, scenes.confirm_alone),
    Scenario("revert-resize, alone", Action.REVERT_RESIZE, scenes.revert_alone),
    Scenario("delete, while saved", Action.DELETE, scenes.delete_while_saved, beyond="delete"),
    Scenario("delete, but a volume", Action.DELETE, scenes.delete_but_a_volume, beyond="delete"),
    Scenario("delete, while stuck", Action.DELETE, scenes.delete_while_stuck, beyond="delete, while saved"),
]
BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}

Matrix = dict[str, list[str]]
"""The points that each scenario passes, in their order."""


def recorded() -> Matrix:
    """What was recorded."""
    matrix: Matrix = {}
    for line in RECORDED.read_text().splitlines():
        if line.startswith("    "):
            matrix[list(matrix)[-1]].append(line.strip())
        elif line:
            matrix[line] = []
    return matrix


def write(matrix: Matrix) -> None:
    """Record what was seen."""
    RECORDED.write_text("\n".join(f"{name}\n" + "".join(f"    {one}\n" for one in matrix[name]) for name in BY_NAME))


@dataclass(frozen=True)
class Cell:
    """One crash: of a scenario, at a point."""

    scenario: Scenario
    point: str
    at: int  # how many points come before it

    @property
    def in_api(self) -> bool:
        """Whether it is the API that crashes."""
        return len(self.point.split()) == 2 and self.point.split()[1] in "-+"


def cells(matrix: Matrix) -> list[Cell]:
    """All crashes there are."""
    found = []
    for name, points in matrix.items():
        scenario = BY_NAME[name]
        had = set(matrix[scenario.beyond]) if scenario.beyond else set()
        found += [Cell(scenario, point, at) for at, point in enumerate(points) if point not in had]
    return found
