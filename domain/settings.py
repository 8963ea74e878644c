"""All settings with their defaults, read from the environment once and validated."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domain import database_url, tls

PLACEHOLDER_SECRET = "change-me-in-production"  # noqa: S105 - not a secret: this value is rejected
MINIMUM_SECRET_BYTES = 32  # RFC 7518 section 3.2: an HS256 key is at least as long as its hash

# An origin in the form in which a browser sends it: in lower case, without a path, without the scheme's own port.
_ORIGIN = re.compile(r"(?:https://(?!.*:443$)|http://(?!.*:80$))(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_HOST_AND_PORT = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\]):(?P<port>[0-9]{1,5})")

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Probability = Annotated[float, Field(ge=0, le=1)]
Requests = Annotated[int, Field(ge=0, le=1_000_000_000)]
_LAST_PORT = 65_535
Port = Annotated[int, Field(ge=1, le=_LAST_PORT)]


class Settings(BaseSettings):
    """All settings; the environment overrides `.env`. Delays are in seconds, rates are probabilities."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    app_name: str = "OpenStack VM API"
    debug: bool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    database_url: str = "postgresql+asyncpg://postgres:postgres@localhost:5432/vmapi"
    db_pool_size: int = Field(default=10, ge=1, le=1000)
    db_max_overflow: int = Field(default=20, ge=0, le=1000)
    db_echo: bool = False

    secret_key: SecretStr | None = None
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    access_token_expire_minutes: int = Field(default=30, ge=1, le=1440)
    refresh_token_expire_days: int = Field(default=7, ge=1, le=365)

    compute_backend: Literal["mock", "openstack"] = "mock"
    mock_build_delay: Seconds = 5.0
    mock_start_delay: Seconds = 2.0
    mock_stop_delay: Seconds = 2.0
    mock_reboot_delay: Seconds = 3.0
    mock_resize_delay: Seconds = 5.0
    mock_delete_delay: Seconds = 2.0
    mock_snapshot_delay: Seconds = 4.0
    mock_error_rate: Probability = 0.0
    mock_transient_rate: Probability = 0.0

    resize_confirm_window: int = Field(default=0, ge=0, le=31_536_000)
    operation_retention_days: int = Field(default=90, ge=0, le=36_500)

    admin_username: str | None = None

    rate_limit_user_reads: Requests = 30_000
    rate_limit_user_writes: Requests = 9_000
    rate_limit_token_reads: Requests = 15_000
    rate_limit_token_writes: Requests = 4_500
    rate_limit_address_reads: Requests = 6_000
    rate_limit_address_writes: Requests = 3_000

    default_page_size: int = Field(default=20, ge=1, le=1000)
    max_page_size: int = Field(default=100, ge=1, le=1000, validate_default=True)

    temporal_address: str = "localhost:7233"
    temporal_namespace: str = "default"
    temporal_task_queue: str = "vm-lifecycle"
    temporal_ui_url: str = "http://localhost:8233"
    temporal_api_key: SecretStr | None = None
    temporal_tls_server_ca: Path | None = None
    temporal_tls_client_cert: Path | None = None
    temporal_tls_client_key: Path | None = Field(default=None, validate_default=True)

    cors_allow_origins: Annotated[tuple[str, ...], NoDecode] = ()

    api_host: str = "127.0.0.1"
    api_port: Port = 8000
    forwarded_allow_ips: str | None = None
    api_keep_alive: float = Field(default=75, ge=1, le=3600)
    api_connections_per_address: int | None = Field(default=None, ge=1)
    worker_health_file: Path | None = None
    temporal_port: Port = 7233
    temporal_ui_port: Port = 8233
    data_dir: Path = Path(".data")

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_networks(cls, value: str | None) -> str | None:
        for network in value.split(",") if value else []:
            try:
                proxies = ip_network(network.strip())
            except ValueError:
                raise ValueError("must be addresses or networks of proxies, separated by commas") from None
            if not proxies.prefixlen:
                raise ValueError("must not be every address: any client could claim to be another")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _to_upper_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _use_asyncpg(cls, value: str) -> str:
        database_url.parse(value)
        return f"postgresql+asyncpg://{value.strip().partition('://')[2]}"

    @field_validator("temporal_address")
    @classmethod
    def _check_host_and_port(cls, value: str) -> str:
        match = _HOST_AND_PORT.fullmatch(value)
        if not match or not 0 < int(match["port"]) <= _LAST_PORT:
            raise ValueError("must have the form host:port")
        ip = match["ipv6"] or (match["name"] if match["name"].rpartition(".")[2].isdecimal() else None)
        if ip:
            ip_address(ip)  # its error says what is wrong
        return value

    @field_validator("temporal_api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        # The last line end of a file belongs to no key. With any other such character, Temporal's SDK sends no key at
        # all, and the server would only say that we are not authorized.
        key = value.get_secret_value().strip() if value else ""
        if not re.fullmatch("[!-~]*", key):
            raise ValueError("must have visible ASCII characters only, without spaces")
        return SecretStr(key) if key else None

    @field_validator("temporal_ui_url")
    @classmethod
    def _without_last_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("cors_allow_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("cors_allow_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value and len(value) > 1:
            raise ValueError("must be * alone or a list of origins without *")
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError("must be * or origins like https://example.com, separated by commas")
        return value

    @field_validator("secret_key")
    @classmethod
    def _check_strength(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        secret = value.get_secret_value()
        if secret == PLACEHOLDER_SECRET:
            raise ValueError("is the published placeholder; set your own secret")
        if len(secret.encode()) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes")
        return value

    @field_validator("algorithm")
    @classmethod
    def _check_secret_length(cls, value: str, info: ValidationInfo) -> str:
        secret, minimum = info.data.get("secret_key"), int(value.removeprefix("HS")) // 8
        if secret is not None and len(secret.get_secret_value().encode()) < minimum:
            raise ValueError(f"needs a SECRET_KEY of at least {minimum} bytes")
        return value

    @field_validator("max_page_size")
    @classmethod
    def _check_default_page_size(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("default_page_size", value):
            raise ValueError("must not be less than DEFAULT_PAGE_SIZE")
        return value

    @field_validator("temporal_tls_server_ca", "temporal_tls_client_cert", "temporal_tls_client_key")
    @classmethod
    def _check_pem_file(cls, value: Path | None) -> Path | None:
        if value is not None and not tls.is_pem(value):
            raise ValueError(f"{value} is not a readable file in PEM format")
        return value

    @field_validator("temporal_tls_client_key")
    @classmethod
    def _check_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        # A certificate that failed its own validation is absent from `data`, and has an error message already.
        certificate = info.data.get("temporal_tls_client_cert", value)
        if (value is None) != (certificate is None):
            raise ValueError("belongs to TEMPORAL_TLS_CLIENT_CERT: set both or neither")
        return value

    @model_validator(mode="after")
    def _check_temporal_address(self) -> Self:
        # The default address is a local server. It must not receive the key of another server, and knows no TLS.
        for name in ("temporal_api_key", "temporal_tls_server_ca", "temporal_tls_client_cert"):
            if getattr(self, name) and "temporal_address" not in self.model_fields_set:
                raise ValueError(f"{name.upper()} needs TEMPORAL_ADDRESS, which is not set")
        return self

    @model_validator(mode="after")
    def _check_temporal_files(self) -> Self:
        ca, certificate = self.temporal_tls_server_ca, self.temporal_tls_client_cert
        if ca and not tls.has_certificates(ca):
            raise ValueError(f"TEMPORAL_TLS_SERVER_CA {ca} has no certificate that can be used")
        if certificate and not tls.belong_together(certificate, self.temporal_tls_client_key):
            raise ValueError("TEMPORAL_TLS_CLIENT_CERT and _KEY do not belong together, or the key has a password")
        return self

    @property
    def chooses_devices(self) -> bool:
        """Whether this service chooses the devices of volumes, and not the cloud."""
        return self.compute_backend == "mock"


def load_settings() -> Settings:
    """Read the settings; a wrong value ends the process with one line on stderr and exit code 1."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "".join(f" {part}".upper() for part in first["loc"][:1])
        raise SystemExit(f"Wrong setting{name}: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"The file .env cannot be read: {error}") from None
