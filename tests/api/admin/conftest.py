"""An application with an admin."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.settings import Settings
from tests.api.conftest import Person, person, running


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application. Its admin is "root"; ADMIN_USERNAME writes the name in another case, which must not matter."""
    async with running(settings.model_copy(update={"admin_username": "Root"})) as app:
        yield app


@pytest.fixture
async def root(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """The admin."""
    return await person(app, engine, settings, "root")
