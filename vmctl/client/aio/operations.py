"""Operations: what was asked, how far it is, and why it failed."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from vmctl.client.aio.collections import Id, TaggedCollection
from vmctl.client.aio.transport import Transport
from vmctl.client.aio.waiting import Accepted, Watcher, check, until_ended
from vmctl.client.errors import answer_of
from vmctl.client.models import Operation


class Operations(TaggedCollection[Operation]):
    """What you have asked for."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/operations", Operation)

    async def wait(
        self, ids: Sequence[UUID], *, timeout: float | None = None, watch: Watcher | None = None, every: int = 1
    ) -> list[Operation]:
        """Wait until all have ended, and return them in the order of the ids, whether they have succeeded or not.

        `watch` is called with every operation, each `every` seconds (1 to 60) and at the end.
        """
        return await until_ended(self.transport, [UUID(str(id)) for id in ids], timeout, watch, every)

    async def complete(
        self, accepted: Sequence[Accepted[Any]], *, timeout: float | None = None, watch: Watcher | None = None
    ) -> list[Operation]:
        """Wait for several changes together. Once all have ended, raises OperationError if one has failed."""
        ids = [each.operation_id for each in accepted if each.operation_id]
        return [check(operation) for operation in await self.wait(ids, timeout=timeout, watch=watch)]

    async def cancel(self, id: Id, *, idempotency_key: str | None = None, if_match: str | None = None) -> Operation:
        """Ask for the end of an operation. It goes on until it is undone, so wait for it."""
        response = await self.transport.send("POST", f"/operations/{id}/cancel", key=idempotency_key, if_match=if_match)
        return answer_of(response, Operation)
