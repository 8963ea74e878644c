"""The typed shapes of `operations.input`, and their JSON."""

from typing import Any

import pytest

from domain.data import parameters
from domain.data.models import Operation
from domain.data.parameters import NO_CONTROL, SHAPES, Control, control_of, parameters_of, to_json
from domain.rules.states import Action
from tests.support.rows import FLAVOR_IDS, PARAMETERS


def row(input: dict[str, Any]) -> Operation:
    """An operation with this input."""
    return Operation(input=input)


def test_every_action_has_a_shape() -> None:
    assert set(SHAPES) == set(Action)


@pytest.mark.parametrize("action", PARAMETERS)
def test_parameters_and_control_are_read_back_from_one_flat_object(action: Action) -> None:
    control = Control(confirm_window=30, previous_fault={"code": "c", "message": "m"}, was="ERROR")
    stored = row(to_json(PARAMETERS[action], control))
    assert parameters_of(stored, SHAPES[action]) == PARAMETERS[action]
    assert control_of(stored) == control


def test_the_json_of_a_resize_is_flat_as_the_version_before_reads_it() -> None:
    small, medium = FLAVOR_IDS["m1.small"], FLAVOR_IDS["m1.medium"]
    resize = parameters.Resize(medium, "m1.medium", small, "m1.small")
    assert to_json(resize, Control(confirm_window=0)) == {
        "flavor_id": str(medium),
        "flavor": "m1.medium",
        "previous_flavor_id": str(small),
        "previous_flavor": "m1.small",
        "confirm_window": 0,
    }


def test_control_values_that_are_not_set_are_not_stored() -> None:
    assert to_json(parameters.DeleteVolume("data"), NO_CONTROL) == {"name": "data"}


def test_names_are_quoted_in_descriptions() -> None:
    assert parameters.CreateVolume("*bold*", 10).describe() == "`*bold*` of 10 GiB"
