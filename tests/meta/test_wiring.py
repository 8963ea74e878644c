"""The worker registers exactly the workflows, signals and activities that the table and the messages name."""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, get_type_hints
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from activities.backends import load_backend
from domain.data import database
from domain.rules import console, messages
from domain.rules.console import ConsoleRequest, console_queue
from domain.rules.messages import Activity, FailedAttemptInput, OperationInput, waits_queue
from domain.rules.table import TABLE
from domain.settings import Settings
from tests.conftest import make_settings
from worker import make_workers

FAILED_ATTEMPT_SIGNAL = "note_failed_attempt"  # OperationInterceptor sends it to every workflow


@pytest.fixture
def settings() -> Settings:
    """Settings without a database; the task queue is new, as a process may have only one worker on each queue."""
    return make_settings("postgresql://127.0.0.1:1/none", temporal_task_queue=f"test-{uuid4()}")


@pytest.fixture
async def all_workers(settings: Settings, temporal: Client) -> list[Worker]:
    """The workers of a worker process, not started."""
    return make_workers(settings, temporal, database.create_engine(settings), load_backend(settings))


@pytest.fixture
async def workers(settings: Settings, all_workers: list[Worker]) -> list[Worker]:
    """Those that carry out operations."""
    return [worker for worker in all_workers if worker.task_queue != console_queue(settings.temporal_task_queue)]


def activities_of(worker: Worker) -> dict[str, Callable[..., Any]]:
    """The activities of a worker, by name."""
    functions = worker.config().get("activities", [])
    return {str(activity._Definition.must_from_callable(function).name): function for function in functions}


def definitions_of(worker: Worker) -> list[workflow._Definition]:
    """The definitions of a worker's workflows."""
    return [workflow._Definition.must_from_class(kind) for kind in worker.config().get("workflows", [])]


def workflows_of(worker: Worker) -> list[str]:
    """The names of a worker's workflows."""
    return [str(definition.name) for definition in definitions_of(worker)]


def signals_of(workers: list[Worker]) -> dict[str, dict[str, Any]]:
    """The signal handlers of each workflow, without the signal that all workflows handle."""
    return {
        str(definition.name): {
            str(name): handler for name, handler in definition.signals.items() if name != FAILED_ATTEMPT_SIGNAL
        }
        for worker in workers
        for definition in definitions_of(worker)
    }


def test_exactly_the_workflows_of_the_table_are_registered_once(workers: list[Worker]) -> None:
    registered = Counter(name for worker in workers for name in workflows_of(worker))
    assert registered == Counter({rule.workflow for rule in TABLE.values() if rule.workflow})


def test_resize_vm_handles_exactly_the_signals_of_the_table(workers: list[Worker]) -> None:
    signals = [rule.signal for rule in TABLE.values() if rule.signal]
    handled = {workflow: set(handlers) for workflow, handlers in signals_of(workers).items() if handlers}
    assert handled == {"ResizeVM": set(signals)}
    assert len(set(signals)) == len(signals) == 2


def test_a_signal_carries_an_operation_and_the_table_names_a_workflow_that_can_replace_it(
    workers: list[Worker],
) -> None:
    signals = signals_of(workers)
    for handler in signals["ResizeVM"].values():
        assert handler.arg_types == [OperationInput | None]
    for rule in TABLE.values():
        if rule.signal:
            assert rule.workflow in set(signals) - {"ResizeVM"}


def test_every_workflow_has_the_state_query_and_the_signal_for_failed_attempts(workers: list[Worker]) -> None:
    for worker in workers:
        for definition in definitions_of(worker):
            assert "state" in definition.queries
            assert definition.signals[FAILED_ATTEMPT_SIGNAL].arg_types == [FailedAttemptInput | None]


def test_exactly_the_activities_of_the_messages_are_registered_once(workers: list[Worker]) -> None:
    registered = Counter(name for worker in workers for name in activities_of(worker))
    assert registered == Counter(name.value for name in Activity)


def test_waits_have_their_own_queue(settings: Settings, workers: list[Worker]) -> None:
    queues = {worker.task_queue: set(activities_of(worker)) for worker in workers}
    assert set(queues) == {settings.temporal_task_queue, waits_queue(settings.temporal_task_queue)}
    assert queues[waits_queue(settings.temporal_task_queue)] == {
        Activity.WAIT_FOR_SERVER.value,
        Activity.WAIT_FOR_VOLUME.value,
        Activity.WAIT_FOR_IMAGE.value,
        Activity.WAIT_FOR_EXTENSION.value,
        Activity.SETTLE_SERVER.value,
        Activity.SETTLE_VOLUME.value,
    }
    assert set(messages.WAITS) == queues[waits_queue(settings.temporal_task_queue)]


def test_every_activity_takes_one_message_and_has_the_name_of_its_function(workers: list[Worker]) -> None:
    for worker in workers:
        for name, function in activities_of(worker).items():
            hints = get_type_hints(function)
            inputs = [hints[parameter] for parameter in inspect.signature(function).parameters]
            assert function.__name__ == name
            assert len(inputs) == 1
            assert inputs[0].__module__ == messages.__name__
            assert inspect.iscoroutinefunction(function)


def test_every_worker_has_the_interceptor(workers: list[Worker]) -> None:
    for worker in workers:
        names = [type(interceptor).__name__ for interceptor in worker.config().get("interceptors", [])]
        with_workflows = ["SignalInterceptor"] if worker.config().get("workflows") else []
        assert names == ["OperationInterceptor", *with_workflows]


def test_one_worker_reads_consoles_and_nothing_else(all_workers: list[Worker], workers: list[Worker]) -> None:
    (of_consoles,) = set(all_workers) - set(workers)
    assert workflows_of(of_consoles) == [console.READ_CONSOLE]
    (function,) = activities_of(of_consoles).values()
    assert get_type_hints(function)["request"] is ConsoleRequest
    assert list(activities_of(of_consoles)) == [console.ANSWER_REQUEST] == [function.__name__]
