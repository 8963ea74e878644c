"""A schedule: the requests of one user, and faults with their times. It is a pure function of its seed."""

import os
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from activities.backends.faults import VERBS
from activities.backends.mock.schema import FaultMode
from tests.support.random_walk import ACTIONS, RARE, Step

SPAN = 4.0  # seconds within which faults begin
OUTAGE = 30.0  # seconds that a server is down, in half of all cases
LANES, STEPS = 3, 6


class Kind(StrEnum):
    """The kinds of faults."""

    KILL = "kill"  # SIGKILL; the supervisor restarts it
    KILL_ALL = "kill-all"  # every process of the stack at once
    DRAIN = "drain"  # SIGTERM, as for a new release
    FREEZE = "freeze"  # SIGSTOP, later SIGCONT: the process does not notice the time between
    DOWN = "down"  # killed, and restarted only later
    CUT = "cut"  # every connection of a proxy is reset
    CUT_ANSWERS = "cut-answers"  # answers are cut in the middle
    SILENCE = "silence"  # a proxy forwards nothing
    CLOUD = "cloud"  # a call of the cloud fails before its effect or after it, or is refused
    HUNG_CLOUD = "hung-cloud"  # a call of the cloud is never answered
    SLOW_CLOUD = "slow-cloud"  # the cloud answers no call for a while
    TERMINATE = "terminate"  # an operator terminates a workflow
    CANCEL = "cancel"  # an operator cancels a workflow
    RESET = "reset"  # an operator resets a workflow to its first or its last task


STATELESS: Final = ("api", "worker-1", "worker-2")
SERVERS: Final = ("temporal", "postgres")
LINKS: Final = ("client-api", "to-temporal", "to-postgres")
TARGETS: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.KILL: (*STATELESS, *STATELESS, *SERVERS, "backend"),
    Kind.DRAIN: STATELESS,
    Kind.FREEZE: (*STATELESS, *SERVERS),
    Kind.DOWN: (*STATELESS, *SERVERS, *SERVERS),
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
    Kind.DOWN: 8,
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
OPERATOR_KINDS: Final = {Kind.TERMINATE, Kind.CANCEL, Kind.RESET}
CLOUD_MODES: Final = (FaultMode.FAIL, FaultMode.FAIL_AFTER_EFFECT, FaultMode.FAIL_AFTER_EFFECT, FaultMode.REFUSE)
CANCEL_OPERATION: Final = "cancel"  # a request that is not an action
REQUESTS: Final = (*(action for action in ACTIONS for _ in range(1 if action in RARE else 3)), CANCEL_OPERATION)


@dataclass(frozen=True)
class Fault:
    """One fault: the second at which it begins, its kind, its target and its duration in seconds.

    `which` selects one of the processes or workflows that exist then; `mode` is the mode of a fault of the cloud.
    """

    begins_at: float
    kind: Kind
    target: str = ""
    duration: float = 0.0
    which: int = 0
    mode: str = ""


@dataclass(frozen=True)
class Schedule:
    """The requests of one user, in lanes that run concurrently, and the faults meanwhile."""

    seed: int
    lanes: list[list[Step]]
    faults: list[Fault]

    @property
    def may_fail(self) -> bool:
        """Whether a fault may make an operation fail."""
        return any(fault.kind in OPERATOR_KINDS or fault.mode == FaultMode.REFUSE for fault in self.faults)


def make(seed: int, *, lanes: int = LANES, steps: int = STEPS) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed)
    faults = sorted((_fault(random) for _ in range(random.randint(2, 5))), key=lambda fault: fault.begins_at)
    return Schedule(seed, [[step(random) for _ in range(steps)] for _ in range(lanes)], faults)


def step(random: Random) -> Step:
    """One request; most of them are allowed."""
    pause = random.choice([0.0, 0.05, 0.2, 0.5])
    return Step(random.choice(REQUESTS), random.randrange(8), random.randrange(8), pause, random.random() < 0.6)


def _fault(random: Random) -> Fault:
    kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    target = random.choice(TARGETS.get(kind, ("",)))
    mode = random.choice(CLOUD_MODES).value if kind is Kind.CLOUD else ""
    begins_at, duration, which = round(random.uniform(0, SPAN), 2), _duration(random), random.randrange(8)
    is_outage = kind is Kind.DOWN and target in SERVERS and which % 2 == 0
    return Fault(begins_at, kind, target, OUTAGE if is_outage else duration, which, mode)


def _duration(random: Random) -> float:
    """Mostly short, so that schedules are fast; sometimes longer than every lease, timeout and heartbeat."""
    longest = random.choices([1.0, 4.0, 12.0, 30.0], [60, 30, 8, 2])[0]
    return round(random.uniform(longest / 4, longest), 2)


def seeds(count: int) -> list[int]:
    """The seeds to run: those in SEED (`123` or `100-131`) if it is set, else `count` seeds from 1 on."""
    wanted = os.environ.get("SEED")
    if wanted is None:
        return list(range(1, count + 1))
    first, _, last = wanted.partition("-")
    return list(range(int(first), int(last or first) + 1))
