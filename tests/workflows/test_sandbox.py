"""The sandbox of a worker shares the modules of `workflows` among all workflows: they must have no state."""

import ast
import importlib
from collections import deque
from collections.abc import Iterator, Sequence

import pytest
from temporalio.converter import WithSerializationContext

from domain import payload_codec
from domain.payload_keys import PayloadKey
from tests.meta.files import ROOT

MODULES = sorted(path.stem for path in (ROOT / "workflows").glob("*.py"))
CHANGEABLE = (list, dict, set, bytearray, deque)


def assigned(body: list[ast.stmt], owner: object) -> Iterator[tuple[str, object]]:
    """Return the names that a module or a class assigns, and their values."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from assigned(statement.body, getattr(owner, statement.name))
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets += [statement.target] if isinstance(statement, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and hasattr(owner, target.id):
                yield target.id, getattr(owner, target.id)


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_workflows_have_no_state(name: str) -> None:
    module = importlib.import_module(f"workflows.{name}".removesuffix(".__init__"))
    tree = ast.parse((ROOT / "workflows" / f"{name}.py").read_text())
    assert [name for name, value in assigned(tree.body, module) if isinstance(value, CHANGEABLE)] == []
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("keys", [(), (PayloadKey("new", bytes(32)),)])
def test_our_codec_needs_no_context(keys: Sequence[PayloadKey]) -> None:
    ours = payload_codec.converter(keys)
    assert not isinstance(ours.payload_codec, WithSerializationContext), "domain/workflow_sandbox.py gives no context"
    assert ours.external_storage is None, "domain/workflow_sandbox.py gives no context"
