"""A typed client of the API, synchronous (`Client`) and asynchronous (`AsyncClient`)."""

from vmctl.client import models
from vmctl.client.aio.client import AsyncClient
from vmctl.client.errors import (
    AmbiguousNameError,
    ClientError,
    NotFoundError,
    NoTrialError,
    OperationError,
    ProblemError,
    UnreachableError,
    UnreadableError,
    UnusableError,
    WaitTimeoutError,
)
from vmctl.client.sync.client import Client
from vmctl.client.sync.waiting import check

__all__ = [
    "AmbiguousNameError",
    "AsyncClient",
    "Client",
    "ClientError",
    "NoTrialError",
    "NotFoundError",
    "OperationError",
    "ProblemError",
    "UnreachableError",
    "UnreadableError",
    "UnusableError",
    "WaitTimeoutError",
    "check",
    "models",
]
