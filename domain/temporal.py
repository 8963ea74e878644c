"""Connections to Temporal, the registration of search attributes there, and a file that shows whether it answers."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig
from temporalio.service import RetryConfig, RPCError, RPCStatusCode, TLSConfig

from domain import payload_codec, search_attributes
from domain.settings import Settings

RPC_TIMEOUT = timedelta(seconds=2)
# For all addresses of the server's name together. Without it the client would wait for a first one whose machine is
# gone as long as the system does, which are minutes, and not come to the second.
CONNECT_TIMEOUT = timedelta(seconds=5)
# For the connection and the first answer. The SDK alone would wait half a minute for the answer.
FIRST_ANSWER_TIMEOUT = timedelta(seconds=12)
HEALTH_PAUSE = 5.0  # seconds
HEALTH_TIMEOUT = timedelta(seconds=5)
logger = logging.getLogger(__name__)
_TYPES: Final = {key.name: IndexedValueType.ValueType(int(key.indexed_value_type)) for key in search_attributes.ALL}


def forward_logs() -> None:
    """Have the core of Temporal's SDK log through Python, in the one format of the process; it prints its own else."""
    forwarding = LogForwardingConfig(logging.getLogger("temporalio.core"), append_target_to_name=False)
    telemetry = TelemetryConfig(logging=LoggingConfig(LoggingConfig.default.filter, forwarding))
    Runtime.set_default(Runtime(telemetry=telemetry))


async def connect(settings: Settings, *, retry_for: float, lazy: bool = False) -> Client:
    """Connect to the namespace; the client retries each failed call for `retry_for` seconds.

    TimeoutError if the server is silent. If that is the first of several addresses of its name, the SDK does not come
    to the others.
    """
    key = settings.temporal_api_key
    try:
        async with asyncio.timeout(FIRST_ANSWER_TIMEOUT.total_seconds()):
            return await Client.connect(
                settings.temporal_address,
                namespace=settings.temporal_namespace,
                api_key=key.get_secret_value() if key else None,
                tls=_tls(settings),
                connect_timeout=CONNECT_TIMEOUT,
                data_converter=payload_codec.converter(settings.payload_keys),
                retry_config=RetryConfig(max_elapsed_time_millis=int(retry_for * 1000)),
                lazy=lazy,
            )
    except TimeoutError:
        raise TimeoutError(f"Temporal at {settings.temporal_address} accepts connections and answers nothing") from None


async def missing_search_attributes(client: Client) -> list[str]:
    """The names of the search attributes that the namespace does not know yet; ValueError if one has another type."""
    request = ListSearchAttributesRequest(namespace=client.namespace)
    known = (await client.operator_service.list_search_attributes(request, timeout=RPC_TIMEOUT)).custom_attributes
    for name, expected in _TYPES.items():
        actual = known.get(name, expected)
        if actual != expected:
            type_name = IndexedValueType.Name
            raise ValueError(f"search attribute {name} exists as {type_name(actual)}, not {type_name(expected)}")
    return [name for name in _TYPES if name not in known]


async def register_search_attributes(client: Client) -> None:
    """Register the search attributes that are missing in the namespace; ValueError if one has another type."""
    missing = await missing_search_attributes(client)
    if not missing:
        return
    types = {name: _TYPES[name] for name in missing}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=types)
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:  # another process registers them at the same time
            raise


async def show_health(client: Client, file: Path | None) -> None:
    """Touch the file every few seconds while Temporal answers. A health check looks at the file's age."""
    logged = ""
    while file is not None:
        try:
            await client.service_client.check_health(timeout=HEALTH_TIMEOUT)
            await asyncio.to_thread(file.touch)
        except RPCError:
            pass  # the health check is about this
        except OSError as error:
            if str(error) != logged:  # not every few seconds
                logger.warning("WORKER_HEALTH_FILE cannot be touched, so a health check fails: %s", error)
            logged = str(error)
        await asyncio.sleep(HEALTH_PAUSE)


def _tls(settings: Settings) -> TLSConfig | bool:
    files = (
        settings.temporal_tls_server_ca,
        settings.temporal_tls_client_cert,
        settings.temporal_tls_client_key,
    )
    if not any(files):
        return settings.temporal_api_key is not None
    ca, cert, key = (file.read_bytes() if file else None for file in files)
    return TLSConfig(server_root_ca_cert=ca, client_cert=cert, client_private_key=key)
