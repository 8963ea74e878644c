"""The connection of a process to its cloud: it sends each request once, in one of a few threads.

Requests are plain ones, with explicit microversions and timeouts. The SDK's own methods hide requests, waits and
caches, and its retries would send a lost POST a second time.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Generic, ParamSpec, TypeVar

import requests
from keystoneauth1 import discover
from keystoneauth1 import exceptions as keystone
from keystoneauth1.adapter import Adapter
from openstack.config.cloud_region import CloudRegion
from openstack.exceptions import SDKException

from activities.backends.openstack import answers
from activities.backends.openstack.errors import (
    CloudError,
    Failure,
    Lost,
    Service,
    cloud_error,
    name_of,
)
from activities.backends.protocol import BackendError, UnusableCloudError

logger = logging.getLogger(__name__)

Params = Sequence[tuple[str, str]]
T = TypeVar("T")
P = ParamSpec("P")

THREADS: Final = 8
CONNECT_TIMEOUT: Final = 3.0  # seconds
TIMEOUT: Final = 60.0  # seconds in which an answer must begin
LIST_TIMEOUT: Final = 20.0
SERVERS_TIMEOUT: Final = 75.0  # while a cell of the cloud is down, each list of servers takes a minute
MICROVERSIONS: Final = {Service.COMPUTE: "2.95", Service.VOLUME: "3.70"}
RELEASE: Final = "OpenStack 2023.1"  # the first one that has them
_MAJOR_VERSIONS: Final = {Service.COMPUTE: "2", Service.VOLUME: "3", Service.IMAGE: "2"}
_SERVICES: Final = (Service.COMPUTE, Service.VOLUME, Service.NETWORK, Service.IMAGE)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A successful answer: what was read from its body, and its X-Openstack-Request-Id."""

    value: T
    request_id: str | None


