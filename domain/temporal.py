"""The connection to Temporal, the same for all processes, and what has to be registered there."""

from datetime import timedelta
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RetryConfig, RPCError, RPCStatusCode, TLSConfig

from domain import search_attributes
from domain.settings import Settings

RPC_TIMEOUT = timedelta(seconds=2)
_WANTED: Final = {key.name: IndexedValueType.ValueType(int(key.indexed_value_type)) for key in search_attributes.ALL}


async def connect(settings: Settings, *, patience: float, lazy: bool = False) -> Client:
    """A client of the namespace; each of its calls gives up after `patience` seconds of retries."""
    key = settings.temporal_api_key
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        api_key=key.get_secret_value() if key else None,
        tls=_tls(settings),
        retry_config=RetryConfig(max_elapsed_time_millis=int(patience * 1000)),
        lazy=lazy,
    )


async def missing_search_attributes(client: Client) -> list[str]:
    """The names of those search attributes that the namespace does not know yet; it starts no workflow without them.

    ValueError where it knows one as another type.
    """
    request = ListSearchAttributesRequest(namespace=client.namespace)
    known = (await client.operator_service.list_search_attributes(request, timeout=RPC_TIMEOUT)).custom_attributes
    for name, kind in _WANTED.items():
        if known.get(name, kind) != kind:
            was = IndexedValueType.Name(known[name])
            raise ValueError(f"search attribute {name} exists as {was}, not {IndexedValueType.Name(kind)}")
    return [name for name in _WANTED if name not in known]


async def register_search_attributes(client: Client) -> None:
    """Have the namespace know every search attribute; again is harmless. ValueError as above."""
    missing = await missing_search_attributes(client)
    if not missing:
        return
    wanted = {name: _WANTED[name] for name in missing}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wanted)
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:  # by another migration at the same time
            raise


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
