"""YAML that `vmctl` prints means the same to readers of YAML 1.1 and 1.2."""

import pytest
import yaml  # type: ignore[import-untyped]

from vmctl.cli.yaml_text import as_yaml


@pytest.mark.parametrize("text", ["1e3", "1E5", "0o17", "0x1F", "12", "-1.5", ".5", "1.", "+7", "1e-9"])
def test_a_text_that_looks_like_a_number_is_in_quotes(text: str) -> None:
    assert as_yaml({"labels": {"build": text}}) == f"labels:\n  build: '{text}'"


@pytest.mark.parametrize("text", ["web-1", "1e", "0o18", "1.2.3", "v1", "größe"])
def test_another_text_is_not(text: str) -> None:
    assert as_yaml({"name": text}) == f"name: {text}"


def test_other_values_are_as_yaml_writes_them() -> None:
    data = {"size": 1000, "share": 0.5, "is_default": True, "none": None, "yes": "yes", "lines": "a\nb", "ids": ["1"]}
    assert yaml.safe_load(as_yaml(data)) == data
    assert as_yaml({"name": "größe"}, ascii_only=True) == 'name: "gr\\xF6\\xDFe"'
