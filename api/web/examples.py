"""Real requests and answers, as examples in the documentation. `tests/examples` records and compares them."""

import json
from pathlib import Path
from typing import Any, Final

RECORDED: Final = Path(__file__).with_name("examples.json")
_KEPT: Final[dict[str, dict[str, Any]]] = json.loads(RECORDED.read_text())


def of_problem(code: str) -> Any:
    """A problem with this code, or None."""
    return _KEPT["problems"].get(code)


def of_request(operation_id: str) -> Any:
    """A body of this operation of the OpenAPI document, or None."""
    return _KEPT["requests"].get(operation_id)


def of_answer(operation_id: str) -> Any:
    """What such a request was answered with, or None."""
    return _KEPT["answers"].get(operation_id)
