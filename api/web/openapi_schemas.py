"""Rewrites the schemas of the OpenAPI document so that generated clients are good to use.

pydantic describes everything that a model accepts. A client needs to know what it should send: a field that may be left
out is left out, not sent as null, and the service fills in the default. Generators also need one name for each set of
values, and a form of objects with any keys that they know.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from api.web.problems import STATUS_OF_CODE
from domain.rules.states import Action
from domain.upkeep.attention import KINDS

Schema = dict[str, Any]

_SHARED: Mapping[str, tuple[str, Iterable[str]]] = {
    "ActionName": ("The name of an action. `reboot` is both kinds of reboot.", [action.word for action in Action]),
    "AttentionKind": ("Why something needs a person's attention.", KINDS),
    "ProblemCode": (
        "What went wrong, for programs. Later versions may add codes. The page at `type` explains each.",
        STATUS_OF_CODE,
    ),
}
# Fields whose models have plain texts, because nothing needs to be checked in an answer.
_USES = {
    "ActionName": (("VM", "allowed_actions"), ("Problem", "allowed_actions"), ("Operation", "action")),
    "AttentionKind": (("Attention", "kind"),),
    "ProblemCode": (("Problem", "code"),),
}
_REFERENCE = "#/components/schemas/"


def rewrite(document: Schema) -> None:
    """Rewrite the schemas of the document in place."""
    schemas: dict[str, Schema] = document["components"]["schemas"]
    requests = list(_schemas_of_requests(document))
    for schema in requests:
        _rewrite_all(schema, _without_null)
        _rewrite_all(schema, _without_default)
    _rewrite_all(document["paths"], _never_empty)
    for part in (schemas, document["paths"]):
        _rewrite_all(part, _without_title)
    for name, (description, values) in _SHARED.items():
        schemas[name] = {"type": "string", "enum": list(dict.fromkeys(values)), "description": description}
        for model, field in _USES[name]:
            schema = schemas[model]["properties"][field]
            text = schema.get("items", schema)
            del text["type"]
            text["$ref"] = _REFERENCE + name
    _share_words(document["paths"], schemas)
    used = set(_references(document))  # the models may name sets of words that a shared schema has replaced
    document["components"]["schemas"] = {name: schema for name, schema in sorted(schemas.items()) if name in used}


def _share_words(paths: Schema, schemas: Mapping[str, Schema]) -> None:
    """Let parameters with the words of a shared schema refer to it, so that clients have one type for them."""
    names = {tuple(schema["enum"]): name for name, schema in schemas.items() if "enum" in schema}
    for part in _parts(paths):
        words = part.get("enum")
        if isinstance(words, list) and tuple(words) in names:
            del part["enum"], part["type"]
            part["$ref"] = _REFERENCE + names[tuple(words)]


def _schemas_of_requests(document: Schema) -> Iterator[Schema]:
    """Yield the schemas of all parameters and bodies, and those to which they refer."""
    todo: list[Schema] = []
    for item in document["paths"].values():
        for operation in item.values():
            todo += operation.get("parameters", [])
            todo += operation.get("requestBody", {}).get("content", {}).values()
    seen: set[str] = set()
    while todo:
        schema = todo.pop()
        yield schema
        new = set(_references(schema)) - seen
        seen |= new
        todo += [document["components"]["schemas"][name] for name in new]


def _references(schema: Any) -> Iterator[str]:
    for part in _parts(schema):
        reference = part.get("$ref", "")
        if reference.startswith(_REFERENCE):
            yield reference.removeprefix(_REFERENCE)


def _parts(value: Any) -> Iterator[Schema]:
    """Yield every object in a JSON value, the inner ones first."""
    if isinstance(value, dict):
        for member in value.values():
            yield from _parts(member)
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _parts(item)


def _rewrite_all(value: Any, rewrite_one: Callable[[Schema], None]) -> None:
    for part in _parts(value):
        rewrite_one(part)


def _without_null(schema: Schema) -> None:
    """Leave out that the value may be null."""
    kinds = schema.get("anyOf", ())
    if {"type": "null"} in kinds:
        kinds = [kind for kind in schema.pop("anyOf") if kind != {"type": "null"}]
        schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        if schema.get("default", 0) is None:
            del schema["default"]


def _never_empty(parameter: Schema) -> None:
    """Say of a text in the query that it is not empty: such a parameter is refused."""
    schema = parameter.get("schema", {})
    if parameter.get("in") == "query" and schema.get("type") == "string" and "enum" not in schema:
        schema.setdefault("minLength", 1)


def _without_title(schema: Schema) -> None:
    """Leave out the titles, which only repeat the names. A property may have that name, too."""
    if isinstance(schema.get("title"), str):
        del schema["title"]


def _without_default(schema: Schema) -> None:
    """Say in the description what the default is: generated clients would send it in every request."""
    is_schema = "type" in schema or "$ref" in schema
    if not is_schema or isinstance(schema.get("default"), dict):
        return  # a field may have this name, too
    default = schema.pop("default", None)
    if default or default is False:
        shown = default if isinstance(default, str) else json.dumps(default)
        schema["description"] = f"{schema.get('description', '')} Default: `{shown}`.".strip()
