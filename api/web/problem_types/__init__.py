"""The catalogue of problems: every code that an answer can have, and what it means.

A new code is one entry in one of the modules here. Everything else follows from it: the status of the answer, its
`title` and `type`, docs/problems.md, the pages below `/docs/problems`, and the enum in the OpenAPI document.
"""

from typing import Final

from api import PREFIX
from api.web.problem_types.callers import CALLERS
from api.web.problem_types.entry import ProblemType, Retry
from api.web.problem_types.requests import REQUESTS
from api.web.problem_types.resources import CONFLICTS, MISFITS
from api.web.problem_types.service import SERVICE

__all__ = ["PAGES", "PROBLEM_TYPES", "ProblemType", "Retry", "type_of"]
PAGES: Final = f"{PREFIX}/docs/problems"

PROBLEM_TYPES: Final[dict[str, ProblemType]] = dict(
    sorted((REQUESTS | CALLERS | CONFLICTS | MISFITS | SERVICE).items(), key=lambda entry: entry[1].status)
)
"""Every kind of problem by its code, in the order of their statuses."""


def type_of(code: str) -> str:
    """The `type` of a problem with this code: the path of its page."""
    return f"{PAGES}/{code}"
