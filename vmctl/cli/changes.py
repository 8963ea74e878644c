"""What commands that change something have in common: to wait for it or not, and what they print."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from pydantic import BaseModel

from vmctl.cli import exits, numbers
from vmctl.cli.output import Column, Format, print_list, print_one
from vmctl.cli.progress import follow
from vmctl.cli.session import current
from vmctl.cli.stops import StoppedError
from vmctl.client import ClientError, OperationError, UnreachableError
from vmctl.client.models import Operation, OperationStatus
from vmctl.client.sync.waiting import Accepted, check

Wait = Annotated[bool, typer.Option("--wait/--no-wait", "-w", help="Wait until it is done, and show how far it is.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds to wait at most.", metavar="SECONDS", parser=numbers.seconds)
]

T = TypeVar("T", bound=BaseModel)


def conclude(accepted: Accepted[T], name: str, output: Format, *, wait: bool, timeout: float | None = None) -> T:
    """Print the resource of an accepted change: as it is now, or after the change is made."""
    resource, failures = accepted.resource, list[ClientError]()
    if wait:
        wait_for(accepted, name, timeout)
        resource = _read_again(accepted, failures)
    print_one(resource, output)
    if not wait and accepted.operation_id:
        _say_how_to_wait(accepted.operation_id)
    _fail_for(failures)
    return resource


def conclude_all(
    accepted: Sequence[Accepted[T]], columns: Sequence[Column], output: Format, *, wait: bool, timeout: float | None
) -> None:
    """The same for several changes that were accepted together."""
    resources = [each.resource for each in accepted]
    names = {each.operation_id: str(getattr(each.resource, "name", "")) for each in accepted if each.operation_id}
    failures: list[ClientError] = []
    if wait:
        failures = report(follow(current(), names, timeout))
        resources = [_read_again(each, failures) for each in accepted]
    print_list(resources, columns, output)
    if not wait:
        _say_how_to_wait(*names)
    _fail_for(failures)


def _read_again(accepted: Accepted[T], failures: list[ClientError]) -> T:
    """The resource as it is now. If it cannot be read, say so, and return what was answered at first.

    The others are not asked for then: a service that does not answer would take long for each of them.
    """
    if not all(isinstance(failure, OperationError) for failure in failures):
        return accepted.resource
    try:
        return accepted.read()
    except ClientError as error:
        name = getattr(accepted.resource, "name", "It")
        current().say(f"{name} could not be read again. Shown is what was accepted. {exits.text_of(error)}")
        failures.append(error)
        return accepted.resource


def wait_for(accepted: Accepted[Any], name: str, timeout: float | None) -> None:
    """Wait until a change is made, and show how far it is."""
    if accepted.operation_id:
        [operation] = follow(current(), {accepted.operation_id: name}, timeout)
        check(operation)


def each(names: Mapping[UUID, str], ask: Callable[[UUID], Accepted[None]], wait: bool, timeout: float | None) -> None:  # noqa: FBT001
    """Ask for the same change of several resources, and go on if one is refused. Fails in the end if any has failed.

    If the service does not answer, it is not asked for the others: that would take long for each of them.
    """
    failures: list[ClientError] = []
    followed: dict[UUID, str] = {}
    try:
        _ask_all(names, ask, failures, followed, is_told=not wait)
    except (KeyboardInterrupt, StoppedError):
        if followed:
            current().say(f"\nInterrupted. What was asked for goes on. {exits.how_to_go_on(*map(str, followed))}")
        raise
    if followed and wait:
        failures += report(follow(current(), followed, timeout))
    elif followed:
        _say_how_to_wait(*followed)
    _fail_for(failures)


def _ask_all(
    names: Mapping[UUID, str],
    ask: Callable[[UUID], Accepted[None]],
    failures: list[ClientError],
    followed: dict[UUID, str],
    *,
    is_told: bool,
) -> None:
    """Ask for each, and add to the failures or to the operations to follow; print what is accepted if `is_told`."""
    session, left = current(), dict(names)
    for id, name in names.items():
        del left[id]
        try:
            accepted = ask(id)
        except ClientError as error:
            session.say(f"{name}: {exits.text_of(error)}")
            failures.append(error)
            if isinstance(error, UnreachableError):
                break
            continue
        if accepted.operation_id:
            followed[accepted.operation_id] = name
        if is_told:
            session.out.print(f"{name}: accepted", markup=False)
    if left:
        session.say(f"Not asked for: {', '.join(left.values())}")


def _fail_for(failures: Sequence[ClientError]) -> None:
    if failures:
        raise exits.ReportedError(exits.code_of_all(failures))


def report(operations: Iterable[Operation]) -> list[ClientError]:
    """Say how operations have failed, and return their errors."""
    failures: list[ClientError] = []
    for operation in operations:
        if operation.status is not OperationStatus.SUCCEEDED:
            error = OperationError(operation)
            current().say(exits.text_of(error))
            failures.append(error)
    return failures


def _say_how_to_wait(*ids: UUID) -> None:
    if current().err.is_terminal:
        current().say(f"Accepted. Wait for it with: vmctl op wait {' '.join(map(str, ids))}")
