"""The orders in which VMs, volumes and snapshots can be listed."""

from typing import Annotated, Literal

from fastapi import Query

from api.web.lists import Order
from domain.data.models import VM, Snapshot, Volume

Sort = Annotated[
    Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name", "status", "-status"],
    Query(description="`-` sorts in descending order. Items with equal values are sorted by id."),
]


def orders(model: type[VM | Snapshot | Volume]) -> dict[str, Order]:
    """Return the order of each `Sort`; each has an index of the model's table."""
    found = {}
    for column in (model.created_at, model.updated_at, model.name, model.status):
        changed = None if column is model.created_at else model.updated_at
        for sign in ("", "-"):
            name = f"{sign}{column.key}"
            found[name] = Order(name, (column, model.id), descending=bool(sign), changed=changed)
    return found
