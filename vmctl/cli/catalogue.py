"""`vmctl network`, `flavor`, `image`, `zone` and `security-group`: what VMs are made of."""

from collections.abc import Callable, Iterable, Sequence

import typer
from pydantic import BaseModel

from vmctl.cli.output import ID, Column, Format, Output, field, print_list
from vmctl.cli.session import current
from vmctl.client import Client


def _catalogue(help: str, read: Callable[[Client], Iterable[BaseModel]], columns: Sequence[Column]) -> typer.Typer:
    app = typer.Typer(help=help, no_args_is_help=True)

    @app.callback()
    def group() -> None:
        pass  # makes `list` a command of its own, although it is the only one

    @app.command("list")
    def list_all(output: Output = Format.TABLE) -> None:
        """List all."""
        print_list(read(current().client), columns, output)

    return app


flavors = _catalogue(
    "Sizes of VMs.",
    lambda client: client.flavors.list(),
    [field("name"), field("vcpus"), field("ram_mb", title="RAM MIB"), field("disk_gb", title="DISK GIB"), ID],
)
images = _catalogue(
    "What VMs boot from.",
    lambda client: client.images.list(),
    [
        field("name"),
        field("os_distro", title="OS"),
        field("os_version", title="VERSION"),
        field("size_gb", title="GIB"),
        field("is_default", title="DEFAULT"),
        ID,
    ],
)
networks = _catalogue(
    "Networks.",
    lambda client: client.networks.list(),
    [
        field("name"),
        field("cidr", title="CIDR"),
        field("gateway"),
        field("free_addresses", title="FREE"),
        field("is_default", title="DEFAULT"),
        ID,
    ],
)
zones = _catalogue("Availability zones.", lambda client: client.availability_zones(), [field("name")])
groups = _catalogue(
    "Security groups.",
    lambda client: client.security_groups.list(),
    [field("name"), field("description"), ID],
)
