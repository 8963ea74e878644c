"""The worker offers what the table and the messages name: nothing is missing, nothing is left over."""

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
from domain.rules import messages
from domain.rules.messages import Activity, FailedAttemptInput, OperationInput, waits_queue
from domain.rules.table import TABLE
from domain.settings import Settings
from tests.conftest import make_settings
from worker import make_workers

NEWS = "note_failed_attempt"  # what OperationInterceptor tells of attempts


@pytest.fixture
def settings() -> Settings:
    """Settings with a task queue of its own, as a process may have one worker on each, and without a database."""
    return make_settings("postgresql://127.0.0.1:1/none", temporal_task_queue=f"test-{uuid4()}")


@pytest.fixture
async def workers(settings: Settings, temporal: Client) -> list[Worker]:
    """The workers of a worker process, not running."""
    return make_workers(settings, temporal, database.create_engine(settings), load_backend(settings))


def activities_of(worker: Worker) -> dict[str, Callable[..., Any]]:
    """The worker's activities by name."""
    functions = worker.config().get("activities", [])
    return {str(activity._Definition.must_from_callable(function).name): function for function in functions}


def definitions_of(worker: Worker) -> list[workflow._Definition]:
    """The worker's workflows, as the server knows them."""
    return [workflow._Definition.must_from_class(kind) for kind in worker.config().get("workflows", [])]


def workflows_of(worker: Worker) -> list[str]:
    """The names of the worker's workflows."""
    return [str(definition.name) for definition in definitions_of(worker)]


def signals_of(workers: list[Worker]) -> dict[str, dict[str, Any]]:
    """The handlers of every workflow's signals, but for the news that all of them are told."""
    return {
        str(definition.name): {str(name): handler for name, handler in definition.signals.items() if name != NEWS}
        for worker in workers
        for definition in definitions_of(worker)
    }


def test_every_workflow_the_table_names_is_registered_once_and_no_other(workers: list[Worker]) -> None:
    registered = Counter(name for worker in workers for name in workflows_of(worker))
    assert registered == Counter({rule.workflow for rule in TABLE.values() if rule.workflow})


def test_the_signals_of_the_table_are_the_ones_its_waiting_workflow_handles_and_no_other(
    workers: list[Worker],
) -> None:
    signals = [rule.signal for rule in TABLE.values() if rule.signal]
    handled = {workflow: set(handlers) for workflow, handlers in signals_of(workers).items() if handlers}
    assert handled == {"ResizeVM": set(signals)}
    assert len(set(signals)) == len(signals) == 2


def test_a_signal_brings_an_operation_and_where_its_workflow_is_gone_the_table_names_another(
    workers: list[Worker],
) -> None:
    signals = signals_of(workers)
    for handler in signals["ResizeVM"].values():
        assert handler.arg_types == [OperationInput | None]
    for rule in TABLE.values():
        if rule.signal:
            assert rule.workflow in set(signals) - {"ResizeVM"}


def test_every_workflow_answers_for_its_state_and_hears_of_failed_attempts(workers: list[Worker]) -> None:
    for worker in workers:
        for definition in definitions_of(worker):
            assert "state" in definition.queries
            assert definition.signals[NEWS].arg_types == [FailedAttemptInput | None]


def test_every_activity_of_the_messages_is_registered_once_and_no_other(workers: list[Worker]) -> None:
    registered = Counter(name for worker in workers for name in activities_of(worker))
    assert registered == Counter(name.value for name in Activity)


def test_what_only_waits_has_its_own_queue(settings: Settings, workers: list[Worker]) -> None:
    queues = {worker.task_queue: set(activities_of(worker)) for worker in workers}
    assert set(queues) == {settings.temporal_task_queue, waits_queue(settings.temporal_task_queue)}
    assert queues[waits_queue(settings.temporal_task_queue)] == {
        Activity.WAIT_FOR_SERVER.value,
        Activity.WAIT_FOR_VOLUME.value,
        Activity.WAIT_FOR_IMAGE.value,
        Activity.SETTLE_SERVER.value,
        Activity.SETTLE_VOLUME.value,
    }


def test_every_activity_takes_one_message_and_is_named_as_it_is_called(workers: list[Worker]) -> None:
    for worker in workers:
        for name, function in activities_of(worker).items():
            hints = get_type_hints(function)
            taken = [hints[parameter] for parameter in inspect.signature(function).parameters]
            assert function.__name__ == name
            assert len(taken) == 1
            assert taken[0].__module__ == messages.__name__
            assert inspect.iscoroutinefunction(function)


def test_every_worker_of_activities_is_intercepted(workers: list[Worker]) -> None:
    for worker in workers:
        names = [type(one).__name__ for one in worker.config().get("interceptors", [])]
        with_workflows = ["SignalInterceptor"] if worker.config().get("workflows") else []
        assert names == ["OperationInterceptor", *with_workflows]
