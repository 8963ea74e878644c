"""All settings with their defaults, read from the environment once and validated."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain import database_url, env_file, secret_keys
from domain.identity_provider import Claim, Issuer
from domain.limit_settings import LimitSettings
from domain.secret_keys import SecretKey, SecretKeys
from domain.temporal_settings import LAST_PORT, TemporalSettings
from domain.web_addresses import Host, Origins

SHORTEST_AUDIT = 30  # days, as in migration 0022

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Probability = Annotated[float, Field(ge=0, le=1)]
Role = Annotated[str, Field(max_length=63)]  # PostgreSQL cuts a longer name
Port = Annotated[int, Field(ge=1, le=LAST_PORT)]


class Settings(LimitSettings, TemporalSettings):
    """All settings; the environment overrides `.env`. Delays are in seconds, rates are probabilities."""

    model_config = SettingsConfigDict(
        env_file=env_file.PATH,
        env_file_encoding=env_file.ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    app_name: str = "OpenStack VM API"
    debug: bool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    database_url: str = "postgresql+asyncpg://postgres:postgres@localhost:5432/vmapi"
    db_pool_size: int = Field(default=10, ge=1, le=1000)
    db_max_overflow: int = Field(default=20, ge=0, le=1000)
    db_echo: bool = False
    db_api_role: Role | None = None
    db_worker_role: Role | None = None

    secret_key: SecretKey | None = None
    secret_key_fallbacks: SecretKeys = ()
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    access_token_expire_minutes: int = Field(default=30, ge=1, le=1440)
    refresh_token_expire_days: int = Field(default=7, ge=1, le=365)
    login_expire_days: int = Field(default=30, ge=1, le=3650)
    registration: Literal["open", "closed"] = "open"

    oidc_issuer: Issuer | None = None
    oidc_audience: Claim | None = None
    oidc_username_claim: Claim = "preferred_username"
    oidc_role_claim: Claim | None = None
    oidc_admin_value: Claim | None = None

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

    audit_retention_days: int = Field(default=365, ge=0, le=36_500)

    default_page_size: int = Field(default=20, ge=1, le=1000)
    max_page_size: int = Field(default=100, ge=1, le=1000, validate_default=True)

    cors_allow_origins: Origins = ()

    api_host: Host = "127.0.0.1"
    api_port: Port = 8000
    api_processes: int = Field(default=1, ge=1, le=64)
    forwarded_allow_ips: str | None = None
    api_keep_alive: float = Field(default=75, ge=1, le=3600)
    api_connections_per_address: int | None = Field(default=None, ge=1)
    worker_health_file: Path | None = None
    temporal_port: Port = 7233
    temporal_ui_port: Port = 8233
    data_dir: Path = Path(".data")

    @field_validator("*", mode="before")
    @classmethod
    def _check_characters(cls, value: object) -> object:
        # Python reads other bytes as halves of surrogate pairs, which can be neither sent to a server nor printed.
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise ValueError("must be UTF-8 without NUL")
        return value

    @field_validator("data_dir")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        try:
            return value.expanduser()  # `~` from a file, or from a shell that does not expand it
        except RuntimeError:
            raise ValueError(f"names the home of a user, and there is none for {value.parts[0]}") from None

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

    @field_validator("algorithm")
    @classmethod
    def _check_secret_length(cls, value: str, info: ValidationInfo) -> str:
        secret, minimum = info.data.get("secret_key"), int(value.removeprefix("HS")) // 8
        if secret is not None and secret_keys.size(secret) < minimum:
            raise ValueError(f"needs a SECRET_KEY of at least {minimum} bytes")
        if any(secret_keys.size(key) < minimum for key in info.data.get("secret_key_fallbacks", ())):
            raise ValueError(f"needs SECRET_KEY_FALLBACKS of at least {minimum} bytes each")
        return value

    @field_validator("audit_retention_days")
    @classmethod
    def _check_retention(cls, value: int) -> int:
        # The database refuses to delete younger rows, so that nobody who gets at it can hide what they did.
        if 0 < value < SHORTEST_AUDIT:
            raise ValueError(f"must be 0, for ever, or at least {SHORTEST_AUDIT}")
        return value

    @field_validator("db_max_overflow")
    @classmethod
    def _check_connections(cls, value: int, info: ValidationInfo) -> int:
        # What runs in the background reads in one transaction while another holds its lock.
        if value == 0 and info.data.get("db_pool_size") == 1:
            raise ValueError("must not be 0 if DB_POOL_SIZE is 1: a process needs two connections")
        return value

    @field_validator("max_page_size")
    @classmethod
    def _check_default_page_size(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("default_page_size", value):
            raise ValueError("must not be less than DEFAULT_PAGE_SIZE")
        return value

    @model_validator(mode="after")
    def _check_identity_provider(self) -> Self:
        # Without the audience, tokens that the provider makes for any other program of the company would open this one.
        pairs = {"OIDC_ISSUER": "OIDC_AUDIENCE", "OIDC_ROLE_CLAIM": "OIDC_ADMIN_VALUE"}
        for one, other in pairs.items():
            if (getattr(self, one.lower()) is None) != (getattr(self, other.lower()) is None):
                raise ValueError(f"{one} and {other} belong together: set both or neither")
        if self.oidc_role_claim is not None and self.oidc_issuer is None:
            raise ValueError("OIDC_ROLE_CLAIM needs OIDC_ISSUER, which is not set")
        return self

    @property
    def chooses_devices(self) -> bool:
        """Whether this service chooses the devices of volumes, and not the cloud."""
        return self.compute_backend == "mock"


class SettingsWithoutKey(Settings):
    """The settings of processes that sign no tokens. They do not read the keys, wherever they stand."""

    secret_key: ClassVar[None] = None  # type: ignore[misc] # no field any more
    secret_key_fallbacks: ClassVar[SecretKeys] = ()  # type: ignore[misc] # nor this


class _Removed(BaseSettings):
    """Settings that earlier versions had. To ignore one would surprise who relies on it."""

    model_config = Settings.model_config

    admin_username: str | None = None

    @field_validator("admin_username")
    @classmethod
    def _refuse(cls, value: str | None) -> str | None:
        if value is not None:
            command = f".venv/bin/python -m api.admin grant {value}"
            raise ValueError(f"is gone, and admins are in the database: remove it, start, and run once: {command}")
        return value


def load_settings(kind: type[Settings] = Settings) -> Settings:
    """Read the settings; a wrong value ends the process with one line on stderr and exit code 1."""
    try:
        if number := env_file.unreadable_line():
            raise SystemExit(
                f"Line {number} of .env cannot be read. A setting is NAME=value, and a quote needs its end"
            )
        for line, name in env_file.unset_variables(Settings.model_fields.keys() - kind.model_fields.keys()):
            raise SystemExit(f"Wrong setting {line}: in .env it names ${{{name}}}, and there is no such variable")
        _Removed()
        return kind()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "".join(f" {part}".upper() for part in first["loc"][:1])
        raise SystemExit(f"Wrong setting{name}: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"The file .env cannot be read: {error}") from None
