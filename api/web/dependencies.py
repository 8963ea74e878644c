"""Dependencies of the routes: the state of the process, the caller, a VM."""

from dataclasses import dataclass, field
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Uuid, bindparam, select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from api.background.changes import Changes
from api.background.dispatcher import Dispatcher
from api.background.provider_keys import ProviderAwayError
from api.background.readiness import Readiness
from api.background.workflow_recovery import WorkflowRecovery
from api.web import oidc, program_tokens, security
from api.web.admission import Slots
from api.web.logins import Logins
from api.web.long_lists import LongLists
from api.web.oidc import IdentityProvider, ProviderCaller
from api.web.problems import ProblemError
from api.web.program_tokens import ProgramTokens
from api.web.security import Caller, InvalidTokenError, LoginCaller, Signing
from domain.data import queries
from domain.data.accounts import user_named, username_key
from domain.data.models import VM
from domain.data.projects import may_read, roles_in
from domain.rules import access
from domain.rules.access import Verb
from domain.rules.errors import NotFoundError
from domain.rules.scopes import Scope
from domain.settings import Settings

CONSOLE_SLOTS, CONSOLE_QUEUE = 6, 4  # few, because each keeps its request slot, for seconds if no worker answers


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What all requests of the process share.

    `autocommit` is the engine without transactions, for single statements. `hashing` limits how many passwords are
    hashed concurrently, and `consoles` how many requests wait for one. `logins` remembers the failed ones. `provider`
    is None unless the settings name an identity provider.
    """

    settings: Settings
    signing: Signing
    engine: AsyncEngine
    autocommit: AsyncEngine
    temporal: Client
    dispatcher: Dispatcher
    workflow_recovery: WorkflowRecovery
    changes: Changes
    hashing: Slots
    logins: Logins
    readiness: Readiness
    program_tokens: ProgramTokens
    long_lists: LongLists = field(default_factory=LongLists)
    consoles: Slots = field(default_factory=lambda: Slots(CONSOLE_SLOTS, CONSOLE_QUEUE))
    provider: IdentityProvider | None = None


async def _process_state(request: Request) -> ProcessState:
    state: ProcessState = request.app.state.vmapi
    return state


Process = Annotated[ProcessState, Depends(_process_state)]
_bearer = HTTPBearer(
    scheme_name="bearer",
    description="The access token from `POST /auth/login`, a token for programs from `POST /tokens`, or an access "
    "token of the identity provider that the operator of the service has named.",
    auto_error=False,  # FastAPI's own error is not a problem document
)


async def _caller(
    process: Process, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    if credentials is None:
        detail = "Send an access token in the header: Authorization: Bearer <token>."
        raise ProblemError("unauthenticated", detail)
    token = credentials.credentials
    try:
        if process.provider and oidc.is_signed(token):
            return await process.provider.find(token)
        if not program_tokens.is_one(token):
            return security.verify(process.signing, "access", token).caller
        caller = await process.program_tokens.find(token)
    except InvalidTokenError as error:
        raise ProblemError("invalid_token", str(error)) from None
    except ProviderAwayError:
        detail = "The identity provider does not say which keys are its own, so the token cannot be checked; try again."
        raise ProblemError("identity_provider_unavailable", detail) from None
    if request.method != "GET" and Scope.WRITE not in caller.scopes:  # HEAD comes as GET
        detail = "This token may only read. Use one with the scope write."
        raise ProblemError("insufficient_scope", detail)
    return caller


async def _logged_in(caller: Annotated[Caller, Depends(_caller)]) -> LoginCaller:
    """The caller, if the caller has logged in here; ProblemError if the token comes from elsewhere."""
    if isinstance(caller, LoginCaller):
        return caller
    if isinstance(caller, ProviderCaller):
        detail = "You have logged in at the identity provider and not here. Do this there."
        raise ProblemError("login_required", detail)
    raise ProblemError("login_required", "A token for programs comes from no login. Log in to do this.")


async def is_admin(process: ProcessState, user_id: UUID, username: str) -> bool:
    """Whether this user is the admin."""
    name = process.settings.admin_username
    if name is None or username_key(username) != username_key(name):
        return False
    # Two early accounts may differ in case only. The admin is the one that logs in with ADMIN_USERNAME.
    async with process.autocommit.connect() as connection:
        admin = await queries.fetch_one(connection, user_named(name))
    return admin is not None and admin.id == user_id


async def may_administer(process: ProcessState, caller: Caller) -> bool:
    """Whether the caller is an admin: the identity provider decides about its users, if the settings say how."""
    if isinstance(caller, ProviderCaller) and caller.is_admin is not None:
        return caller.is_admin
    return await is_admin(process, caller.id, caller.username)


async def _admin(process: Process, caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    """The caller, if the caller is an admin; ProblemError if not."""
    if await may_administer(process, caller):
        return caller
    raise ProblemError("admin_only", "Only the admin may do this. ADMIN_USERNAME names the account.")


Admin = Annotated[Caller, Depends(_admin)]
_READABLE_VM = select(VM).where(VM.id == bindparam("vm_id"), may_read(VM.owner_id, bindparam("user_id", type_=Uuid())))
CurrentUser = Annotated[Caller, Depends(_caller)]
LoggedInUser = Annotated[LoginCaller, Depends(_logged_in)]


async def fetch_readable_vm(process: Process, caller: CurrentUser, vm_id: UUID) -> VM:
    """A VM that the caller may read; NotFoundError if there is none."""
    async with process.autocommit.connect() as connection:
        found = await connection.execute(_READABLE_VM, {"vm_id": vm_id, "user_id": caller.id})
    vm = cast("VM | None", found.one_or_none())
    if vm is None:
        raise NotFoundError("VM", vm_id)
    return vm


async def fetch_changeable_vm(
    process: Process, caller: CurrentUser, vm: Annotated[VM, Depends(fetch_readable_vm)]
) -> VM:
    """A VM that the caller may change; NotFoundError or ForbiddenError."""
    async with process.autocommit.connect() as connection:
        roles = await roles_in(connection, caller.id, [vm.owner_id])
    access.check(roles.get(vm.owner_id), Verb.CHANGE, "VM", vm.id)
    return vm


ReadableVM = Annotated[VM, Depends(fetch_readable_vm)]
ChangeableVM = Annotated[VM, Depends(fetch_changeable_vm)]
