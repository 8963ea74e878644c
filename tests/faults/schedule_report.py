"""The figures of many schedules."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.users import Attempts


@dataclass
class Report:
    """Counts of requests, operations and faults, times of recovery, and failures by seed."""

    started_at: float = field(default_factory=time.monotonic)
    schedules: int = 0
    requests: Attempts = field(default_factory=Attempts)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def add_requests(self, attempts: Attempts) -> None:
        """Add the requests of one user."""
        self.requests.sent += attempts.sent
        self.requests.lost += attempts.lost
        self.requests.statuses += attempts.statuses

    def add_recovery(self, name: str, seconds: float) -> None:
        """Add the time of one recovery."""
        self.recoveries.setdefault(name, []).append(seconds)

    def lines(self) -> list[str]:
        """The figures as text."""
        requests, statuses = self.requests, dict(sorted(self.requests.statuses.items()))
        return [
            f"{self.schedules} schedules in {time.monotonic() - self.started_at:.0f} s, {len(self.failures)} failed",
            f"  requests    {requests.sent} sent, {requests.lost} without an answer; {statuses}",
            f"  operations  {self.operations.total()}; {dict(self.operations)}",
            f"  faults      {self.faults.total()} hit, {self.missed.total()} found nothing to hit",
            *(f"    {name:42} {count}" for name, count in sorted(self.faults.items())),
            *(_recovery(name, seconds) for name, seconds in self.recoveries.items()),
            *(f"  SEED={seed}: {failure}" for seed, failure in self.failures.items()),
        ]


def _recovery(name: str, seconds: Sequence[float]) -> str:
    return f"  {name}: {len(seconds)} times, median {statistics.median(seconds):.1f} s, worst {max(seconds):.1f} s"
