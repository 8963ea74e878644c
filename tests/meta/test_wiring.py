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
from domain import database, messages
from domain.lifecycle import TABLE
from domain.messages import Activity, waits_queue
from domain.settings import Settings
from tests.conftest import make_settings
from worker import make_workers


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


def workflows_of(worker: Worker) -> list[str]:
    """The names of the worker's workflows."""
    classes = worker.config().get("workflows", [])
    return [str(workflow._Definition.must_from_class(kind).name) for kind in classes]


def test_every_workflow_the_table_names_is_registered_once_and_no_other(workers: list[Worker]) -> None:
    registered = Counter(name for worker in workers for name in workflows_of(worker))
    assert registered == Counter({rule.workflow for rule in TABLE.values() if rule.workflow})


def test_every_activity_of_the_messages_is_registered_once_and_no_other(workers: list[Worker]) -> None:
    registered = Counter(name for worker in workers for name in activities_of(worker))
    assert registered == Counter(name.value for name in Activity)


def test_what_only_waits_has_its_own_queue(settings: Settings, workers: list[Worker]) -> None:
    queues = {worker.task_queue: set(activities_of(worker)) for worker in workers}
    assert set(queues) == {settings.temporal_task_queue, waits_queue(settings.temporal_task_queue)}
    assert queues[waits_queue(settings.temporal_task_queue)] == {
        Activity.WAIT_FOR_SERVER.value,
        Activity.SETTLE_SERVER.value,
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
        assert [type(one).__name__ for one in worker.config().get("interceptors", [])] == ["OperationInterceptor"]