class Cloud:
    """The cloud of this process. One login and one set of connections serve all of its threads."""

    def __init__(self, region: CloudRegion) -> None:
        self._region = region
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="openstack")
        self._adapters: dict[Service, Adapter] = {}
        self._discovery = threading.Lock()
        self._ahead: dict[Service, timedelta] = {}

    async def prepare(self) -> None:
        """Log in and look at the versions of all services; UnusableCloudError if one is too old or missing.

        A cloud that does not answer is no reason to end: the first request of each service will do the same.
        """
        for service in _SERVICES:
            try:
                await self.run(self._adapter, service)
            except UnusableCloudError:
                raise
            except CloudError as error:
                logger.warning("The cloud is not available yet, work waits for it: %s", error)
                return

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def get(self, service: Service, path: str, params: Params = ()) -> Answer[Any]:
        """Return the parsed body at the path."""
        timeout = SERVERS_TIMEOUT if service is Service.COMPUTE else LIST_TIMEOUT
        return await self.run(self.request, service, "GET", path, params=params, timeout=timeout)

    def request(  # noqa: PLR0913 - the parts of an HTTP request
        self,
        service: Service,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Params = (),
        timeout: float = TIMEOUT,
        read: Callable[[Any], T] = lambda body: body,
        before_sending: Callable[[], None] = lambda: None,
    ) -> Answer[T]:
        """Send a request once, in this thread, and return what `read` finds in the body; CloudError if it fails.

        `before_sending` is called after the login, directly before the connection is opened or used; for a second time
        if the cloud wants a new login. What it raises is raised here, and then nothing was sent.
        """
        gate = _Gate(before_sending)
        try:
            response = self._adapter(service).request(
                path,
                method,
                json=body,
                params=list(params),
                timeout=(CONNECT_TIMEOUT, timeout),
                requests_auth=gate,
                hooks={"response": gate.note_answer},
                raise_exc=False,
                log=False,  # keystoneauth would log bodies, with user data, and passwords that Nova makes
            )
            self._note_date(service, response)
            _check_status(response, service, method, path)
            return Answer(read(_body(response)), response.headers.get(answers.REQUEST_ID))
        except BackendError:
            raise
        except Exception as error:
            if error is gate.refusal:
                raise
            if not gate.is_passed:
                raise _before_sending(error, service) from None
            # Whatever it is: a truncated body ends in any error that reading it may raise.
            lost, words = answers.how_it_was_lost(error), answers.reason_of(error)
            if lost is Lost.UNREADABLE:
                logger.warning("The answer to %s %s cannot be read", method, path, exc_info=True)
            raise cloud_error(Failure(service, method, path, lost, words=words)) from None

    async def user_id(self) -> str:
        """Return the id of the user that this service is in the cloud."""
        return await self.run(self._user_id)

    def _user_id(self) -> str:
        try:
            return str(self._adapter(Service.COMPUTE).get_user_id())
        except (keystone.ClientException, SDKException) as error:
            raise _before_sending(error, Service.IDENTITY) from None

    def now(self, service: Service) -> datetime:
        """Return the service's own time in whole seconds, by its last answer; it is never later than it is there."""
        return (datetime.now(UTC) + self._ahead.get(service, timedelta())).replace(microsecond=0)

    async def identity(self) -> str:
        """Return the project and the region, which together have everything that we make."""
        region = self._region.get_region_name(Service.COMPUTE)
        return f"project {await self.project_id()}" + (f" in region {region}" if region else "")

    async def project_id(self) -> str:
        """Return the project of the login, which has everything that we make."""
        return await self.run(self._project_id)

    def close(self) -> None:
        """Let go of the threads. One that still waits for an answer ends by its timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _project_id(self) -> str:
        try:
            id = self._region.get_session().get_project_id()
        except (keystone.ClientException, SDKException) as error:
            raise _before_sending(error, Service.IDENTITY) from None
        if id is None:
            raise UnusableCloudError("the login has no project; name one in the cloud's configuration")
        return id

    def _note_date(self, service: Service, response: requests.Response) -> None:
        date = answers.date_of(response)
        if date is not None and answers.REQUEST_ID in response.headers:
            self._ahead[service] = date - datetime.now(UTC)

    def _adapter(self, service: Service) -> Adapter:
        """Return the way to a service; the first time, log in and discover its endpoint and versions."""
        with self._discovery:
            adapter = self._adapters.get(service)
            if adapter is None:
                adapter = self._discover(service)
                self._adapters[service] = adapter
        return adapter

    def _discover(self, service: Service) -> Adapter:
        major = _MAJOR_VERSIONS.get(service)
        adapter = Adapter(
            self._region.get_session(),
            service_type=self._region.get_service_type(service),
            service_name=self._region.get_service_name(service),
            interface=self._region.get_interface(service),
            region_name=self._region.get_region_name(service),
            endpoint_override=self._region.get_endpoint(service),
            min_version=major,
            max_version=major and f"{major}.latest",
            default_microversion=MICROVERSIONS.get(service),
            rate_limit=self._region.get_rate_limit(service),
            concurrency=self._region.get_concurrency(service),
            # A lost POST must not be sent again, and the configuration has no say in this.
            connect_retries=0,
            status_code_retries=0,
        )
        try:
            if service is Service.NETWORK:
                # As the SDK does it: Neutron has one version, and its discovery is often not reachable.
                endpoint = (adapter.get_endpoint() or "").rstrip("/").removesuffix("/v2.0")
                adapter.endpoint_override = f"{endpoint}/v2.0"
            else:
                endpoint_data = adapter.get_endpoint_data()
                _check_microversion(service, endpoint_data)
                if endpoint_data and adapter.endpoint_override:
                    adapter.endpoint_override = endpoint_data.url  # the configured one may lack the version
        except keystone.EndpointNotFound:
            raise UnusableCloudError(f"the cloud has no {name_of(service)} service that this login may use") from None
        except (keystone.ClientException, SDKException) as error:
            raise _before_sending(error, service) from None
        return adapter


class _Gate(requests.auth.AuthBase):
    """Calls a function directly before a request is sent, and only before this one, not before a login.

    The library calls it as the last thing before it takes a connection, each time that it sends the request.
    `is_passed` means that the request is on its way, or that its answer is here.
    """

    def __init__(self, before_sending: Callable[[], None]) -> None:
        self._before_sending = before_sending
        self.is_passed = False
        self.refusal: Exception | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            self._before_sending()
        except Exception as error:
            self.refusal = error
            raise
        self.is_passed = True
        return request

    def note_answer(self, response: requests.Response, **_: object) -> None:
        """Notice that the service wants a new login: it has done nothing, and what comes next is the login."""
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            self.is_passed = False


def _body(response: requests.Response) -> Any:
    if not response.content:
        return None  # Cinder and Glance call an empty body HTML
    if answers.is_html(response):
        raise ValueError("a page for people")
    return answers.json_of(response)


def _check_status(response: requests.Response, service: Service, method: str, path: str) -> None:
    if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
        raise cloud_error(answers.failure_of(response, service, method, path))


def _before_sending(error: Exception, service: Service) -> CloudError:
    """Return what an error means that came before the request was sent: of the login, or of the service's discovery."""
    login = (Service.IDENTITY, "POST", "/auth/tokens")
    cause = error.__context__ if isinstance(error, keystone.DiscoveryFailure) else error
    if isinstance(cause, keystone.HttpError) and cause.response is not None:
        return cloud_error(answers.failure_of(cause.response, *login))
    if isinstance(cause, keystone.ConnectionError):
        return cloud_error(Failure(*login, Lost.UNREACHABLE, words=answers.reason_of(cause)))
    if isinstance(error, keystone.ClientException) and not isinstance(error, keystone.EndpointNotFound):
        return cloud_error(Failure(*login, Lost.UNREADABLE))
    return cloud_error(Failure(service, "GET", "/", Lost.UNDISCOVERED))


def _check_microversion(service: Service, endpoint: discover.EndpointData | None) -> None:
    """Raise UnusableCloudError if the service is too old, and CloudError if it does not say how old it is."""
    wanted = MICROVERSIONS.get(service)
    newest = endpoint and endpoint.max_microversion
    # The library takes the version from an address such as .../v2.1 if the service does not answer.
    if endpoint is None or endpoint.api_version is None or (wanted and newest is None):
        raise cloud_error(Failure(service, "GET", "/", Lost.UNDISCOVERED))
    if wanted and newest and newest < discover.normalize_version_number(wanted):
        raise UnusableCloudError(
            f"the newest microversion of the cloud's {name_of(service)} service is "
            f"{discover.version_to_string(newest)}, and {wanted} is needed ({RELEASE} or newer)"
        )
