"""An operator in the Temporal Web UI who terminates, cancels and resets running workflows."""

from datetime import timedelta
from uuid import UUID, uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client

from tests.faults.schedule import Fault, Kind
from tests.support.truth import Database

RPC_TIMEOUT = timedelta(seconds=2)
OPEN_WORKFLOWS = """
SELECT workflow_id FROM operations JOIN vms ON vms.operation_id = operations.id
WHERE operations.owner_id = $1 AND operations.status = 'SUCCEEDED' AND vms.status = 'VERIFY_RESIZE'
UNION ALL
SELECT workflow_id FROM operations WHERE owner_id = $1 AND status IN ('QUEUED', 'RUNNING')
ORDER BY workflow_id"""


async def interfere(client: Client, database: Database, owner_id: UUID, fault: Fault) -> bool:
    """Do this to one of the owner's open workflows; returns False if there is none."""
    workflow_ids = [row["workflow_id"] for row in await database.sql(OPEN_WORKFLOWS, owner_id)]
    if not workflow_ids:
        return False
    handle = client.get_workflow_handle(workflow_ids[fault.which % len(workflow_ids)])
    match fault.kind:
        case Kind.TERMINATE:
            await handle.terminate("by mistake", rpc_timeout=RPC_TIMEOUT)
        case Kind.CANCEL:
            await handle.cancel(rpc_timeout=RPC_TIMEOUT)
        case _:
            await _reset(client, handle.id, to_first=fault.which % 2 == 0, drop_signals=fault.which % 4 > 1)
    return True


async def _reset(client: Client, workflow_id: str, *, to_first: bool, drop_signals: bool) -> None:
    """Reset a workflow to its first or its last task; the signals since then are dropped or applied again."""
    task_ends = [
        event.event_id
        async for event in client.get_workflow_handle(workflow_id).fetch_history_events(rpc_timeout=RPC_TIMEOUT)
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    ]
    if not task_ends:
        return
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        reason="by mistake",
        workflow_task_finish_event_id=task_ends[0 if to_first else -1],
        request_id=str(uuid4()),
        reset_reapply_exclude_types=[ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL] if drop_signals else [],
    )
    await client.workflow_service.reset_workflow_execution(request, timeout=RPC_TIMEOUT)
