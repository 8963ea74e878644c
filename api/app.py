"""The application: its parts put together, and what lives as long as it does."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI

from api import PREFIX, VERSION
from api.background import housekeeping
from api.background.dispatcher import Dispatcher
from api.background.readiness import Readiness
from api.background.workflow_recovery import WorkflowRecovery
from api.routes import actions, admin, auth, catalogue, health, interfaces, operations, snapshots, vms, volumes
from api.web import docs, openapi, problems
from api.web.admission import Slots
from api.web.dependencies import State
from api.web.middleware import Admission, Body, RequestContext
from api.web.security import Signing
from domain import temporal
from domain.data import database
from domain.settings import Settings

FAREWELL = 2.0  # seconds that deliveries in flight get at shutdown
RPC_PATIENCE = 1.0  # seconds
RESERVED = 4  # connections: for deliveries, looks, housekeeping, and whether the process is ready
WAIT_PER_PLACE = 4  # requests that wait for each that has a connection: a fraction of a second of work
# Each takes a quarter of a second of a processor, and all that wait have a place; the other requests need both, too.
HASHES, WAIT_FOR_HASH = max(1, (os.cpu_count() or 1) // 2), 12


def create_app(settings: Settings) -> FastAPI:
    """The API for these settings; SystemExit where they have no secret key."""
    if settings.secret_key is None:
        how = """python -c 'import secrets; print("SECRET_KEY=" + secrets.token_urlsafe(48))' >> .env"""
        raise SystemExit(f"SECRET_KEY is not set; make one with: {how}")
    signing = Signing(settings.secret_key.get_secret_value(), settings.algorithm)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _process(settings, signing) as app.state.vmapi:
            yield

    app = FastAPI(
        title=settings.app_name,
        version=VERSION,
        lifespan=lifespan,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=problems.HANDLERS,
    )
    for module in (health, auth, vms, actions, snapshots, volumes, interfaces, operations, catalogue, admin):
        app.router.routes.extend(module.routes.routes)
    docs.install(app)
    openapi.install(app, settings)
    places = max(1, settings.db_pool_size + settings.db_max_overflow - RESERVED)
    app.add_middleware(Admission, slots=Slots(places, WAIT_PER_PLACE * places), signing=signing)
    app.add_middleware(Body)
    app.add_middleware(RequestContext, debug=settings.debug)
    return app


@contextlib.asynccontextmanager
async def _process(settings: Settings, signing: Signing) -> AsyncIterator[State]:
    engine = database.create_engine(settings)
    client = await temporal.connect(settings, retry_for=RPC_PATIENCE, lazy=True)
    dispatcher = Dispatcher(engine, client, settings.temporal_task_queue)
    delivering = asyncio.create_task(dispatcher.run())
    recovery = WorkflowRecovery(engine, client, dispatcher)
    beside = [asyncio.create_task(recovery.run()), asyncio.create_task(housekeeping.run(engine))]
    hashing = Slots(HASHES, WAIT_FOR_HASH)
    try:
        reads = database.autocommit(engine)
        readiness = Readiness(reads, client)
        yield State(settings, signing, engine, reads, client, dispatcher, recovery, hashing, readiness)
    finally:
        dispatcher.stop()
        for task in beside:
            task.cancel()
        await asyncio.wait([delivering], timeout=FAREWELL)
        delivering.cancel()
        await asyncio.gather(delivering, *beside, return_exceptions=True)
        await engine.dispose()
