"""The figures of many schedules."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.client import Attempts


@dataclass
class Report:
    """What was done, how long recovery took, and what failed, by seed."""

    began: float = field(default_factory=time.monotonic)
    schedules: int = 0
    requests: Attempts = field(default_factory=Attempts)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def add_requests(self, attempts: Attempts) -> None:
        """Count what a client sent."""
        self.requests.sent += attempts.sent
        self.requests.lost += attempts.lost
        self.requests.statuses += attempts.statuses

    def recovered(self, what: str, seconds: float) -> None:
        """Count a recovery."""
        self.recoveries.setdefault(what, []).append(seconds)

    def lines(self) -> list[str]:
        """All of it, for people."""
        sent, statuses = self.requests, dict(sorted(self.requests.statuses.items()))
        return [
            f"{self.schedules} schedules in {time.monotonic() - self.began:.0f} s, {len(self.failures)} failed",
            f"  requests    {sent.sent} sent, {sent.lost} without an answer; {statuses}",
            f"  operations  {self.operations.total()}; {dict(self.operations)}",
            f"  faults      {self.faults.total()} hit, {self.missed.total()} found nothing to hit",
            *(f"    {name:42} {count}" for name, count in sorted(self.faults.items())),
            *(_recovery(what, seconds) for what, seconds in self.recoveries.items()),
            *(f"  SEED={seed}: {what}" for seed, what in self.failures.items()),
        ]


def _recovery(what: str, seconds: Sequence[float]) -> str:
    return f"  {what}: {len(seconds)} times, median {statistics.median(seconds):.1f} s, worst {max(seconds):.1f} s"
