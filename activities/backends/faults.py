"""Make the mock cloud fail on demand: `python -m activities.backends.faults --help`."""

import argparse
import asyncio
from uuid import UUID

from sqlalchemy import Executable, delete, insert

from activities.backends.mock.schema import FaultMode, create_schema, faults
from domain.data import database
from domain.settings import Settings, load_settings

VERBS = (
    "create_ports",
    "create_server",
    "start_server",
    "stop_server",
    "reboot_server",
    "resize_server",
    "confirm_server_resize",
    "revert_server_resize",
    "delete_server",
    "rebuild_server",
    "create_server_interface",
    "delete_server_interface",
    "create_server_image",
    "delete_image",
    "create_volume",
    "delete_volume",
    "attach_volume",
    "detach_volume",
    "extend_volume",
)


async def add_fault(
    settings: Settings, verb: str, mode: FaultMode, *, times: int | None = 1, vm_id: UUID | None = None
) -> None:
    """Make the next `times` calls of `verb` fail, for one VM or for all; None means all calls."""
    await _run(settings, insert(faults).values(verb=verb, mode=mode, times=times, vm_id=vm_id))


async def clear_faults(settings: Settings) -> None:
    """Delete all scripted faults."""
    await _run(settings, delete(faults))


async def _run(settings: Settings, statement: Executable) -> None:
    engine = database.create_engine(settings)
    try:
        async with engine.begin() as tx:
            await create_schema(tx)
            await tx.execute(statement)
    finally:
        await database.close(engine)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m activities.backends.faults", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="script a fault")
    add.add_argument("verb", choices=VERBS)
    add.add_argument("mode", choices=[mode.value for mode in FaultMode])
    how_often = add.add_mutually_exclusive_group()
    how_often.add_argument("--times", type=_positive, default=1, help="how many calls fail (default 1)")
    how_often.add_argument("--always", action="store_true", help="every call fails until `clear`")
    target = (
        "only calls for this VM (delete_image: this snapshot; create_volume, delete_volume, extend_volume: this volume)"
    )
    add.add_argument("--vm", "--snapshot", "--volume", dest="vm", type=UUID, help=target)
    commands.add_parser("clear", help="delete all scripted faults")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main() -> None:
    """Run the command line."""
    arguments = _parser().parse_args()
    settings = load_settings()
    if arguments.command == "clear":
        asyncio.run(clear_faults(settings))
        return
    times = None if arguments.always else arguments.times
    asyncio.run(add_fault(settings, arguments.verb, FaultMode(arguments.mode), times=times, vm_id=arguments.vm))


if __name__ == "__main__":
    main()
