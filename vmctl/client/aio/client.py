"""The client: everything that the service can do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import ParamSpec, Self

import httpx

from vmctl.client.aio.accounts import Account, SSHKeys, Tokens
from vmctl.client.aio.admin import Admin
from vmctl.client.aio.collections import Collection, Id
from vmctl.client.aio.events import Event, listen
from vmctl.client.aio.operations import Operations
from vmctl.client.aio.projects import Projects
from vmctl.client.aio.storage import Snapshots, Volumes
from vmctl.client.aio.transport import Transport, trial
from vmctl.client.aio.vms import VMs
from vmctl.client.errors import NO_TRIAL, NoTrialError
from vmctl.client.models import AvailabilityZone, Flavor, Image, Network, SecurityGroup
from vmctl.client.service import base_url, certificates_for, proxy_of, usable_environment, usable_token
from vmctl.client.tokens import TokenStore

P = ParamSpec("P")


class AsyncClient:
    """A client of the service at `url`.

    It uses `token` if there is one, and otherwise the tokens of a login: of `account.log_in`, or those in `tokens`. A
    request that is safe to repeat is sent again for up to `patience` seconds if the service is away or busy.
    `on_retry` is called before each pause, with its reason and its seconds. `transport` is for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        tokens: TokenStore | None = None,
        patience: float = 30.0,
        on_retry: Callable[[str, float], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        token = usable_token(token)
        address = base_url(url)
        with usable_environment():
            http = httpx.AsyncClient(
                base_url=address,
                transport=transport,
                proxy=None if transport else proxy_of(address),
                verify=certificates_for(address),
                trust_env=False,
            )
        self.transport = Transport(http, token=token, tokens=tokens, patience=patience, on_retry=on_retry)
        self.account = Account(self.transport)
        self.vms = VMs(self.transport)
        self.volumes = Volumes(self.transport)
        self.snapshots = Snapshots(self.transport)
        self.operations = Operations(self.transport)
        self.tokens = Tokens(self.transport)
        self.ssh_keys = SSHKeys(self.transport)
        self.projects = Projects(self.transport)
        self.admin = Admin(self.transport)
        self.flavors = Collection(self.transport, "/flavors", Flavor)
        self.images = Collection(self.transport, "/images", Image)
        self.networks = Collection(self.transport, "/networks", Network)
        self.security_groups = Collection(self.transport, "/security-groups", SecurityGroup)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.transport.aclose()

    async def validate(self, ask: Callable[P, Awaitable[object]], *arguments: P.args, **fields: P.kwargs) -> None:
        """Ask whether the service would accept a change now, and change nothing. ProblemError says why it would not.

        NoTrialError if such a change cannot be tried: a delete, a new name or label, or anything about logins.
        `ask` is a method that sends a POST: `client.validate(client.vms.create, name="web-1", flavor="m1.small")`.
        """
        with trial():
            await ask(*arguments, **fields)
            raise NoTrialError(NO_TRIAL)  # `ask` has sent no change

    def availability_zones(self) -> AsyncIterator[AvailabilityZone]:
        """Yield the availability zones."""
        return self.transport.items("/availability-zones", AvailabilityZone, {})

    def events(self, *, vm_id: Id | None = None, last_event_id: str | None = None) -> AsyncIterator[Event]:
        """Yield every change of your resources, or of one VM and what belongs to it, for ever."""
        path = "/events" if vm_id is None else f"/vms/{vm_id}/events"
        return listen(self.transport, path, last_event_id)
