"""Puts real requests and answers into the OpenAPI document, as examples."""

from typing import Any

from api.web import examples
from api.web.problem_types import PROBLEM_TYPES
from api.web.problems import MEDIA_TYPE, STATUS_OF_CODE


def add(document: dict[str, Any]) -> None:
    """Give every body of the document an example, and every answer with problems one of each."""
    document["components"]["examples"] = {
        code: {"summary": kind.title, "value": value}
        for code, kind in PROBLEM_TYPES.items()
        if (value := examples.of_problem(code))
    }
    for item in document["paths"].values():
        for operation in item.values():
            _add_to(operation, document["components"]["examples"])


def _add_to(operation: dict[str, Any], of_problems: dict[str, Any]) -> None:
    name = operation["operationId"]
    if request := examples.of_request(name):
        operation["requestBody"]["content"]["application/json"]["example"] = request
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if MEDIA_TYPE in content:
            codes = [code for code in operation["x-problem-codes"] if str(STATUS_OF_CODE[code]) == status]
            known = [code for code in codes if code in of_problems]
            content[MEDIA_TYPE]["examples"] = {code: {"$ref": f"#/components/examples/{code}"} for code in known}
        elif "application/json" in content and (answer := examples.of_answer(name)):
            content["application/json"]["example"] = answer
