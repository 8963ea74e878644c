"""Messages pass through Temporal unchanged, stay readable for other versions, and hold no secret."""

import dataclasses
import inspect
import re
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.converter import DataConverter

from domain.rules import messages
from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, FailOperationInput, OperationInput, WaitForServerInput
from domain.rules.states import Action

MESSAGES = [kind for _, kind in inspect.getmembers(messages, dataclasses.is_dataclass) if isinstance(kind, type)]
SECRETS = re.compile(r"password|passwd|secret|token|credential|api_?key|hash|authorization|cookie", re.IGNORECASE)
each_message = pytest.mark.parametrize("kind", MESSAGES)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))  # NaN does not equal itself
ID = UUID("00000000-0000-4000-8000-000000000001")


@each_message
@given(data=st.data())
@settings(max_examples=25, deadline=None, database=None)
def test_a_message_arrives_as_it_was_sent(kind: type[Any], data: st.DataObject) -> None:
    sent = data.draw(st.from_type(kind))
    converter = DataConverter.default.payload_converter
    (arrived,) = converter.from_payloads(converter.to_payloads([sent]), [kind])
    assert arrived == sent
    assert type(arrived) is kind
    assert hash(arrived) == hash(sent)


def test_strings_arrive_as_members_of_their_enums() -> None:
    sent = WaitForServerInput(OperationInput(ID, ID, Action.REBOOT_HARD), ServerStatus.ACTIVE)
    converter = DataConverter.default.payload_converter
    (arrived,) = converter.from_payloads(converter.to_payloads([sent]), [WaitForServerInput])
    assert arrived.status is ServerStatus.ACTIVE
    assert arrived.operation.action is Action.REBOOT_HARD
    assert isinstance(arrived.operation.vm_id, UUID)


def test_a_message_from_an_older_history_can_be_read() -> None:
    ids = f'"operation_id": "{ID}", "vm_id": "{ID}", "action": "stop"'
    converter = DataConverter.default.payload_converter
    old = converter.to_payloads([None])[0]
    old.metadata["encoding"] = b"json/plain"
    old.data = f'{{"operation": {{{ids}}}, "code": "c", "message": "m"}}'.encode()
    (arrived,) = converter.from_payloads([old], [FailOperationInput])
    assert arrived == FailOperationInput(OperationInput(ID, ID, Action.STOP, epoch=0), "c", "m")


@each_message
def test_a_message_is_frozen_and_holds_no_secret(kind: type[Any]) -> None:
    assert kind.__dataclass_params__.frozen
    assert [field.name for field in dataclasses.fields(kind) if SECRETS.search(field.name)] == []


@each_message
def test_a_message_is_named_input_or_result(kind: type[Any]) -> None:
    assert kind.__name__.endswith(("Input", "Result"))
    assert kind.__doc__


def test_activities_have_distinct_names_of_a_verb_and_a_noun() -> None:
    assert len({activity.value for activity in Activity}) == len(list(Activity))
    for activity in Activity:
        assert activity.value == activity.name.lower()
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", activity.value)


def test_waits_have_a_task_queue_of_their_own() -> None:
    assert messages.waits_queue("vm-lifecycle") not in {"vm-lifecycle", ""}
    assert messages.waits_queue("a") != messages.waits_queue("b")
