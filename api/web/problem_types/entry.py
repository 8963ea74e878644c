"""What the catalogue says about each kind of problem."""

from dataclasses import dataclass
from enum import StrEnum


class Retry(StrEnum):
    """Whether it helps to send the same request again."""

    NO = "No. The same request is refused again."
    AFTER_CHANGE = "Yes, once the resource has changed. The request has changed nothing."
    LATER = "Yes, after a wait. The request has changed nothing. If it is refused again, wait longer."
    WITH_KEY = "Yes, with the same `Idempotency-Key`: the request may have taken effect."


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem. The texts are Markdown, of which they use only `code`."""

    status: int
    title: str
    meaning: str
    advice: str  # what the client should do
    retry: Retry
