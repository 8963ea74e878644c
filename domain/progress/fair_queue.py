"""Whose accepted operation goes to Temporal next: everybody's in turn, and only as many as workers begin.

The outbox is the one queue that may grow long, for it is on disk and fair. In Temporal few operations wait to be begun.
"""

from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import CTE, ColumnElement, Select, bindparam, func, select, true
from sqlalchemy import Uuid as UuidType

from domain.data.models import UNBEGUN, UNDELIVERED, Operation

MOST_TO_BEGIN = 100  # operations that Temporal has and no worker has begun; a worker begins one in some 50 ms
# After that something may be wrong with its workflow, which must not keep all others waiting for ever.
NOT_BEGUN = timedelta(minutes=10)
OWNERS = 32  # that are looked at for a turn, from a random one on
DEPTH = 4  # times as many as are wanted, for other processes take some in the same moment

_DUE = (UNDELIVERED, Operation.deliver_after <= func.now())


def next_in_turn(limit: int) -> CTE:
    """The ids of up to `limit` operations that want delivery, locked; nobody's second comes before another's first.

    What Temporal has of an owner counts as had. Of one owner's, the longest waiting come first.
    """
    has = _in_temporal()
    owners = select(_owners().c.id).limit(OWNERS).subquery("some")
    oldest = select(Operation.id, Operation.deliver_after).where(*_DUE, Operation.owner_id == owners.c.id)
    own = oldest.order_by(Operation.deliver_after).limit(DEPTH * limit).lateral("own")
    place = func.row_number().over(partition_by=owners.c.id, order_by=own.c.deliver_after)
    turn = (func.coalesce(has.c.number, 0) + place).label("turn")
    of_all = owners.join(own, true()).outerjoin(has, has.c.owner_id == owners.c.id)
    turns = select(own.c.id, turn, own.c.deliver_after).select_from(of_all).subquery("turns")
    first = select(turns).order_by(turns.c.turn, turns.c.deliver_after).limit(DEPTH * limit).subquery("first")
    room = MOST_TO_BEGIN - func.coalesce(select(func.sum(has.c.number)).scalar_subquery(), 0)
    return (
        select(Operation.id)
        .join(first, first.c.id == Operation.id)
        .where(*_DUE)
        .order_by(first.c.turn, first.c.deliver_after)
        .limit(func.greatest(0, func.least(limit, room)))
        .with_for_update(skip_locked=True, of=Operation)
        .cte("taken")
    )


def _in_temporal() -> CTE:
    """How many of whose operations were delivered lately and are not begun."""
    lately = Operation.delivered_at > func.now() - NOT_BEGUN
    number = func.count().label("number")
    return select(Operation.owner_id, number).where(UNBEGUN, lately).group_by(Operation.owner_id).cte("has")


def _owners() -> CTE:
    """Who has operations waiting, by id, from a random one on and round; each is found by one step in the index."""
    first = select(_owner_after(bindparam("start", uuid4(), UuidType())).label("id")).cte("owners", recursive=True)
    return first.union(select(_owner_after(first.c.id)).where(first.c.id.is_not(None)))


def _owner_after(id: ColumnElement[Any]) -> ColumnElement[Any]:
    lowest: Select[Any] = select(Operation.owner_id).where(UNDELIVERED).order_by(Operation.owner_id).limit(1)
    following = lowest.where(Operation.owner_id > id).correlate_except(Operation)
    return func.coalesce(following.scalar_subquery(), lowest.scalar_subquery())
