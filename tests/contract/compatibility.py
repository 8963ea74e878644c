"""Compares the OpenAPI document with that of the last release, and says what would break its clients.

`python -m tests.contract.compatibility` compares; `... release` makes the present document the one of the last release.

A change breaks a client if a request that was right is refused now, if an answer lacks what it promised or has what the
client cannot know, or if generated code no longer has a name. New paths, optional parameters and fields of answers
break nothing, and neither do new problem codes: their description says that there will be more.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from api.app import create_app
from tests.conftest import make_settings
from tests.contract.schemas import Schemas

ROOT: Final = Path(__file__).parents[2]
RELEASED: Final = ROOT / "docs" / "openapi.json"
ACCEPTED: Final = Path(__file__).with_name("accepted_breaks.txt")
Document = dict[str, Any]


def breaks(old: Document, new: Document) -> list[str]:
    """What breaks clients of the old document, a line for each."""
    lines = [*_paths(old, new)]
    gone = set(old["components"]["schemas"]) - set(new["components"]["schemas"])
    lines += [f"schema {name}: gone" for name in sorted(gone)]
    return list(dict.fromkeys(lines))


def _paths(old: Document, new: Document) -> Iterator[str]:
    schemas = Schemas(old, new)
    for path, item in old["paths"].items():
        for method, operation in item.items():
            name = f"{method.upper()} {path}"
            now = new["paths"].get(path, {}).get(method)
            if now is None:
                yield f"{name}: gone"
                continue
            for line in _operation(operation, now, schemas):
                yield f"{name}: {line}"


def _operation(old: Document, new: Document, schemas: Schemas) -> Iterator[str]:
    for word in ("operationId", "tags"):
        if old[word] != new[word]:
            yield f"{word} was {old[word]}, is {new[word]}"
    if new["security"] and not old["security"]:
        yield "needs a token now"
    yield from _parameters(old, new, schemas)
    yield from _body(old.get("requestBody"), new.get("requestBody"), schemas)
    for status, response in old["responses"].items():
        if status < "300":
            now = new["responses"].get(status)
            yield from _answer(response, now, schemas, status) if now else (f"answer {status}: gone",)


def _parameters(old: Document, new: Document, schemas: Schemas) -> Iterator[str]:
    before, now = (_by_place(operation.get("parameters", [])) for operation in (old, new))
    for place, parameter in before.items():
        name = f"parameter {parameter['name']}"
        if place not in now:
            yield f"{name}: gone"
            continue
        if now[place].get("required") and not parameter.get("required"):
            yield f"{name}: is required now"
        yield from schemas.refused(parameter["schema"], now[place]["schema"], name)
    for place, parameter in now.items():
        if parameter.get("required") and place not in before:
            yield f"parameter {parameter['name']}: is new and required"


def _by_place(parameters: list[Document]) -> dict[tuple[str, str], Document]:
    return {(parameter["in"], parameter["name"]): parameter for parameter in parameters}


def _body(old: Document | None, new: Document | None, schemas: Schemas) -> Iterator[str]:
    if new and new.get("required") and not (old and old.get("required")):
        yield "body: is required now"
    if old is None:
        return
    content = new["content"] if new else {}
    for media_type, body in old["content"].items():
        if media_type not in content:
            yield f"body: {media_type} is refused now"
        else:
            yield from schemas.refused(body["schema"], content[media_type]["schema"], "body")


def _answer(old: Document, new: Document, schemas: Schemas, status: str) -> Iterator[str]:
    for header in sorted(set(old.get("headers", {})) - set(new.get("headers", {}))):
        yield f"answer {status}: header {header} is gone"
    content = new.get("content", {})
    for media_type, body in old.get("content", {}).items():
        if media_type not in content:
            yield f"answer {status}: {media_type} is gone"
        else:
            yield from schemas.unknown(body["schema"], content[media_type]["schema"], f"answer {status}")


def present() -> Document:
    """The document of this checkout without its examples, which are no promise."""
    document: Document = json.loads(json.dumps(create_app(make_settings("postgresql://unused/unused")).openapi()))
    document["components"].pop("examples", None)
    for item in document["paths"].values():
        for operation in item.values():
            for part in (operation.get("requestBody", {}), *operation["responses"].values()):
                for content in part.get("content", {}).values():
                    content.pop("example", None)
                    content.pop("examples", None)
    return document


def differences() -> list[str]:
    """What is wrong: breaks that nobody has accepted, and accepted ones that are none."""
    found = breaks(json.loads(RELEASED.read_text()), present())
    accepted = [line for line in ACCEPTED.read_text().splitlines() if line and not line.startswith("#")]
    unexpected = [f"breaks clients: {line}" for line in found if line not in accepted]
    return unexpected + [f"does not break clients any more: {line}" for line in accepted if line not in found]


def main() -> int:
    """Compare, or release, and return the exit code."""
    if "release" in sys.argv[1:]:
        RELEASED.write_text(json.dumps(present(), indent=1) + "\n")
        comments = [line for line in ACCEPTED.read_text().splitlines() if line.startswith("#")]
        ACCEPTED.write_text("\n".join(comments) + "\n")
        return 0
    found = differences()
    if found:
        advice = f"Undo it, or write the line into {ACCEPTED.relative_to(ROOT)} and the reason into the CHANGELOG."
        sys.stderr.write("\n".join([*found, advice, ""]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
