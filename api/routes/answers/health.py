"""The bodies of answers about the service itself."""

from typing import Literal

from api.web.models import Answer, Check


class Health(Answer):
    """The service is up."""

    status: Literal["ok"]
    name: str
    version: str


class Liveness(Answer):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Answer):
    """Whether all services that the API needs are available."""

    status: Literal["ready"]
    checks: dict[str, Check]
