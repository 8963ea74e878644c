"""The sandbox of the workers. It checks each workflow once in a test process, and not for each new worker."""

from typing import ClassVar

from temporalio import workflow

from domain.workflow_sandbox import Sandbox
from domain.workflow_sandbox import sandbox as of_workers


class CheckedOnce(Sandbox):
    """A sandbox that imports a workflow for the check of its definition only once.

    Nearly every test has workers of its own, which would check all workflows again: a tenth of a second of processor
    time. Each run of a workflow still imports it anew.
    """

    checked: ClassVar[set[tuple[type, bool]]] = set()

    def __init__(self, *, is_strict: bool) -> None:
        super().__init__(restrictions=of_workers(is_strict=is_strict).restrictions)
        self.is_strict = is_strict

    def prepare_workflow(self, defn: workflow._Definition) -> None:
        """Check a workflow, unless that has been done."""
        if (defn.cls, self.is_strict) not in self.checked:
            super().prepare_workflow(defn)
            self.checked.add((defn.cls, self.is_strict))


def sandbox(*, is_strict: bool = False) -> CheckedOnce:
    """Such a sandbox with the restrictions of the workers, or with the strict ones (see domain/workflow_sandbox.py)."""
    return CheckedOnce(is_strict=is_strict)
