"""The lock files agree, and only those that need the OpenStack SDK have it."""

import re

import pytest

from tests.meta.files import ROOT

PINNED = re.compile(r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==(\S+)", re.MULTILINE)


def locked(name: str) -> dict[str, str]:
    """The versions in a lock file, by package."""
    return dict(PINNED.findall((ROOT / f"requirements{name}.txt").read_text()))


@pytest.mark.parametrize(
    ("larger", "smaller"), [("-dev", "-local"), ("-dev", "-openstack"), ("-local", ""), ("-openstack", "")]
)
def test_a_larger_set_has_all_of_a_smaller_one_in_the_same_versions(larger: str, smaller: str) -> None:
    assert locked(smaller)
    assert locked(smaller).items() <= locked(larger).items()


def test_only_the_sets_that_need_the_openstack_sdk_have_it() -> None:
    names = ["", "-local", "-openstack", "-dev"]
    assert [name for name in names if "openstacksdk" in locked(name)] == ["-openstack", "-dev"]
