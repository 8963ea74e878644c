"""An admin."""

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.rules.accounts import Role
from domain.settings import Settings
from tests.api.conftest import Person, person


@pytest.fixture
async def root(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """The admin."""
    return await person(app, engine, settings, "root", Role.ADMIN)
