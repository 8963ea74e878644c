"""What new VMs take from the catalogue: flavors, images and networks with free addresses, in one query for all of them.

The query is built once, when the module loads, because building it costs as much as running it. There is one for
requests that use names, and one that draws many addresses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, ColumnElement, Select, Text, Uuid, and_, any_, bindparam, case, func, or_, select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.new_vm import NewVM
from domain.data import addresses
from domain.data.models import Flavor, Image, Network
from domain.data.prepared import Prepared
from domain.rules.errors import FieldIssue, unknown_id
from domain.rules.references import Choice, Named, pick

T = TypeVar("T", bound=Named)
Model = type[Flavor | Image | Network]


@dataclass(frozen=True, slots=True)
class OfferedFlavor:
    """A flavor that one can ask for."""

    id: UUID
    name: str
    disk_gb: int


@dataclass(frozen=True, slots=True)
class OfferedImage:
    """An image that one can ask for."""

    id: UUID
    name: str
    size_gb: int
    is_default: bool


@dataclass(frozen=True, slots=True)
class OfferedNetwork:
    """A network that one can ask for. `free` are random addresses that are free in it, unless the cloud chooses."""

    id: UUID
    name: str
    allocates: bool
    is_default: bool
    free: Sequence[str | None] | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a new VM gets from the catalogue; no image if it boots from something else."""

    flavor: OfferedFlavor
    image: OfferedImage | None
    networks: Sequence[OfferedNetwork]


@dataclass(frozen=True, slots=True)
class Offers:
    """What the catalogue has of the things that a request names, and the defaults."""

    flavors: Sequence[OfferedFlavor]
    images: Sequence[OfferedImage]
    networks: Sequence[OfferedNetwork]

    def choose(self, new: NewVM) -> Chosen | list[FieldIssue]:
        """What the new VM gets, or what is wrong with its wishes."""
        issues: list[FieldIssue] = []
        flavor = _noting(issues, pick(self.flavors, new.flavor, "flavor"))
        image = None if new.snapshot_id or new.boot_volume else _noting(issues, self._image(new))
        networks = [network for network in self.networks if network.is_default]
        if new.networks is not None:
            picked = [_noting(issues, pick(self.networks, choice, "network")) for choice in new.networks]
            networks = [network for network in picked if network]
        if issues or flavor is None:
            return issues
        return Chosen(flavor, image, networks)

    def _image(self, new: NewVM) -> OfferedImage | FieldIssue:
        if new.image:
            return pick(self.images, new.image, "image")
        default = [image for image in self.images if image.is_default]
        return default[0] if default else unknown_id(f"{new.at}image_id", None)


async def find_offers(tx: AsyncConnection, wanted: Sequence[NewVM]) -> Offers:
    """What the catalogue has of the things that the new VMs name, and the defaults if one of them needs these."""
    flavors, images = [new.flavor for new in wanted], [new.image for new in wanted if new.image]
    networks = [choice for new in wanted for choice in new.networks or ()]
    by_name = any(choice.name for choice in (*flavors, *images, *networks))
    values: dict[str, Any] = {
        "default_image": any(new.image is None for new in wanted),
        "default_network": any(new.networks is None for new in wanted),
    }
    for kind, choices in (("flavor", flavors), ("image", images), ("network", networks)):
        values |= _parameters(kind, choices, by_name=by_name)
    (found,) = await _QUERIES[by_name, len(wanted) > 1].fetch_in(tx, values)
    return Offers(
        [OfferedFlavor(UUID(id), *rest) for id, *rest in found.flavors or ()],
        [OfferedImage(UUID(id), *rest) for id, *rest in found.images or ()],
        [OfferedNetwork(UUID(id), *rest) for id, *rest in found.networks or ()],
    )


def _parameters(kind: str, choices: Iterable[Choice], *, by_name: bool) -> dict[str, Any]:
    values: dict[str, Any] = {f"{kind}_ids": list({choice.id for choice in choices if choice.id})}
    if by_name:
        values[f"{kind}_names"] = list({name for choice in choices for name in choice.spellings})
    return values


def _noting(issues: list[FieldIssue], picked: T | FieldIssue) -> T | None:
    """Return what was picked; if that is an issue, add it to the issues and return None."""
    if isinstance(picked, FieldIssue):
        issues.append(picked)
        return None
    return picked


def _is_wanted(model: Model, kind: str, *others: ColumnElement[bool], by_name: bool) -> ColumnElement[bool]:
    """Whether the request names the row, and one can ask for it."""
    names = [model.name == any_(bindparam(f"{kind}_names", type_=ARRAY(Text)))] if by_name else []
    named = or_(model.id == any_(bindparam(f"{kind}_ids", type_=ARRAY(Uuid))), *names, *others)
    return and_(named, model.is_available)


def _query(*, by_name: bool, many: bool) -> Select[Any]:
    draw = addresses.many_likely_free if many else array([addresses.likely_free])
    is_default_image = and_(bindparam("default_image", type_=Boolean()), Image.is_default)
    is_default_network = and_(bindparam("default_network", type_=Boolean()), Network.is_default)
    columns = {
        "flavors": (
            (Flavor.id, Flavor.name, Flavor.disk_gb),
            _is_wanted(Flavor, "flavor", by_name=by_name),
        ),
        "images": (
            (Image.id, Image.name, Image.size_gb, Image.is_default),
            _is_wanted(Image, "image", is_default_image, by_name=by_name),
        ),
        "networks": (
            (Network.id, Network.name, Network.allocates, Network.is_default, case((Network.allocates, draw))),
            _is_wanted(Network, "network", is_default_network, by_name=by_name),
        ),
    }
    rows = {name: func.json_agg(func.json_build_array(*found)) for name, (found, _) in columns.items()}
    return select(*(select(rows[name]).where(columns[name][1]).scalar_subquery().label(name) for name in columns))


_QUERIES: Final = {
    (by_name, many): Prepared(_query(by_name=by_name, many=many)) for by_name, many in product((False, True), repeat=2)
}
