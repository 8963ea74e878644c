"""What a failed request means: one table from what the cloud answered, or how its answer was lost, to a BackendError.

The table matches on the status and the type of the error first, and on words only where the cloud has nothing better:
its texts change between releases.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from activities.backends.protocol import BackendError
from domain.rules.text import is_unseen

LONGEST_MESSAGE: Final = 500  # characters of the cloud's own words
LOGIN_PAUSE: Final = 30.0  # seconds


class Service(StrEnum):
    """A service of the cloud, by its type in the catalogue."""

    COMPUTE = "compute"
    VOLUME = "block-storage"
    NETWORK = "network"
    IMAGE = "image"
    IDENTITY = "identity"


class Lost(StrEnum):
    """How a request ends without an answer of the service; the value is a part of the message."""

    UNREACHABLE = "cannot be reached"  # connection refused, no such host, no TLS: not a byte of the request went out
    CUT = "did not answer in time, or the connection broke"
    UNREADABLE = "gave an answer that cannot be read"
    UNDISCOVERED = "does not say which versions it offers"


class CloudError(BackendError):
    """The cloud refused a request or failed to answer it.

    `ambiguous` means that the cloud may have done what was asked all the same, or still does it. `status` is the HTTP
    status; None if the service gave no answer.
    """

    def __init__(  # noqa: PLR0913 - all that a caller may want to know
        self,
        code: str,
        message: str,
        *,
        retryable: bool,
        ambiguous: bool = False,
        retry_after: float | None = None,
        request_id: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(code, message, retryable=retryable, retry_after=retry_after)
        self.ambiguous = ambiguous
        self.request_id = request_id
        self.status = status


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed. `kind` and `words` are the type and the text of the error in the body of the answer.

    Without an answer, the words say what happened to the connection. `is_own` means that the service itself gave the
    answer, not a proxy in front of it.
    """

    service: Service
    method: str
    path: str
    status: int | Lost
    kind: str = ""
    words: str = ""
    retry_after: float | None = None
    request_id: str | None = None
    is_own: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. It applies to the statuses and, if they are given, the service, the words and the condition.

    The words are a regular expression that is looked for in the type and in the text of the error. `pause` is the
    `retry_after` of an answer that names none.
    """

    statuses: Collection[int | Lost]
    code: str
    retryable: bool = False
    ambiguous: bool = False
    service: Service | None = None
    words: str = ""
    pause: float | None = None
    condition: Callable[[Failure], bool] = lambda _: True

    def applies(self, failure: Failure) -> bool:
        """Return whether the row is the one for this failure, if none before it is."""
        return (
            failure.status in self.statuses
            and self.service in (None, failure.service)
            and re.search(self.words, f"{failure.kind}: {failure.words}", re.IGNORECASE) is not None
            and self.condition(failure)
        )


_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _is_about_the_body(failure: Failure) -> bool:
    """Whether a 404 is about something that the body names, such as a network, and not about the path."""
    if failure.method not in {"POST", "PUT", "PATCH"}:
        return False
    named = _ID.findall(failure.words.lower())
    return not any(id in failure.path for id in named) if named else not _ID.search(failure.path)


def _comes_from_a_proxy(failure: Failure) -> bool:
    return not failure.is_own


def _is_action(failure: Failure) -> bool:
    return failure.path.endswith("/action")


_QUOTA: Final = (
    r"quota|maximum number of (?!metadata|injected).* exceeded|LimitExceeded|ExceedsAvailable|ExceedsLimit"
    r"|is over the limit|too many servers in group"
)
_AWAY: Final = r"service is unavailable|(temporarily|currently) unavailable|failed to delete allocations"

RULES: Final = (
    # Keystone, before the request itself was sent. It may be half up, so even a wrong password is tried again. But
    # slowly, because a cloud may lock the account.
    Rule({*range(400, 408), 409}, "cloud_auth_failed", retryable=True, service=Service.IDENTITY, pause=LOGIN_PAUSE),
    Rule(range(500, 600), "cloud_unavailable", retryable=True, service=Service.IDENTITY),
    # No answer of the service.
    Rule({Lost.UNREACHABLE, Lost.UNDISCOVERED}, "cloud_unavailable", retryable=True),
    Rule({Lost.CUT}, "cloud_timeout", retryable=True, ambiguous=True),
    Rule({Lost.UNREADABLE}, "cloud_error", retryable=True, ambiguous=True),
    # Another service of the cloud, or the server's host, is away.
    Rule({400, 409}, "cloud_unavailable", retryable=True, words=_AWAY),
    # 400
    Rule({400}, "address_in_use", words=r"(ip|mac) address .* in use"),
    Rule({400}, "invalid_image", words=r"image .* (is not active|is unacceptable|is corrupt)|too small for .*image"),
    Rule({400}, "invalid_image", words=r"find (requested )?image"),
    Rule({400}, "conflict", words=r"already attached|status must be|unable to detach|detach a root device"),
    Rule({400}, "bad_request"),
    # 401 after a new login; 403
    Rule({401}, "cloud_auth_failed", retryable=True, pause=LOGIN_PAUSE),
    Rule({403}, "quota_exceeded", words=_QUOTA),
    Rule({403}, "bad_request", words=r"maximum number of"),
    # A member may choose an address only on a network of its own project.
    Rule({403}, "not_supported_by_cloud", words=r"create_port:(fixed_ips|mac_address)"),
    Rule({403}, "forbidden"),
    # 404. A broken proxy may answer it to everything; taken for "it does not exist", it would lose servers.
    Rule({404}, "cloud_unavailable", retryable=True, condition=_comes_from_a_proxy),
    Rule({404}, "bad_request", condition=_is_about_the_body),
    Rule({404, 410}, "not_found"),
    Rule({405, 406, 501, 505}, "not_supported_by_cloud"),
    Rule({408}, "cloud_timeout", retryable=True, ambiguous=True),
    # 409
    Rule({409}, "quota_exceeded", words=_QUOTA),
    Rule({409}, "address_in_use", words=r"IpAddressAlreadyAllocated|MacAddressInUse|(ip|mac) address .* in use"),
    Rule({409}, "no_addresses", words=r"IpAddressGenerationFailure|no more ip addresses|no fixed ip addresses"),
    Rule({409}, "locked", words=r"is locked"),
    Rule({409}, "busy", retryable=True, words=r"task_state|is not ready"),
    Rule({409}, "conflict"),
    # 413 is three things: a quota of Cinder or Glance, which no pause mends; a body that is too large; a rate limit.
    Rule({413}, "quota_exceeded", words=_QUOTA),
    Rule({413}, "bad_request", words=r"too large"),
    Rule({413}, "quota_exceeded", service=Service.VOLUME, condition=lambda failure: failure.retry_after == 0),
    Rule({413, 429}, "rate_limited", retryable=True),
    Rule(range(400, 500), "bad_request"),
    # A quota of Glance is used up. Nova knows no answer for that, and names the class of the error.
    Rule({500}, "quota_exceeded", service=Service.COMPUTE, words=r"HTTPOverLimit|ImageQuotaExceeded"),
    # Nova answers 500 to an action that met another one. The rest may have been done, in part or wholly.
    Rule({500}, "busy", retryable=True, service=Service.COMPUTE, condition=_is_action),
    Rule({502, 504}, "cloud_timeout", retryable=True, ambiguous=True),
    Rule({503}, "cloud_unavailable", retryable=True),
    Rule(range(300, 600), "cloud_error", retryable=True, ambiguous=True),
)
"""The first row that applies decides."""


def cloud_error(failure: Failure) -> CloudError:
    """Return the error that the table gives for the failure."""
    rule = next(rule for rule in RULES if rule.applies(failure))
    pause = rule.pause if failure.retry_after is None else failure.retry_after
    return CloudError(
        rule.code,
        _message(failure),
        retryable=rule.retryable,
        # A login that failed was before the request: no byte of that went out.
        ambiguous=rule.ambiguous and failure.service is not Service.IDENTITY,
        retry_after=pause if rule.retryable else None,
        request_id=failure.request_id,
        status=None if isinstance(failure.status, Lost) else failure.status,
    )


def name_of(service: Service) -> str:
    """Return what people call the service."""
    return "volume" if service is Service.VOLUME else service


def _message(failure: Failure) -> str:
    subject = f"The cloud's {name_of(failure.service)} service"
    if isinstance(failure.status, Lost):
        return f"{subject} {failure.status}" + (f": {clean(failure.words)}" if failure.words else ".")
    numbers = f"HTTP {failure.status}" + (f", request {failure.request_id}" if failure.request_id else "")
    verb = "refused the request" if failure.status < 500 else "failed"  # noqa: PLR2004 - a class of HTTP statuses
    words = f": {clean(failure.words)}" if failure.words else "."
    return f"{subject} {verb}{words} ({numbers})"


def clean(words: str) -> str:
    """Return the cloud's words as one short line of visible characters, without user data."""
    if "user_data" in words:
        # Nova repeats the value of a field that it refuses, or the whole body. User data may hold secrets, and messages
        # end up in logs.
        words = words.partition(" Value:")[0]
    line = " ".join("".join(" " if is_unseen(character) else character for character in words).split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."
