"""Builds the application: routes, middlewares, and the background tasks that run as long as the process."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI

from api import VERSION
from api.background import housekeeping
from api.background.changes import Changes
from api.background.dispatcher import Dispatcher
from api.background.provider_keys import ProviderKeys
from api.background.rate_uses import RateUses
from api.background.readiness import Readiness
from api.background.refusals import Refusals
from api.background.token_epochs import TokenEpochs
from api.background.token_uses import TokenUses
from api.background.use_exchange import UseExchange
from api.background.workflow_recovery import WorkflowRecovery
from api.routes import (
    actions,
    admin,
    admin_users,
    audit,
    auth,
    catalogue,
    codec,
    consoles,
    events,
    health,
    interfaces,
    operations,
    placement,
    projects,
    quotas,
    servers,
    snapshots,
    ssh_keys,
    tokens,
    vms,
    volumes,
)
from api.routes.resources import views_of
from api.web import docs, headers, openapi, problem_pages, problems
from api.web.admission import Admission
from api.web.dependencies import ProcessState
from api.web.headers import HeadAsGet, ResponseHeaders
from api.web.logins import Logins
from api.web.middleware import BufferedBody, RequestContext
from api.web.oidc import IdentityProvider
from api.web.program_tokens import ProgramTokens
from api.web.rate_limits import RateLimits
from api.web.security import Signing
from api.web.slots import Slots
from domain import temporal
from domain.data import database
from domain.settings import Settings

DELIVERY_GRACE = 1.0  # seconds that deliveries in progress may take at shutdown
RPC_RETRY_LIMIT = 1.0  # seconds
# Database connections that requests do not get: for the dispatcher, workflow recovery, housekeeping, readiness and the
# task that looks for changes, the uses and epochs of tokens, the audit's refusals, and the uses of rate limits.
RESERVED_CONNECTIONS = 9
QUEUE_PER_SLOT = 4  # waiting requests per slot; a slot serves them all in a fraction of a second
SLOTS_PER_SEARCH = 3  # filters by names and labels may hold a third of the slots, and those of one user half of that
# A hash takes a quarter of a second of a processor core. Half of the cores are left to all other requests.
HASHING_SLOTS = max(1, (os.cpu_count() or 1) // 2)
_ROUTES = (
    *(health, auth, vms, actions, consoles, snapshots, volumes, interfaces),
    *(operations, events, ssh_keys, tokens, projects, quotas, catalogue, placement, admin, servers),
    *(admin_users, audit),
)
HASHING_QUEUE = 12  # few, because each waits until those before it are hashed


def create_app(settings: Settings) -> FastAPI:
    """The API for these settings; SystemExit if they have no secret key."""
    if settings.secret_key is None:
        command = """python -c 'import secrets; print("SECRET_KEY=" + secrets.token_urlsafe(48))' >> .env"""
        raise SystemExit(f"SECRET_KEY is not set; make one with: {command}")
    fallbacks = tuple(key.get_secret_value() for key in settings.secret_key_fallbacks)
    signing = Signing(settings.secret_key.get_secret_value(), settings.algorithm, fallbacks)
    uses = RateUses()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running_process(settings, signing, uses) as app.state.vmapi:
            yield

    app = FastAPI(
        title=settings.app_name,
        version=VERSION,
        lifespan=lifespan,
        openapi_url=None,  # openapi.install serves it
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=problems.HANDLERS,
    )
    for module in (*_ROUTES, codec) if settings.temporal_payload_keys else _ROUTES:
        app.router.routes.extend(module.routes.routes)
    docs.install(app)
    problem_pages.install(app)
    openapi.install(app, settings)
    _add_middlewares(app, settings, signing, RateLimits(settings, uses))
    return app


def _add_middlewares(app: FastAPI, settings: Settings, signing: Signing, limits: RateLimits) -> None:
    """Wrap the routes in the middlewares, outermost first: ResponseHeaders, CORS, RequestContext, and so on.

    The first two also apply to the problems that RequestContext makes of bugs; without CORS headers a page could not
    read them. RequestContext comes before the rest, so that refused requests get an id, a log line and a problem, too.
    BufferedBody comes before Admission, so that a client that sends its body slowly holds no slot meanwhile.
    """
    # A request uses one connection at a time. With one slot for each connection, requests wait in the fair queue of the
    # slots and not in the pool, which would serve them in the order of their arrival.
    slots = max(1, settings.db_pool_size + settings.db_max_overflow - RESERVED_CONNECTIONS)
    # Each middleware that is added wraps those before it, so the innermost comes first.
    admission = {"slots": _fair(slots), "searches": _fair(max(1, slots // SLOTS_PER_SEARCH))}
    app.add_middleware(Admission, signing=signing, limits=limits, **admission)
    app.add_middleware(BufferedBody)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestContext, debug=settings.debug)
    web_ui = settings.temporal_ui_url if settings.temporal_payload_keys else None
    app.add_middleware(headers.Cors, origins=settings.cors_allow_origins, web_ui=web_ui)
    app.add_middleware(ResponseHeaders)


def _fair(slots: int) -> Slots:
    return Slots(slots, QUEUE_PER_SLOT * slots)


@contextlib.asynccontextmanager
async def _running_process(settings: Settings, signing: Signing, uses: RateUses) -> AsyncIterator[ProcessState]:
    """Run the background tasks, and yield the state that they share with all requests."""
    engine = database.create_engine(settings)
    client = await temporal.connect(settings, retry_for=RPC_RETRY_LIMIT, lazy=True)
    dispatcher = Dispatcher(engine, client, settings.temporal_task_queue, settings.temporal_search_names)
    recovery = WorkflowRecovery(engine, client, dispatcher)
    autocommit = database.autocommit(engine)
    changes = Changes(autocommit, views_of(settings))
    token_uses, epochs, refusals = TokenUses(engine), TokenEpochs(autocommit), Refusals(engine)
    delivering = asyncio.create_task(dispatcher.run())
    others = [
        asyncio.create_task(recovery.run()),
        asyncio.create_task(changes.run()),
        asyncio.create_task(housekeeping.run(engine, settings.operation_retention_days, settings.audit_retention_days)),
        asyncio.create_task(token_uses.run()),
        asyncio.create_task(epochs.run()),
        asyncio.create_task(UseExchange(autocommit, uses).run()),
    ]
    keys = ProviderKeys(settings.oidc_issuer) if settings.oidc_issuer else None
    if keys:
        others.append(asyncio.create_task(keys.run()))
    provider = IdentityProvider(settings, keys, engine, autocommit, epochs) if keys else None
    refusing = asyncio.create_task(refusals.run())
    hashing, logins = Slots(HASHING_SLOTS, HASHING_QUEUE), Logins()
    try:
        readiness, tokens = Readiness(autocommit, client), ProgramTokens(autocommit, token_uses, epochs)
        services = dispatcher, recovery, changes, hashing, logins, readiness, tokens, epochs, refusals
        yield ProcessState(settings, signing, engine, autocommit, client, *services, provider=provider)
    finally:
        # The server has answered or cut all requests by now. Deliveries in progress get a moment to be recorded. If
        # they are not, another process repeats them when their leases expire. The other tasks can stop anywhere,
        # because each of their transactions is complete in itself.
        dispatcher.stop()
        for task in others:
            task.cancel()
        writing = asyncio.create_task(refusals.write(at_once=True))
        await asyncio.wait([delivering, writing], timeout=DELIVERY_GRACE)
        delivering.cancel()
        refusing.cancel()
        writing.cancel()
        # At the same time, because a task whose server hangs ends only once its connection is cut.
        ending = asyncio.wait([delivering, writing, refusing, *others], timeout=database.CLOSE_TIMEOUT)
        await asyncio.gather(ending, database.close(engine))
        await database.close(engine)  # a task may have connected while it was ending
