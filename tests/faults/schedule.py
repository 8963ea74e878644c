"""What happens in a schedule, as a pure function of its seed: the faults with their times, and what a client asks."""

import os
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from activities.backends.faults import VERBS
from activities.backends.mock.schema import FaultMode
from tests.integration.anything import ACTIONS, RARE, Step

SPAN = 4.0  # seconds in which faults begin
OUTAGE = 30.0  # seconds that a server is away, every other time
LANES, STEPS = 3, 6


class Kind(StrEnum):
    """What can go wrong."""

    KILL = "kill"  # SIGKILL; the supervisor starts it again
    KILL_ALL = "kill-all"  # every process of the stack at once
    DRAIN = "drain"  # SIGTERM, as a new release would
    FREEZE = "freeze"  # SIGSTOP, then SIGCONT: it goes on as if no time had passed
    AWAY = "away"  # killed, and started again only later
    CUT = "cut"  # every connection of a proxy is reset
    CUT_ANSWERS = "cut-answers"  # in their middle
    SILENCE = "silence"  # nothing passes a proxy
    CLOUD = "cloud"  # a call of the cloud fails, before its effect, after it, or for good
    HUNG_CLOUD = "hung-cloud"  # a call of the cloud is never answered
    SLOW_CLOUD = "slow-cloud"  # no call of the cloud is answered for a while
    TERMINATE = "terminate"  # an operator ends a workflow
    CANCEL = "cancel"  # an operator cancels a workflow
    RESET = "reset"  # an operator resets a workflow, to its first task or its last


STATELESS: Final = ("api", "worker-1", "worker-2")
SERVERS: Final = ("temporal", "postgres")
LINKS: Final = ("client-api", "to-temporal", "to-postgres")
TARGETS: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.KILL: (*STATELESS, *STATELESS, *SERVERS, "backend"),
    Kind.DRAIN: STATELESS,
    Kind.FREEZE: (*STATELESS, *SERVERS),
    Kind.AWAY: (*STATELESS, *SERVERS, *SERVERS),
    Kind.CUT: LINKS,
    Kind.CUT_ANSWERS: LINKS,
    Kind.SILENCE: LINKS,
    Kind.CLOUD: VERBS,
    Kind.HUNG_CLOUD: VERBS,
}
WEIGHTS: Final = {
    Kind.KILL: 24,
    Kind.KILL_ALL: 4,
    Kind.DRAIN: 6,
    Kind.FREEZE: 12,
    Kind.AWAY: 8,
    Kind.CUT: 8,
    Kind.CUT_ANSWERS: 10,
    Kind.SILENCE: 6,
    Kind.CLOUD: 20,
    Kind.HUNG_CLOUD: 1,
    Kind.SLOW_CLOUD: 6,
    Kind.TERMINATE: 4,
    Kind.CANCEL: 5,
    Kind.RESET: 5,
}
FAILING: Final = {Kind.TERMINATE, Kind.CANCEL, Kind.RESET}
CLOUD_MODES: Final = (FaultMode.FAIL, FaultMode.FAIL_AFTER_EFFECT, FaultMode.FAIL_AFTER_EFFECT, FaultMode.REFUSE)
CANCEL_OPERATION: Final = "cancel"  # what a client can ask beside the actions
ASKED: Final = (*(action for action in ACTIONS for _ in range(1 if action in RARE else 3)), CANCEL_OPERATION)


@dataclass(frozen=True)
class Fault:
    """One fault: when it begins, in seconds, of what kind, what it hits and for how many seconds.

    `which` chooses among what there is then; `mode` is of the cloud's.
    """

    at: float
    kind: Kind
    target: str = ""
    lasts: float = 0.0
    which: int = 0
    mode: str = ""


@dataclass(frozen=True)
class Schedule:
    """What one client asks, in lanes that run at once, and what goes wrong meanwhile."""

    seed: int
    lanes: list[list[Step]]
    faults: list[Fault]

    @property
    def may_fail(self) -> bool:
        """Whether anything in it lets an operation fail."""
        return any(fault.kind in FAILING or fault.mode == FaultMode.REFUSE for fault in self.faults)


def make(seed: int, *, lanes: int = LANES, steps: int = STEPS) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed)
    faults = sorted((_fault(random) for _ in range(random.randint(2, 5))), key=lambda fault: fault.at)
    return Schedule(seed, [[step(random) for _ in range(steps)] for _ in range(lanes)], faults)


def step(random: Random) -> Step:
    """One request, mostly of what is allowed."""
    pause = random.choice([0.0, 0.05, 0.2, 0.5])
    return Step(random.choice(ASKED), random.randrange(8), random.randrange(8), pause, random.random() < 0.6)


def _fault(random: Random) -> Fault:
    kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    target = random.choice(TARGETS.get(kind, ("",)))
    mode = random.choice(CLOUD_MODES).value if kind is Kind.CLOUD else ""
    at, lasts, which = round(random.uniform(0, SPAN), 2), _duration(random), random.randrange(8)
    is_outage = kind is Kind.AWAY and target in SERVERS and which % 2 == 0
    return Fault(at, kind, target, OUTAGE if is_outage else lasts, which, mode)


def _duration(random: Random) -> float:
    """Mostly short, so that schedules are quick; now and then longer than every lease, timeout and heartbeat."""
    longest = random.choices([1.0, 4.0, 12.0, 30.0], [60, 30, 8, 2])[0]
    return round(random.uniform(longest / 4, longest), 2)


def seeds(count: int) -> list[int]:
    """The seeds to run: of SEED (`123` or `100-131`) where that is set, else `count` from 1 on."""
    asked = os.environ.get("SEED")
    if asked is None:
        return list(range(1, count + 1))
    first, _, last = asked.partition("-")
    return list(range(int(first), int(last or first) + 1))
