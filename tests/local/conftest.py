"""Fixtures of the tests of the local stack."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def private_folder() -> Iterator[Path]:
    """A folder that only its owner may enter, directly below one that is open to all."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
