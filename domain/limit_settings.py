"""The settings that limit what projects have and what callers send; 0 means that there is no limit."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from domain.rules.quotas import Quota

Limit = Annotated[int, Field(ge=0, le=2**53 - 1)]  # 0: there is none
Requests = Annotated[int, Field(ge=0, le=1_000_000_000)]


class LimitSettings(BaseSettings):
    """A part of Settings."""

    quota_vms: Limit = 100_000
    quota_vcpus: Limit = 800_000
    quota_ram_mb: Limit = 3_200_000_000
    quota_volumes: Limit = 100_000
    quota_volume_gb: Limit = 10_000_000
    quota_snapshots: Limit = 100_000
    quota_addresses_per_network: Limit = 50_000
    quota_open_operations: Limit = 100_000

    rate_limit_user_reads: Requests = 300_000
    rate_limit_user_writes: Requests = 90_000
    rate_limit_token_reads: Requests = 150_000
    rate_limit_token_writes: Requests = 45_000
    rate_limit_address_reads: Requests = 6_000
    rate_limit_address_writes: Requests = 3_000

    @property
    def quotas(self) -> dict[Quota, int]:
        """The limits of projects that have none of their own."""
        return {quota: getattr(self, f"quota_{quota}") for quota in Quota}
