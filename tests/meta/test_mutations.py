"""The mutations that `make mutants` draws from: every kind of small mistake, and none that says nothing."""

from pathlib import Path

from tests.mutants.mutations import mutations_of

SOURCE = '''"""A module."""
LIMIT = 5
async def decide(vm: VM, tx: Connection = None) -> bool:
    """Decide."""
    if vm:
        logger.warning("busy", extra=True)
    if not vm.busy and vm.size > LIMIT:
        await save(tx, status=Status.ACTIVE)
    return select(VM).where(VM.id == vm.id, VM.name.in_(("a", "b")))
'''
EXPECTED = {
    "if (not vm):",
    "if (vm.size > LIMIT):",
    "if (not vm.busy):",
    "if (vm.busy) and vm.size > LIMIT:",
    "if not vm.busy and (vm.size >= LIMIT):",
    "pass",
    "await (save(tx))",
    "await save(tx, status=(Status.SHUTOFF))",
    "return (select(VM).where(VM.name.in_(('a', 'b'))))",
    "return (select(VM).where(VM.id == vm.id))",
    'return select(VM).where((VM.id != vm.id), VM.name.in_(("a", "b")))',
    "return select(VM).where(VM.id == vm.id, VM.name.in_((('a',))))",
}


def test_every_kind_of_mistake_is_drawn_and_messages_and_limits_are_left_alone(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(SOURCE)
    before = SOURCE.splitlines()
    mutated = set()
    for mutation in mutations_of(tmp_path, Path(module.name)):
        after = mutation.apply(SOURCE.encode()).decode().splitlines()
        changed = [line.strip() for old, line in zip(before, after, strict=True) if line != old]
        assert len(changed) == 1
        mutated |= set(changed)
    assert mutated == EXPECTED
