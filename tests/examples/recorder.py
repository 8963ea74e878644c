"""Keeps requests and answers as examples, with ids, times and addresses that are the same in every recording."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import httpx

from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.data.seeds import AVAILABILITY_ZONES, SECURITY_GROUPS

_ROWS = (*FLAVORS, *IMAGES, *NETWORKS, *SECURITY_GROUPS, *AVAILABILITY_ZONES)
_CATALOGUE = {str(row["id"]) for row in _ROWS} | {row["gateway"] for row in NETWORKS}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_MAC = re.compile(r"fa:16:3e:[0-9a-f:]{8}")
_PRIVATE = re.compile(r"\b10\.0\.\d+\.\d+(?![\d/])")  # the default network, in which addresses are drawn
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
_PROGRAM_TOKEN = re.compile(r"vma_[0-9a-f]{64}")
_FIRST_DAY = datetime(2026, 11, 27, 12, tzinfo=UTC)
_SIGNATURES = ("Yp1Qx0c7m3Zr", "k2VbW9sT5hLe", "n8DgR4uJ6aFo", "q3XcM7yP1iKz")


@dataclass
class Recording:
    """What was sent and answered: the first of each operation, and the first problem of each code."""

    document: dict[str, Any]
    requests: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, Any] = field(default_factory=dict)

    async def note(self, answer: httpx.Response) -> None:
        """Keep the answer, if it is the first of its kind; a hook of httpx."""
        await answer.aread()
        if answer.is_error:
            self.note_problem(answer.json())
            return
        request = answer.request
        operation = self._operation(request.method, request.url.path)
        if operation and operation not in self.answers:
            self.answers[operation] = answer.json() if answer.content else None
            if request.content:
                self.requests[operation] = json.loads(request.content)

    def note_problem(self, problem: dict[str, Any]) -> None:
        """Keep the problem, if it is the first with its code."""
        self.problems.setdefault(problem["code"], problem)

    def _operation(self, method: str, path: str) -> str | None:
        found = [
            (template.count("{"), item[method.lower()]["operationId"])
            for template, item in self.document["paths"].items()
            if method.lower() in item and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
        ]
        return min(found)[1] if found else None

    def settled(self) -> dict[str, Any]:
        """The recording with values that depend on nothing but their order; answers without a body are left out."""
        kept = {
            "problems": dict(sorted(self.problems.items())),
            "requests": dict(sorted(self.requests.items())),
            "answers": {name: body for name, body in sorted(self.answers.items()) if body is not None},
        }
        # Numbered in the order in which they were recorded, so that a new example changes as few others as possible.
        text = json.dumps([self.requests, self.answers, self.problems])
        names = {value: new for pattern, of in _replacements() for value, new in _numbered(pattern, of, text)}
        names |= dict(zip(sorted(set(TIME.findall(text))), _times(), strict=False))
        anything = re.compile(
            "|".join(pattern.pattern for pattern in (_TOKEN, _PROGRAM_TOKEN, _UUID, TIME, _MAC, _PRIVATE))
        )
        settled: dict[str, Any] = json.loads(anything.sub(lambda match: names[match[0]], json.dumps(kept)))
        return settled


def _numbered(pattern: re.Pattern[str], values: Iterator[str], text: str) -> Iterator[tuple[str, str]]:
    for value in dict.fromkeys(pattern.findall(text)):
        yield value, value if value in _CATALOGUE else next(values)


def _replacements() -> Iterator[tuple[re.Pattern[str], Iterator[str]]]:
    random = Random(16)
    header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    yield _TOKEN, (f"{header}.eyJzdWIiOiJhZGEifQ.{signature}" for signature in itertools.cycle(_SIGNATURES))
    yield _PROGRAM_TOKEN, (f"vma_{number:064x}" for number in itertools.count(1))
    yield _UUID, (str(UUID(int=random.getrandbits(128), version=4)) for _ in itertools.count())
    yield _MAC, (f"fa:16:3e:7c:55:{number:02x}" for number in itertools.count(1))
    yield _PRIVATE, (f"10.0.0.{number}" for number in itertools.count(17))


def _times() -> Iterator[str]:
    for number in itertools.count():
        yield f"{_FIRST_DAY + timedelta(seconds=1.037 * number):%Y-%m-%dT%H:%M:%S.%fZ}"


def without_times(examples: dict[str, Any]) -> dict[str, Any]:
    """The examples with one time for all: the order of times that are close to each other differs."""
    return mapped(examples, lambda text: TIME.sub("2026-11-27T12:00:00Z", text))


def mapped(examples: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The examples with all texts changed."""
    changed: dict[str, Any] = json.loads(change(json.dumps(examples)))
    return changed
