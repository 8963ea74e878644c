"""The sandbox of the workers. It checks each workflow once in a test process, and not for each new worker."""

from typing import ClassVar

from temporalio import workflow
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import worker


class CheckedOnce(SandboxedWorkflowRunner):
    """A sandbox that imports a workflow for the check of its definition only once.

    Nearly every test has workers of its own, which would check all workflows again: a tenth of a second of processor
    time. Each run of a workflow still imports it anew.
    """

    checked: ClassVar[set[type]] = set()

    def prepare_workflow(self, defn: workflow._Definition) -> None:
        """Check a workflow, unless that has been done."""
        if defn.cls not in self.checked:
            super().prepare_workflow(defn)
            self.checked.add(defn.cls)


def sandbox() -> CheckedOnce:
    """Such a sandbox with the restrictions of the workers."""
    return CheckedOnce(restrictions=worker.sandbox().restrictions)
