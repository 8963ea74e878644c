"""Consoles of VMs: what a request asks a worker for, and how much of a console's log one gets.

Only workers talk to the cloud. The API starts a short workflow for each request and waits for it. What a console shows,
and the address of one, may be secret, and Temporal keeps what workflows return. So the worker writes its answer to a
row of `console_answers`, and the API takes it from there (ADR 038).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

READ_CONSOLE: Final = "ReadConsole"
"""The name of the workflow."""
ANSWER_REQUEST: Final = "answer_console_request"
"""The name of its activity."""
ATTEMPT_TIMEOUT: Final = 10.0
"""Seconds that a worker has for one attempt."""
ANSWER_TIMEOUT: Final = 15.0
"""Seconds that all attempts have together."""
WAIT_TIMEOUT: Final = 17.0
"""Seconds that the API waits; if no worker runs, nobody answers before."""
NO_CONSOLE: Final = "no_console"
"""The code of a BackendError: the server has no console now, for example because it is being built."""
MOST_LINES: Final = 10_000
LARGEST: Final = 256 * 1024
"""Bytes of a log."""


class ConsoleRequestKind(StrEnum):
    """What a request wants of a console: what it shows, or the address of a page that lets one use it."""

    LOG = "log"
    ADDRESS = "address"


@dataclass(frozen=True)
class ConsoleRequest:
    """A request for the VM's console. `id` names the row for the answer, and `lines` says how many of a log."""

    id: UUID
    vm_id: UUID
    kind: ConsoleRequestKind
    lines: int = MOST_LINES


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a log; `is_truncated`: the lines were longer than LARGEST, and the first of them are missing."""

    output: str
    is_truncated: bool


def console_queue(task_queue: str) -> str:
    """Return the task queue of these workflows and of their activity: a slow console must not hold up operations."""
    return f"{task_queue}-consoles"


def tail(log: str, lines: int) -> Tail:
    """The last lines of the log. Not every cloud counts them, so they are counted here."""
    output = "\n".join(log.removesuffix("\n").split("\n")[-lines:])
    content = output.encode(errors="replace")
    if len(content) <= LARGEST:
        return Tail(content.decode(), is_truncated=False)
    end = content[-LARGEST:].decode(errors="ignore")
    _, _, whole_lines = end.partition("\n")
    return Tail(whole_lines or end, is_truncated=True)
