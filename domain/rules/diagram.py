"""The lifecycle table as a picture and as Markdown.

`python -m domain.rules.diagram` writes both into README.md; with `--check` it exits with 1 where README.md differs.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from domain.rules.resources import Change, Kind, VolumeStatus
from domain.rules.states import Action, Status
from domain.rules.table import PREVIOUS, TABLE, Failure, Previous, Rule

README = Path(__file__).parents[2] / "README.md"
ON_FAILURE = {
    Failure(Status.ERROR): "ERROR",
    Failure(Status.ERROR, if_not_begun=Status.ERROR): "ERROR",
    Failure(PREVIOUS): "as before",
    Failure(Status.ERROR, if_running=PREVIOUS): "as before if the server runs, else ERROR",
    Failure(Status.ERROR, if_unchanged=PREVIOUS): "as before if no host was found or it was canceled, else ERROR",
    TABLE[Action.CONFIRM_RESIZE].on_failure: "ERROR; to be decided again if canceled in time",
}


def state_diagram() -> str:
    """The statuses and what leads from one to the next, as Mermaid source."""
    arrows: dict[tuple[str, str], list[str]] = {("[*]", Status.BUILDING): ["create"]}
    for action, rule in TABLE.items():
        for source, target, word in _arrows(action, rule):
            words = arrows.setdefault((source, target), [])
            words.extend([word] if word not in words else [])
    body = [f"    {source} --> {target}: {', '.join(words)}" for (source, target), words in arrows.items()]
    note = "    note right of DELETING: delete is allowed in every status and pre-empts whatever runs"
    return "\n".join(["```mermaid", "stateDiagram-v2", *body, note, "    DELETED --> [*]", "```"])


def _arrows(action: Action, rule: Rule) -> Iterator[tuple[Status, Status, str]]:
    """From where, to where, and why; those of delete's beginning, which come from everywhere, are left to a note."""
    sources = sorted(rule.sources)
    if isinstance(rule.during, Previous):
        if isinstance(rule.target, Status):
            yield from ((source, rule.target, action.word) for source in sources)
        return
    waits = rule.during in sources
    if not rule.preempts and not waits:
        yield from ((source, rule.during, action.word) for source in sources)
    restored = (Status.ACTIVE, Status.SHUTOFF)
    ends = restored if isinstance(rule.target, Previous) else (rule.target,)
    yield from ((rule.during, end, action.word if waits else "done") for end in ends)
    if rule.on_failure.otherwise is not PREVIOUS:
        yield rule.during, Status.ERROR, "failed"


def action_table() -> str:
    """What actions do to VMs, as Markdown."""
    header = "| action | from | status while it runs | task states | ends | a failure leaves |"
    return "\n".join(
        [header, "|---|---|---|---|---|---|", *(_row(action, rule) for action, rule in TABLE.items() if rule.of_vm)]
    )


def _row(action: Action, rule: Rule) -> str:
    everywhere = "any status, whatever runs"
    cells = (
        f"`{action}`",
        everywhere if rule.preempts else ", ".join(sorted(rule.sources)) or "-",
        "unchanged" if isinstance(rule.during, Previous) else rule.during,
        ", ".join(f"`{step}`" for step in rule.steps) or "-",
        "as before" if isinstance(rule.target, Previous) else rule.target,
        ON_FAILURE[rule.on_failure],
    )
    return f"| {' | '.join(cells)} |"


def change_table() -> str:
    """What actions do to what is not a VM, as Markdown."""
    header = "| | action | from | while it runs | ends | a failure leaves |"
    of_kinds = ((change.kind, action, change) for action, rule in TABLE.items() for change in rule.changes)
    rows = [_change_row(*one) for one in sorted(of_kinds, key=lambda one: list(Kind).index(one[0]))]
    return "\n".join([header, "|---|---|---|---|---|---|", *rows])


def _change_row(kind: Kind, action: Action, change: Change) -> str:
    still_there = f"; {change.if_still_there} if the cloud still has it" if change.if_still_there else ""
    with_vm = " of the VM, `delete_on_termination`" if change.target is VolumeStatus.DELETED else " of the VM"
    cells = (
        kind,
        f"`{action}`" + (with_vm if action is Action.DELETE else ""),
        ", ".join(change.sources) or "-",
        change.during,
        change.target or "gone",
        (change.on_failure or "gone") + still_there,
    )
    return f"| {' | '.join(cells)} |"


def rendered(readme: str) -> str:
    """The README's text with the generated parts between their markers made anew."""
    for name, part in _PARTS.items():
        before, begin, rest = readme.partition(f"<!-- {name}: made by python -m domain.rules.diagram -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not end:
            raise SystemExit(f"README.md has lost the markers of its {name}.")
        readme = f"{before}{begin}{part()}\n{end}{after}"
    return readme


_PARTS = {"diagram": state_diagram, "actions": action_table, "changes": change_table}


def main() -> int:
    """Write README.md's generated parts, or compare them; returns the exit code."""
    present = README.read_text()
    wanted = rendered(present)
    if "--check" in sys.argv[1:]:
        if present != wanted:
            sys.stderr.write("README.md differs from the lifecycle table: run `python -m domain.rules.diagram`.\n")
        return int(present != wanted)
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
