"""Compares JSON schemas of two OpenAPI documents: what the new one refuses, and what it no longer promises."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Schema = dict[str, Any]

_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SIZES: Final = ("minLength", "minItems", "minProperties")
_LOWER: Final = ("minimum", "exclusiveMinimum", *_SIZES)
_FORMS: Final = ("pattern", "format", "const", "multipleOf", "propertyNames")
_OPEN: Final = "Later versions may add"  # in the description of a set of words that is not complete


@dataclass
class Schemas:
    """The schemas of both documents.

    A pair of shared schemas is compared once, because they may refer to themselves.
    """

    old: Schema
    new: Schema
    _seen: set[tuple[str, str, str]] = field(default_factory=set)

    def refused(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        """What clients of the old schema may send that the new one refuses."""
        if self._is_known("sent", old, new):
            return
        old, new = _resolved(self.old, old), _resolved(self.new, new)
        kinds, kinds_now = _variants(old), _variants(new)
        for kind in sorted(set(kinds) - set(kinds_now)):
            if not (kind == "integer" and "number" in kinds_now) and "any" not in kinds_now:
                yield f"{where}: {kind} is refused now"
        for kind in sorted(set(kinds) & set(kinds_now)):
            yield from self._refused(_resolved(self.old, kinds[kind]), _resolved(self.new, kinds_now[kind]), where)

    def _refused(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        for line in _tighter(old, new):
            yield f"{where}: {line}"
        for name, inner in old.get("properties", {}).items():
            if name in new.get("properties", {}):
                yield from self.refused(inner, new["properties"][name], f"{where}.{name}")
            elif new.get("additionalProperties") is False:
                yield f"{where}: {name} is refused now"
        for inner, mark in (("items", "[]"), ("additionalProperties", ".*")):
            if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
                yield from self.refused(old[inner], new[inner], where + mark)

    def unknown(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        """What the new schema may answer that clients of the old one do not know, and what it no longer promises."""
        if self._is_known("answered", old, new):
            return
        old, new = _resolved(self.old, old), _resolved(self.new, new)
        kinds, kinds_now = _variants(old), _variants(new)
        for kind in sorted(set(kinds_now) - set(kinds)):
            if not (kind == "integer" and "number" in kinds) and "any" not in kinds:
                yield f"{where}: may be {kind} now"
        for kind in sorted(set(kinds) & set(kinds_now)):
            yield from self._unknown(_resolved(self.old, kinds[kind]), _resolved(self.new, kinds_now[kind]), where)

    def _unknown(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        if _values(old) and _OPEN not in old.get("description", ""):
            for value in _values(new) or ["any other word"]:
                if value not in _values(old):
                    yield f"{where}: may be {value} now"
        if "format" in old and new.get("format") != old["format"]:
            yield f"{where}: format was {old['format']}, is {new.get('format')}"
        for name, inner in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{where}: {name} is gone"
                continue
            if name in old.get("required", ()) and name not in new.get("required", ()):
                yield f"{where}: {name} may be absent now"
            yield from self.unknown(inner, new["properties"][name], f"{where}.{name}")
        for inner, mark in (("items", "[]"), ("additionalProperties", ".*")):
            if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
                yield from self.unknown(old[inner], new[inner], where + mark)

    def _is_known(self, direction: str, old: Schema, new: Schema) -> bool:
        """Whether these two shared schemas were compared before."""
        pair = (direction, old.get("$ref", ""), new.get("$ref", ""))
        if not pair[1] or not pair[2]:
            return False
        known = pair in self._seen
        self._seen.add(pair)
        return known


def _resolved(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = document["components"]["schemas"][name] | {
            key: value for key, value in schema.items() if key != "$ref"
        }
    return schema


def _variants(schema: Schema) -> dict[str, Schema]:
    """The schema for each kind of value: a JSON type, or the name of a shared schema."""
    found: dict[str, Schema] = {}
    for each in schema.get("anyOf") or schema.get("oneOf") or [schema]:
        types = each.get("type", "any" if "$ref" not in each else each["$ref"].rpartition("/")[2])
        found |= dict.fromkeys([types] if isinstance(types, str) else types, each)
    return found


def _tighter(old: Schema, new: Schema) -> Iterator[str]:
    """The rules of the new schema for one value that the old one does not have, or only in a looser form."""
    words = _values(old) or ["any other word"]
    yield from (f"{word} is refused now" for word in words if _values(new) and word not in _values(new))
    for word in (*_UPPER, *_LOWER, *_FORMS):
        if word in new and _is_tighter(word, old.get(word), new[word]):
            # Whether another pattern takes the same texts, only a person can tell, and it may be long.
            yield "pattern has changed" if word == "pattern" else f"{word} was {old.get(word)}, is {new[word]}"
    if new.get("uniqueItems") and not old.get("uniqueItems"):
        yield "equal items are refused now"
    names = sorted(set(new.get("required", ())) - set(old.get("required", ())))
    yield from (f"{name} is required now" for name in names)


def _is_tighter(word: str, old: Any, new: Any) -> bool:
    if word in _UPPER:
        return bool(old is None or new < old)
    if word in _LOWER:
        lowest = 0 if word in _SIZES else -math.inf
        return bool(new > (lowest if old is None else old))
    return bool(new != old)


def _values(schema: Schema) -> list[Any]:
    return list(schema.get("enum", ()))
