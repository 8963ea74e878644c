"""Injects the faults of a schedule into a cluster."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
from temporalio.service import RPCError

from activities.backends.mock.schema import FaultMode
from tests.faults.schedule import OPERATOR_KINDS, Fault, Kind
from tests.faults.schedule_cluster import Cluster
from tests.faults.schedule_operator import interfere

_TARGET_IS_DOWN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, RPCError, RuntimeError, TimeoutError)


class Faults:
    """Injects faults; `done` counts those that hit something, `missed` those that found nothing to hit."""

    def __init__(self, cluster: Cluster, owner_id: UUID) -> None:
        self.cluster = cluster
        self.owner_id = owner_id
        self.done: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    async def inject(self, fault: Fault) -> None:
        """Wait for the fault's time, begin it, and end it."""
        await asyncio.sleep(fault.begins_at)
        try:
            has_hit = await self._handler(fault.kind)(fault)
        except _TARGET_IS_DOWN:
            has_hit = False
        name = f"{fault.kind} {fault.mode or fault.target}".strip()
        (self.done if has_hit else self.missed)[name] += 1

    def _handler(self, kind: Kind) -> Callable[[Fault], Awaitable[bool]]:
        return self._interfere if kind in OPERATOR_KINDS else getattr(self, f"_{kind.replace('-', '_')}")

    async def _kill(self, fault: Fault) -> bool:
        pids = self.cluster.pids(fault.target)
        if fault.target == "backend":
            pids = pids[fault.which % len(pids) :][:1] if pids else []
        self.cluster.signal(signal.SIGKILL, *pids)
        return bool(pids)

    async def _kill_all(self, _fault: Fault) -> bool:
        self.cluster.signal(signal.SIGKILL, *(pid for part in self.cluster.parts for pid in self.cluster.pids(part)))
        return True

    async def _drain(self, fault: Fault) -> bool:
        pids = self.cluster.pids(fault.target)
        self.cluster.signal(signal.SIGTERM, *pids)
        return bool(pids)

    async def _freeze(self, fault: Fault) -> bool:
        pids = self.cluster.pids(fault.target)
        self.cluster.signal(signal.SIGSTOP, *pids)
        await asyncio.sleep(fault.duration)
        self.cluster.signal(signal.SIGCONT, *pids)
        return bool(pids)

    async def _down(self, fault: Fault) -> bool:
        part = self.cluster.parts[fault.target]
        if part.task.done():  # another fault keeps it down
            return False
        part.task.cancel()  # the task that would restart it
        await asyncio.wait([part.task])
        self.cluster.signal(signal.SIGKILL, *self.cluster.pids(fault.target))
        await asyncio.sleep(fault.duration)
        part.start()
        return True

    async def _cut(self, fault: Fault) -> bool:
        return self.cluster.links[fault.target].cut() > 0

    async def _cut_answers(self, fault: Fault) -> bool:
        self.cluster.links[fault.target].cut_answers(1 + fault.which % 3)
        return True

    async def _silence(self, fault: Fault) -> bool:
        await self.cluster.links[fault.target].silence(fault.duration)
        return True

    async def _cloud(self, fault: Fault) -> bool:
        await self._script(fault.target, fault.mode)
        return True

    async def _hung_cloud(self, fault: Fault) -> bool:
        await self._script(fault.target, FaultMode.NEVER_ANSWER)
        return True

    async def _script(self, verb: str, mode: str) -> None:
        query = "INSERT INTO mock_cloud.faults (verb, mode, times) VALUES ($1, $2, 1)"
        async with self.cluster.connection() as connection:  # not repeated, or there might be two faults
            await connection.execute(query, verb, mode)

    async def _slow_cloud(self, fault: Fault) -> bool:
        async with self.cluster.connection() as connection, connection.transaction():
            await connection.execute("LOCK TABLE mock_cloud.calls")  # every call of the mock cloud waits for it
            await asyncio.sleep(fault.duration)
        return True

    async def _interfere(self, fault: Fault) -> bool:
        client = await self.cluster.temporal()
        return await interfere(client, self.cluster, self.owner_id, fault)
