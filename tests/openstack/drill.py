"""What all drills on a real OpenStack have in common: a stack that uses it, and the comparison at the end."""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

from bench.usage import exit_with, log_complaints, table
from tests.openstack import logins
from tests.openstack.truth import Project, differences, read_project
from tests.support.stack import Stack
from tests.support.truth import Database
from tests.support.users import User

AGREEMENT = 120.0  # seconds for the reconciler to do its work


def say(words: str) -> None:
    """Print a line at once, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)  # noqa: T201 - a drill is a program


async def until_listed(user: User) -> None:
    """Wait until a worker has brought in what the cloud offers."""
    for kind in ("flavors", "images", "networks"):
        while not (await user.read(f"/{kind}"))["items"]:  # noqa: ASYNC110 - another process brings them in
            await asyncio.sleep(0.2)


async def until_equal(stack: Database, before: Project) -> tuple[Project, list[str]]:
    """Wait until the project has exactly what the database says; returns what it has, and the differences that stay.

    `before` is what the project had before the drill.
    """
    member, give_up_at = logins.connect(), time.monotonic() + AGREEMENT
    while True:
        project = (await asyncio.to_thread(read_project, member)).without(before)
        found = await differences(stack, project)
        if not found or time.monotonic() > give_up_at:
            return project, found
        await asyncio.sleep(2)


def run_drill(drill: Callable[[Stack, Project], Coroutine[Any, Any, list[str]]]) -> NoReturn:
    """Run a drill on a stack in a temporary folder, which is kept if there are errors; the drill returns them."""
    folder = Path(tempfile.mkdtemp())
    stack = Stack.at(folder, **logins.settings(), ACCESS_TOKEN_EXPIRE_MINUTES="1440")
    before = read_project(logins.connect())
    stack.start()
    try:
        errors = asyncio.run(drill(stack, before))
        table("in the logs", "times", rows=log_complaints(stack))
    finally:
        stack.stop()
    if errors:
        say(f"the database and the logs are in {folder}")
    else:
        shutil.rmtree(folder)
    exit_with(errors)


def numbers(*defaults: int) -> list[int]:
    """Return the numbers of the command line, and the defaults for those that it lacks."""
    given = [int(number) for number in sys.argv[1:]]
    return [*given, *defaults[len(given) :]]
