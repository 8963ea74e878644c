"""Puts real requests and answers into the OpenAPI document, as examples."""

from typing import Any

from api.web import examples
from api.web.models import Validity
from api.web.problem_types import PROBLEM_TYPES
from api.web.problems import MEDIA_TYPE, STATUS_OF_CODE


def add(document: dict[str, Any]) -> None:
    """Give every body of the document an example, and every answer with problems one of each."""
    used: set[str] = set()
    for item in document["paths"].values():
        for operation in item.values():
            used |= _add_to(operation)
    document["components"]["examples"] = {
        code: {"summary": kind.title, "value": examples.of_problem(code)}
        for code, kind in PROBLEM_TYPES.items()
        if code in used
    }


def _add_to(operation: dict[str, Any]) -> set[str]:
    """Add what the operation is asked and answered; returns the codes of the problems."""
    name = operation["operationId"]
    codes = {code for code in operation["x-problem-codes"] if examples.of_problem(code)}
    if request := examples.of_request(name):
        for content in operation["requestBody"]["content"].values():
            content["example"] = request
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if MEDIA_TYPE in content:
            of_status = [code for code in STATUS_OF_CODE if code in codes and str(STATUS_OF_CODE[code]) == status]
            content[MEDIA_TYPE]["examples"] = {code: {"$ref": f"#/components/examples/{code}"} for code in of_status}
        elif "application/json" in content and (answer := _answer(name, content["application/json"])):
            content["application/json"]["example"] = answer
    return codes


def _answer(operation: str, content: dict[str, Any]) -> Any:
    is_trial = content["schema"].get("$ref", "").endswith(f"/{Validity.__name__}")
    return Validity().model_dump() if is_trial else examples.of_answer(operation)
