"""Dependencies of the routes: the state of the process, the caller, a VM."""

from dataclasses import dataclass, field
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from api.background.changes import Changes
from api.background.dispatcher import Dispatcher
from api.background.provider_keys import ProviderAwayError
from api.background.readiness import Readiness
from api.background.refusals import Refusals
from api.background.token_epochs import TokenEpochs
from api.background.workflow_recovery import WorkflowRecovery
from api.web import oidc, program_tokens, security
from api.web.logins import Logins
from api.web.oidc import IdentityProvider, ProviderCaller
from api.web.origin import source_of
from api.web.problems import ProblemError
from api.web.program_tokens import ProgramTokens
from api.web.reading import Reading
from api.web.remembered import Remembered
from api.web.repeated import RepeatedLists
from api.web.security import Caller, InvalidTokenError, LoginCaller, Signing
from api.web.slots import Slots
from domain import logs
from domain.commands.acceptance import Requester
from domain.data.accounts import User
from domain.data.identities import IS_OF_PROVIDER
from domain.data.models import VM
from domain.data.prepared import Prepared
from domain.data.projects import may_read, roles_in
from domain.rules import access
from domain.rules.access import Verb
from domain.rules.accounts import Role
from domain.rules.errors import NotFoundError
from domain.rules.scopes import Scope
from domain.settings import Settings

_READS = {"GET", "HEAD", "OPTIONS"}
CONSOLE_SLOTS, CONSOLE_QUEUE = 6, 72  # few at once, because each asks a worker and the cloud


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What all requests of the process share.

    `autocommit` is the engine without transactions, for single statements. `hashing` limits how many passwords are
    hashed concurrently, `reading` how many large bodies are read, and `consoles` how many requests wait for one.
    `logins` remembers the failed ones, `refusals` writes them to the audit, and `epochs` knows which logins have ended.
    `provider` is None unless the settings name an identity provider. `long_lists` have more rows than are counted, and
    `sharing_users` several projects. `common_searches` are for what many resources have.
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
    epochs: TokenEpochs
    refusals: Refusals
    long_lists: Remembered = field(default_factory=Remembered)
    common_searches: Remembered = field(default_factory=Remembered)
    sharing_users: Remembered = field(default_factory=Remembered)
    repeated_lists: RepeatedLists = field(default_factory=RepeatedLists)
    reading: Reading = field(default_factory=Reading)
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
            await process.epochs.be_current(for_write=request.method not in _READS)
            request.scope["caller"] = user = await process.provider.find(token, request.scope)
            return user
        if not program_tokens.is_one(token):
            # Kept for requests that wait, which look at it again.
            login = security.verify(process.signing, "access", token).caller
            request.scope["caller"] = await _present(process, login, request.method)
            return login
        request.scope["caller"] = caller = await process.program_tokens.find(token)
    except InvalidTokenError as error:
        raise ProblemError("invalid_token", str(error)) from None
    except ProviderAwayError:
        detail = "The identity provider does not say which keys are its own, so the token cannot be checked; try again."
        raise ProblemError("identity_provider_unavailable", detail) from None
    if request.method != "GET" and Scope.WRITE not in caller.scopes:  # HEAD comes as GET
        detail = "This token may only read. Use one with the scope write."
        raise ProblemError("insufficient_scope", detail)
    return caller


async def _present(process: ProcessState, caller: LoginCaller, method: str) -> LoginCaller:
    """The caller; InvalidTokenError if the login has ended."""
    await process.epochs.be_current(for_write=method not in _READS)
    if await process.epochs.has_ended(caller.id, caller.epoch):
        raise InvalidTokenError("This login has ended; log in again.")
    return caller


async def _logged_in(caller: Annotated[Caller, Depends(_caller)]) -> LoginCaller:
    """The caller, if the caller has logged in here; ProblemError if the token comes from elsewhere."""
    if isinstance(caller, LoginCaller):
        return caller
    if isinstance(caller, ProviderCaller):
        detail = "You have logged in at the identity provider and not here. Do this there."
        raise ProblemError("login_required", detail)
    raise ProblemError("login_required", "A token for programs comes from no login. Log in to do this.")


_IS_ADMIN = select(User.epoch).where(
    User.id == bindparam("user_id"), User.role == Role.ADMIN, User.disabled_at.is_(None)
)
_IS_ADMIN_OF_HERE = _IS_ADMIN.where(~IS_OF_PROVIDER)


async def may_administer(process: ProcessState, caller: Caller) -> bool:
    """Whether the caller is an admin: the identity provider decides about its users, if the settings say how."""
    if isinstance(caller, ProviderCaller) and caller.is_admin is not None:
        return caller.is_admin
    # The database says so, and no token: a role that is taken away is gone for every request that comes after that.
    # The provider's users have it from their tokens only, or a program's token would keep what the provider took away.
    is_admin = _IS_ADMIN if process.settings.oidc_role_claim is None else _IS_ADMIN_OF_HERE
    async with process.autocommit.connect() as connection:
        epoch = await connection.scalar(is_admin, {"user_id": caller.id})
    return epoch is not None and not (isinstance(caller, LoginCaller) and caller.epoch != epoch)


async def _admin(process: Process, caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    """The caller, if the caller is an admin at this moment; ProblemError if not."""
    if await may_administer(process, caller):
        return caller
    raise ProblemError("admin_only", "Only an admin may do this. Admins are made on the server or by other admins.")


Admin = Annotated[Caller, Depends(_admin)]
_READABLE_VM = Prepared(select(VM).where(VM.id == bindparam("vm_id"), may_read(VM.owner_id)))
CurrentUser = Annotated[Caller, Depends(_caller)]
LoggedInUser = Annotated[LoginCaller, Depends(_logged_in)]


def requester_of(request: Request, caller: Caller) -> Requester:
    """The caller as commands know one."""
    by_provider = isinstance(caller, ProviderCaller) and caller.is_admin is True
    source = source_of(request.scope)
    return Requester(caller.id, caller.username, logs.request_id.get(), source, is_admin_by_provider=by_provider)


async def _requester(request: Request, caller: CurrentUser) -> Requester:
    return requester_of(request, caller)


CurrentRequester = Annotated[Requester, Depends(_requester)]


async def fetch_readable_vm(process: Process, caller: CurrentUser, vm_id: UUID) -> VM:
    """A VM that the caller may read; NotFoundError if there is none."""
    found = await _READABLE_VM.fetch(process.engine, {"vm_id": vm_id, "user_id": caller.id})
    if not found:
        raise NotFoundError("VM", vm_id)
    return cast("VM", found[0])


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
