"""A minimal FastAPI service, the floor with which `bench.http` compares the API: no API here can be faster.

`python -m bench.floor PORT` serves a constant, one SELECT and one INSERT with commit, on a plain asyncpg pool.
"""

import contextlib
import sys
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from domain.settings import load_settings


class Row(BaseModel):
    """A small answer."""

    id: UUID
    name: str


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open a pool and create a table with one row."""
    url = load_settings().database_url.replace("postgresql+asyncpg", "postgresql")
    async with asyncpg.create_pool(url, min_size=10, max_size=30) as app.state.pool:
        await app.state.pool.execute("CREATE TABLE IF NOT EXISTS bench_floor (id uuid PRIMARY KEY, name text)")
        app.state.id = uuid4()
        await app.state.pool.execute("INSERT INTO bench_floor VALUES ($1, 'one')", app.state.id)
        yield
        await app.state.pool.execute("DROP TABLE bench_floor")


app = FastAPI(lifespan=lifespan)


@app.get("/constant")
async def constant() -> Row:
    """Answer without the database."""
    return Row(id=app.state.id, name="one")


@app.get("/select")
async def select() -> Row:
    """Answer with one row that is read."""
    row = await app.state.pool.fetchrow("SELECT id, name FROM bench_floor WHERE id = $1", app.state.id)
    return Row(id=row["id"], name=row["name"])


@app.post("/insert")
async def insert(body: Row) -> Row:
    """Insert one row and commit."""
    await app.state.pool.execute("INSERT INTO bench_floor VALUES ($1, $2)", uuid4(), body.name)
    return body


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="error")
