"""The connection to Temporal, the same for the API and the worker."""

from temporalio.client import Client
from temporalio.service import RetryConfig, TLSConfig

from domain.settings import Settings


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
