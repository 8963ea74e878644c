"""All mutations of a module: small changes of its source, each of which should make a test fail.

Only what carries a rule is changed. Messages, log lines, annotations, decorators and the numbers of module constants
(times and limits) are left alone.
"""

import ast
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from domain.rules import cloud, resources, states, table
from domain.upkeep.findings import Drift

OPPOSITES: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
# Calls whose positional arguments are conditions.
CONJUNCTIONS: Final = {"where", "and_", "or_"}
IGNORED_CALLS: Final = {"logger", "warning", "info", "exception", "error", "debug"}
ENUMS: Final[dict[str, type[StrEnum]]] = {
    kind.__name__: kind
    for kind in (
        *(states.Status, states.Action, states.TaskState, states.OperationStatus, table.Residue, Drift),
        *(cloud.ServerStatus, cloud.VolumeState, cloud.ImageState, cloud.PortState),
        *(resources.Kind, resources.SnapshotStatus, resources.VolumeStatus, resources.AttachmentStatus),
    )
}


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of a source file of the repository: the node at `line`, as text between two offsets, becomes `new`."""

    path: Path
    line: int
    start: int
    end: int
    new: str

    def apply(self, source: bytes) -> bytes:
        """Return the mutated source."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def mutations_of(root: Path, path: Path) -> list[Mutation]:
    """Return all mutations of a file of the repository."""
    source = (root / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, mutated in _mutants(ast.parse(source)):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[(node.end_lineno or 0) - 1]
        new = ast.unparse(mutated)
        if isinstance(node, ast.expr):
            new = f"({new})"  # it may stand beside an operator that binds more closely
        found.append(Mutation(path, node.lineno, start, end + (node.end_col_offset or 0), new))
    return found


def _mutants(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """Yield each node that can be changed, with its replacement."""
    for test in _conditions(node):
        yield test, ast.UnaryOp(ast.Not(), test)
    for child in _children(node):
        if isinstance(child, ast.expr):
            for mutated in _of_expression(child):
                yield child, mutated
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Await | ast.Call) and not _is_ignored(child):
            yield child, ast.Pass()
        yield from _mutants(child)


def _conditions(node: ast.AST) -> list[ast.expr]:
    """Return the conditions of a node, without those whose own mutations say the same."""
    match node:
        case ast.If(test=test) | ast.While(test=test):
            tests = [test]
        case ast.comprehension(ifs=tests):
            pass
        case _:
            tests = []
    return [test for test in tests if not isinstance(test, ast.BoolOp | ast.Compare | ast.UnaryOp)]


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the children that carry rules."""
    for name, value in ast.iter_fields(node):
        # The slice of a subscript is nearly always a type.
        if name in {"annotation", "returns", "decorator_list", "bases", "slice"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_ignored(child):
                yield child


def _is_ignored(node: ast.AST) -> bool:
    """Return whether a node is a log line, a docstring, an import, or raises an error (its message is no rule)."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or _is_ignored(node.value)
    if isinstance(node, ast.Call):
        function = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        return isinstance(function, ast.Name) and function.id in IGNORED_CALLS
    return isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr)


def _of_expression(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the mutated copies of one expression."""
    match node:
        case ast.BoolOp(values=values):
            for number in range(len(values)):
                rest = [value for other, value in enumerate(values) if other != number]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.Compare(ops=[op]) if type(op) in OPPOSITES:
            yield ast.Compare(node.left, [OPPOSITES[type(op)]()], node.comparators)
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            yield node.operand
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.Call():
            yield from _without_an_argument(node)
        case ast.Attribute(value=ast.Name(id=name), attr=member) if name in ENUMS and member in ENUMS[name].__members__:
            members = list(ENUMS[name].__members__)
            yield ast.Attribute(node.value, members[(members.index(member) + 1) % len(members)])
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Set(elts=elements) | ast.Tuple(elts=elements, ctx=ast.Load()) if len(elements) > 1:
            yield _without_an_element(node)


def _without_an_argument(call: ast.Call) -> Iterator[ast.Call]:
    """Yield the call without each of its keyword arguments, and without each of its conditions."""
    for number, keyword in enumerate(call.keywords):
        if keyword.arg is not None:
            mutated = deepcopy(call)
            del mutated.keywords[number]
            yield mutated
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    for number in range(len(call.args)) if name in CONJUNCTIONS and len(call.args) > 1 else ():
        mutated = deepcopy(call)
        del mutated.args[number]
        yield mutated


def _without_an_element(node: ast.expr) -> ast.expr:
    """Return the set or tuple without its last element."""
    mutated = deepcopy(node)
    assert isinstance(mutated, ast.Set | ast.Tuple)
    del mutated.elts[-1]
    return mutated
