"""Turns the bodies of requests for new VMs into what the command takes."""

from uuid import UUID

from api.routes import requests
from domain.commands.new_vm import NewVM, Placement, WantedVolume
from domain.commands.volumes import DEVICES, ROOT_DEVICE
from domain.rules.references import Choice
from domain.settings import Settings


def choice_of(name: str | None, id: UUID | None, field: str, at: str = "") -> Choice:
    """The thing that is named by the field or by the one that ends in `_id`; `at` is the place of both in the body."""
    if name is not None:
        return Choice(name, f"{at}{field}")
    assert id is not None  # noqa: S101 - the models of requests require one of the two
    return Choice(id, f"{at}{field}_id")


def new_vm(body: requests.NewVM, settings: Settings, at: str = "") -> NewVM:
    """What the body asks for; `at` is its place in the body of the request, such as `vms/3/`."""
    devices = iter(DEVICES)

    def volume(wanted: requests.NewAttachment, field: str, device: str) -> WantedVolume:
        chosen = device if settings.chooses_devices else None
        return WantedVolume(wanted.volume_id, wanted.delete_on_termination, chosen, f"{at}{field}/volume_id")

    has_image = body.image is not None or body.image_id is not None
    return NewVM(
        name=body.name,
        flavor=choice_of(body.flavor, body.flavor_id, "flavor", at),
        image=choice_of(body.image, body.image_id, "image", at) if has_image else None,
        networks=_networks(body, at),
        labels=body.labels,
        ssh_keys=body.ssh_keys,
        user_data=body.user_data,
        ip_addresses={n: each.ip_address for n, each in enumerate(body.interfaces or ()) if each.ip_address},
        placement=Placement(body.availability_zone, body.security_groups),
        snapshot_id=body.snapshot_id,
        boot_volume=volume(body.boot_volume, "boot_volume", ROOT_DEVICE) if body.boot_volume else None,
        volumes=[volume(each, f"volumes/{n}", next(devices)) for n, each in enumerate(body.volumes)],
        at=at,
        project_id=body.project_id,
    )


def _networks(body: requests.NewVM, at: str) -> list[Choice] | None:
    if body.interfaces is not None:
        return [
            choice_of(each.network, each.network_id, "network", f"{at}interfaces/{index}/")
            for index, each in enumerate(body.interfaces)
        ]
    if body.networks is not None:
        return [Choice(name, f"{at}networks/{index}") for index, name in enumerate(body.networks)]
    if body.network_ids is not None:
        return [Choice(id, f"{at}network_ids/{index}") for index, id in enumerate(body.network_ids)]
    return None
