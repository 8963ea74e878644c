"""Chooses the accepted operations that go to Temporal next: round-robin by user, and as many as workers can begin.

The outbox is the one queue that may grow long: it is on disk, and it is fair. Temporal gets few operations at a time.
"""

from datetime import timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy import CTE, BigInteger, Interval, Uuid, bindparam, text

MAX_UNBEGUN: Final = 100  # delivered operations that no worker has begun; a worker begins one in about 50 ms
# An operation that has not begun this long after its delivery no longer counts toward MAX_UNBEGUN. Its workflow may be
# broken, and 100 of those would stop the queue.
COUNTED_FOR: Final = timedelta(minutes=10)
MOST_SEEN: Final = 1_000  # users with waiting operations among whom one statement chooses
USERS: Final = 32  # users whom it considers
SPARE: Final = 4  # candidates per requested operation, because other processes lock some of them at the same moment

# The conditions on `status` and `deliveries` repeat the texts of the partial indexes (UNDELIVERED and UNBEGUN in
# domain/data/models.py), and `coalesce` that of TURN. They are literals because the planner cannot prove an index's
# condition from a parameter.
_NEXT_OPERATIONS: Final = text("""
-- 1. The users with undelivered operations, by id: from a random place upwards, then again from the first. Each is
--    found by one step in ix_operations_users, however many operations the user has; SELECT DISTINCT would read them
--    all. UNION drops a user who was found before, which ends the recursion after one round.
--    By id, because users choose their names: with a thousand names before that of another user, it was never seen.
WITH RECURSIVE waiting (id) AS (
    SELECT coalesce(
        (SELECT coalesce(requested_by, owner_id) FROM operations
         WHERE status = 'QUEUED' AND deliveries < 1 AND coalesce(requested_by, owner_id) > :start
         ORDER BY coalesce(requested_by, owner_id) LIMIT 1),
        (SELECT coalesce(requested_by, owner_id) FROM operations
         WHERE status = 'QUEUED' AND deliveries < 1
         ORDER BY coalesce(requested_by, owner_id) LIMIT 1)
    )
    UNION
    SELECT coalesce(
        (SELECT coalesce(requested_by, owner_id) FROM operations
         WHERE status = 'QUEUED' AND deliveries < 1 AND coalesce(requested_by, owner_id) > waiting.id
         ORDER BY coalesce(requested_by, owner_id) LIMIT 1),
        (SELECT coalesce(requested_by, owner_id) FROM operations
         WHERE status = 'QUEUED' AND deliveries < 1
         ORDER BY coalesce(requested_by, owner_id) LIMIT 1)
    )
    FROM waiting
    WHERE waiting.id IS NOT NULL
),

-- 2. How many operations of each user are in Temporal but not begun (ix_operations_delivered).
unbegun AS (
    SELECT coalesce(requested_by, owner_id) AS user_id, count(*) AS number
    FROM operations
    WHERE status = 'QUEUED' AND deliveries > 0 AND delivered_at > now() - :counted_for
    GROUP BY user_id
),

-- 3. The oldest due operations of each of these users. An operation's rank is its position among the operations of its
--    user, after the unbegun ones: the first operations of all users come before the second ones. By project, a user
--    with a hundred projects would have a hundred turns, and the members of one project would wait for each other.
--    The limit is a subquery because the planner then does not know it. A user who has more operations than the last
--    ANALYZE saw would seem to have fewer than the limit. The planner would read all of them and sort them.
candidates AS (
    SELECT
        oldest.id,
        turn.place,
        coalesce(unbegun.number, 0)
            + row_number() OVER (PARTITION BY turn.user_id ORDER BY oldest.deliver_after) AS rank
    FROM (
        -- By chance: by age, a backlog would stand before what is new.
        SELECT id AS user_id, random() AS place FROM (SELECT id FROM waiting LIMIT :most_seen) AS seen
        ORDER BY place LIMIT :user_limit
    ) AS turn
    CROSS JOIN LATERAL (
        SELECT id, deliver_after FROM operations
        WHERE status = 'QUEUED' AND deliveries < 1 AND deliver_after <= now()
            AND coalesce(requested_by, owner_id) = turn.user_id
        ORDER BY deliver_after LIMIT (SELECT :candidate_limit)
    ) AS oldest
    LEFT JOIN unbegun ON unbegun.user_id = turn.user_id
    ORDER BY rank, place LIMIT :candidate_limit
)

-- 4. The first of them that no other process has locked, as many as may still go to Temporal.
--    The candidates were read without locks, so another process may lease one before this statement locks it.
--    PostgreSQL checks the conditions below again on the newest version of a row it locks. Without them, both get it.
--    They are worded so that no partial index has them. After thousands of creates, and until the next ANALYZE, the
--    planner would expect few rows in such an index, and would read all that wait to find these few.
SELECT operations.id
FROM operations
JOIN candidates ON candidates.id = operations.id
WHERE status || '' = 'QUEUED' AND deliveries + 0 < 1 AND deliver_after <= now()
ORDER BY candidates.rank, candidates.place
LIMIT greatest(0, least(:wanted, :max_unbegun - (SELECT coalesce(sum(number), 0) FROM unbegun)))
FOR UPDATE OF operations SKIP LOCKED
""").bindparams(
    bindparam("start", type_=Uuid()),
    bindparam("most_seen", type_=BigInteger()),
    bindparam("counted_for", COUNTED_FOR, Interval()),
    bindparam("user_limit", USERS, BigInteger()),
    bindparam("candidate_limit", type_=BigInteger()),
    bindparam("wanted", type_=BigInteger()),
    bindparam("max_unbegun", MAX_UNBEGUN, BigInteger()),
)


def next_operations(limit: int) -> CTE:
    """Lock up to `limit` operations that are due for delivery, and return a CTE of their ids."""
    # A random start gives every user the same chance if more than MOST_SEEN of them wait: ids are random, too.
    limits = {"wanted": limit, "candidate_limit": SPARE * limit, "most_seen": MOST_SEEN}
    chosen = _NEXT_OPERATIONS.bindparams(start=uuid4(), **limits)
    return chosen.columns(id=Uuid).cte("chosen")
