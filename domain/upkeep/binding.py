"""Which cloud a database is about. The servers of its VMs are in that one; in any other they would be gone."""

from sqlalchemy import exists, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.cloud import BoundCloud
from domain.data.models import VM, Snapshot, Volume


class OtherCloudError(Exception):
    """The database has VMs, volumes or snapshots of another cloud; the message is one line that says what to do."""

    def __init__(self, bound: str, wanted: str) -> None:
        super().__init__(
            f"it has VMs, volumes or snapshots of {bound}, and the settings name {wanted}. "
            "Go back to that cloud, or use another database"
        )


async def bind(tx: AsyncConnection, backend: str, identity: str | None) -> None:
    """Bind the database to a cloud: to its first one, and to another one only while it has nothing that is live.

    OtherCloudError if it is bound to another one. An `identity` of None is not known yet: then only the kind of cloud,
    the `backend`, is compared.
    """
    if identity is not None:
        await tx.execute(insert(BoundCloud).values(backend=backend, identity=identity).on_conflict_do_nothing())
    bound = (await tx.execute(select(BoundCloud).with_for_update())).one_or_none()
    if bound is None or (bound.backend, bound.identity) == (backend, identity or bound.identity):
        return
    lives = (select(model.id).where(model.status != "DELETED") for model in (VM, Volume, Snapshot))
    if await tx.scalar(select(or_(*(exists(live) for live in lives)))):
        wanted = _described(backend, identity)
        raise OtherCloudError(_described(bound.backend, bound.identity), wanted)
    if identity is not None:
        await tx.execute(update(BoundCloud).values(backend=backend, identity=identity))


def _described(backend: str, identity: str | None) -> str:
    return backend if identity in {None, backend} else f"{backend} ({identity})"
