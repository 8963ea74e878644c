"""Starts the workflow of an operation, with a title and details for people who read it in the Temporal Web UI."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from temporalio.client import Client
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy

from domain import search_attributes
from domain.data.models import Operation
from domain.progress import workflow_input
from domain.rules.markdown import quoted, title
from domain.rules.table import TABLE
from domain.search_attributes import Names

RPC_TIMEOUT = timedelta(seconds=3)
# If a worker dies during a workflow task, Temporal gives the task to another worker after this time. Normally a task
# takes 50 ms.
TASK_TIMEOUT = timedelta(seconds=4)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A leased operation, the names of its VM, if it has one, and of its project, and which names Temporal may have.

    `user_id` is whose turn it takes: that of the user who has asked for it.
    """

    operation: Operation
    vm_name: str | None
    owner_name: str
    user_id: UUID
    names: Names


async def start_workflow(client: Client, task_queue: str, delivery: Delivery) -> None:
    """Start the operation's workflow; WorkflowAlreadyStartedError if its id was used before."""
    operation = delivery.operation
    input = workflow_input.input_of(operation, delivery.vm_name)
    summary = title(operation.action.word, input.vm_name, input.about)
    shows_users = delivery.names == "all"
    await client.start_workflow(
        TABLE[operation.action].workflow,
        input,
        id=operation.workflow_id,
        task_queue=task_queue,
        # A delivery may be repeated after its workflow has ended. Temporal's default policy would then run it again.
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        memo={"request_id": operation.request_id} | ({"actor": operation.actor} if shows_users else {}),
        search_attributes=_search_attributes(delivery),
        static_summary=f"{summary} for {quoted(operation.actor)}" if shows_users else summary,
        static_details=_details(delivery),
        priority=Priority(fairness_key=str(delivery.user_id)),  # its activities inherit it
        task_timeout=TASK_TIMEOUT,
        rpc_timeout=RPC_TIMEOUT,
    )


def _details(delivery: Delivery) -> str:
    """The facts about the operation that never change, as a Markdown list."""
    operation = delivery.operation
    is_about_the_vm = operation.resource_id == operation.vm_id
    requester = f" by {quoted(operation.actor)}" if delivery.names == "all" else ""
    facts = {"Requested": f"{operation.created_at:%Y-%m-%d %H:%M:%S} UTC{requester}"}
    facts["Owner"] = quoted(_owner(delivery))
    if operation.vm_id:
        facts["VM"] = quoted(str(operation.vm_id))
    if not is_about_the_vm:
        facts[operation.resource_type.capitalize()] = quoted(str(operation.resource_id))
    facts["Operation"] = quoted(str(operation.id))
    facts["Request ID"] = quoted(operation.request_id)
    return "\n".join(f"- **{name}:** {text}" for name, text in facts.items())


def _owner(delivery: Delivery) -> str:
    return delivery.owner_name if delivery.names == "all" else str(delivery.operation.owner_id)


def _search_attributes(delivery: Delivery) -> TypedSearchAttributes:
    operation = delivery.operation
    values = {
        search_attributes.VM: str(operation.vm_id) if operation.vm_id else None,
        search_attributes.VM_NAME: delivery.vm_name if delivery.names != "none" else None,
        search_attributes.RESOURCE: str(operation.resource_id),
        search_attributes.OWNER: _owner(delivery),
        search_attributes.ACTION: operation.action.word,
    }
    return TypedSearchAttributes([SearchAttributePair(key, value) for key, value in values.items() if value])
