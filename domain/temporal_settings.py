"""The settings of the connection to Temporal, and of what is written there."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings

from domain import payload_keys, tls
from domain.payload_keys import PayloadKey
from domain.web_addresses import Page

LAST_PORT = 65_535
_HOST_AND_PORT = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\]):(?P<port>[0-9]{1,5})")


class TemporalSettings(BaseSettings):
    """A part of Settings."""

    temporal_address: str = "localhost:7233"
    temporal_namespace: str = Field(default="default", pattern="^[ -~]+$")  # it goes into a header
    temporal_task_queue: str = Field(default="vm-lifecycle", max_length=200)  # Temporal takes 1,000 bytes, with endings
    temporal_ui_url: Page = "http://localhost:8233"
    temporal_api_key: SecretStr | None = None
    temporal_tls_server_ca: Path | None = None
    temporal_tls_client_cert: Path | None = None
    temporal_tls_client_key: Path | None = Field(default=None, validate_default=True)
    temporal_payload_keys: SecretStr | None = None
    temporal_search_names: Literal["none", "vms", "all"] = "vms"  # search_attributes.Names, without Temporal's SDK

    @field_validator("temporal_address")
    @classmethod
    def _check_host_and_port(cls, value: str) -> str:
        match = _HOST_AND_PORT.fullmatch(value)
        if not match or not 0 < int(match["port"]) <= LAST_PORT:
            raise ValueError("must have the form host:port")
        ip = match["ipv6"] or (match["name"] if match["name"].rpartition(".")[2].isdecimal() else None)
        if ip:
            ip_address(ip)  # ValueError, with words for the user
        return value

    @field_validator("temporal_task_queue")
    @classmethod
    def _check_queue(cls, value: str) -> str:
        if value.startswith("/_sys/"):
            raise ValueError("must not begin with /_sys/, as Temporal's own queues do")
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

    @field_validator("temporal_payload_keys")
    @classmethod
    def _check_payload_keys(cls, value: SecretStr | None) -> SecretStr | None:
        payload_keys.parse(value.get_secret_value() if value else "")
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
    def payload_keys(self) -> tuple[PayloadKey, ...]:
        """The keys that encrypt what Temporal keeps, the one in use first; none if it is not encrypted."""
        keys = self.temporal_payload_keys
        return payload_keys.parse(keys.get_secret_value()) if keys else ()
