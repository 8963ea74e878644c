"""Write the generated parts of the client: `python -m tests.vmctl.generated`.

The models come from the OpenAPI document. The synchronous client comes from the asynchronous one, which people write.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.clients.commands import write_document
from tests.meta.files import ROOT

CLIENT = ROOT / "vmctl/client"
MARK = "# Generated from {} by `python -m tests.vmctl.generated`.\n\n"
REFERENCE = "#/components/schemas/"
# The service checks what it gets; a client that also did would refuse what a later version of the service accepts.
LIMITS = frozenset(
    {"pattern", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minimum", "maximum"}
    | {"exclusiveMinimum", "exclusiveMaximum", "minProperties", "maxProperties", "propertyNames", "examples", "title"}
)
STYLE = ("--use-schema-description", "--use-field-description", "--use-inline-field-description", "--use-double-quotes")
IMPORTS = ("--use-exact-imports", "--disable-future-imports", "--formatters", "builtin")
COMMON = ("--input-file-type", "openapi", "--target-python-version", "3.11", "--disable-timestamp", *STYLE, *IMPORTS)
TYPED_DICT = ("--output-model-type", "typing.TypedDict", "--no-use-closed-typed-dict", "--enum-field-as-literal", "all")
PYDANTIC = (
    *("--output-model-type", "pydantic_v2.BaseModel", "--target-pydantic-version", "2.12", "--use-specialized-enum"),
    *("--capitalise-enum-members", "--strict-nullable", "--base-class", "vmctl.client.base.Answer"),
)
# What differs between the two clients, in this order.
SYNCHRONOUS = (
    (r"from asyncio import Lock, sleep", "from threading import Lock\nfrom time import sleep"),
    (r"from asyncio import sleep", "from time import sleep"),
    (r"\bAwaitable\[((?:[^\[\]]|\[[^\]]*\])*)\]", r"\1"),
    (r"\bawait |\basync (?=def|with|for)", ""),
    (r"vmctl\.client\.aio\b", "vmctl.client.sync"),
    (r"\n[^\n]*# asynchronous only", ""),
    (r"\bself\.background\.carry\(((?:[^()]|\([^()]*\))*)\)", r"\1"),
    (r"\bAsync(?=Client|Iterator|BaseTransport)", ""),
    (
        r"\b__a(?=enter__|exit__)|\ba(?=close\(|iter_sse|iter_bytes|iter_text|connect_sse)",
        lambda found: found[0].rstrip("a"),
    ),
)


def main() -> None:
    """Write all generated files."""
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def generated() -> dict[Path, str]:
    """The text of each generated file."""
    return {**_models(), **_synchronous_client()}


def _models() -> dict[Path, str]:
    """The models of answers, and typed dictionaries for the bodies of requests."""
    with tempfile.TemporaryDirectory() as folder:
        document = json.loads(write_document(Path(folder)).read_text())
    schemas: dict[str, Any] = document["components"]["schemas"]
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    bodies = _reachable(schemas, _references([operation.get("requestBody") for operation in operations]))
    answers = _reachable(schemas, _references([operation["responses"] for operation in operations]))
    answers -= {name for name in answers if "next_cursor" in schemas[name].get("properties", {})}  # the client reads on
    models = _datamodel("What the service answers.", {name: _answer(schemas[name]) for name in answers}, *PYDANTIC)
    models = models.replace("from enum import StrEnum\n", "").replace("(StrEnum)", "(Word)")
    models = models.replace("vmctl.client.base import Answer", "vmctl.client.base import Answer, Word")
    return {
        CLIENT / "models.py": models,
        CLIENT / "requests.py": _datamodel(
            "What the service is sent.", {name: _body(schemas[name]) for name in bodies}, *TYPED_DICT
        ),
    }


def _datamodel(docstring: str, schemas: dict[str, Any], *options: str) -> str:
    """The module that the generator makes of the schemas."""
    document = {"openapi": "3.1.0", "info": {"title": "API", "version": "1"}, "paths": {}}
    components = {"components": {"schemas": dict(sorted(schemas.items()))}}
    command = [str(Path(sys.executable).with_name("datamodel-codegen")), *COMMON, *options]
    text = json.dumps(document | components)
    code: str = subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout
    header = MARK.format("the OpenAPI document")
    return f'{header}"""{docstring}"""\n\n' + code.partition("\n\n")[2]


def _answer(schema: Any) -> Any:
    """A schema of an answer as the client needs it."""
    if isinstance(schema, list):
        return [_answer(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: part for name, part in schema.items() if name not in LIMITS}
    if "properties" in schema:
        fields = {name: _without_words(_answer(part)) for name, part in schema["properties"].items()}
        kept |= {"properties": fields}
        return kept
    return {name: _answer(part) for name, part in kept.items()}


def _without_words(field: dict[str, Any]) -> dict[str, Any]:
    """A field as a plain text if its words have no name: later versions of the service may have more of them."""
    return {name: part for name, part in field.items() if name not in {"enum", "const"}}


def _body(schema: Any) -> Any:
    """A schema of a request as the client needs it; an id may be given as a text."""
    if isinstance(schema, list):
        return [_body(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        fields = {name: _body(part) for name, part in schema["properties"].items()}
        return {name: part for name, part in schema.items() if name not in LIMITS} | {"properties": fields}
    if schema.get("format") == "uuid":
        return {"type": "string", "x-python-type": "UUID | str"}
    return {name: _body(part) for name, part in schema.items() if name not in LIMITS}


def _synchronous_client() -> dict[Path, str]:
    """The modules of the synchronous client, formatted."""
    modules = {}
    for source in sorted((CLIENT / "aio").glob("*.py")):
        text = source.read_text()
        for pattern, replacement in SYNCHRONOUS:
            text = re.sub(pattern, replacement, text)
        path = CLIENT / "sync" / source.name
        modules[path] = _formatted(MARK.format(f"aio/{source.name}") + text, path)
    return modules


def _formatted(text: str, path: Path) -> str:
    ruff = str(Path(sys.executable).with_name("ruff"))
    for command in (["check", "--select", "I,F401,UP034", "--fix", "--quiet"], ["format"]):
        line = [ruff, *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(line, input=text, text=True, capture_output=True, check=True, cwd=ROOT).stdout
    return text


def _reachable(schemas: dict[str, Any], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(schemas[name])
    return found


def _references(part: Any) -> Iterator[str]:
    """Yield the names of the schemas to which a part of the document refers."""
    if isinstance(part, dict):
        reference = str(part.get("$ref", ""))
        if reference.startswith(REFERENCE):
            yield reference.removeprefix(REFERENCE)
    for child in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _references(child)


if __name__ == "__main__":
    main()
