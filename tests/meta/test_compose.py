"""docker-compose.yml agrees with the repository; checked without a container engine."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from domain.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_it_has_all_services() -> None:
    assert set(OURS) == {"api", "worker", "migrate"}
    assert set(SERVICES) - set(OURS) == {
        "postgres",
        "temporal",
        "temporal-schema",
        "temporal-namespace",
        "temporal-ui",
    }
    assert len({service["image"] for service in OURS.values()}) == 1


@pytest.mark.parametrize("name", OURS)
def test_each_command_runs_a_module_that_the_image_contains(name: str) -> None:
    python, option, module = OURS[name]["command"]
    assert (python, option) == ("python", "-m")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{module}.__main__") is not None
    source = f"{module}.py" if spec.submodule_search_locations is None else module
    assert re.search(rf"^COPY {re.escape(source)} ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", OURS)
def test_each_environment_variable_of_our_services_is_a_setting(name: str) -> None:
    assert {variable.lower() for variable in OURS[name]["environment"]} <= set(Settings.model_fields)


def test_only_the_api_gets_the_secret_key_which_is_required() -> None:
    assert SERVICES["api"]["environment"]["SECRET_KEY"].startswith("${SECRET_KEY:?")
    assert {OURS[name]["environment"]["SECRET_KEY"] for name in ("worker", "migrate")} == {""}


def test_the_api_listens_on_the_published_port() -> None:
    api = SERVICES["api"]
    assert api["environment"]["API_HOST"] == "0.0.0.0"  # noqa: S104 - inside the container
    assert [port.rpartition(":")[2] for port in api["ports"]] == [str(api["environment"]["API_PORT"])]


def test_each_dependency_can_be_met() -> None:
    for name, service in SERVICES.items():
        for dependency, rule in service.get("depends_on", {}).items():
            needed = SERVICES[dependency]
            if rule["condition"] == "service_healthy":
                assert "test" in needed["healthcheck"], f"{name} waits for the health of {dependency}"
            else:
                assert rule["condition"] == "service_completed_successfully"
                assert needed["restart"] == "on-failure", f"{name} waits for the end of {dependency}"


def test_only_the_api_uses_the_health_check_of_the_image() -> None:
    assert "healthcheck" not in SERVICES["api"]
    assert all(OURS[name]["healthcheck"] == {"disable": True} for name in ("worker", "migrate"))


def test_each_volume_and_config_is_declared_and_used() -> None:
    volumes = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    configs = {config["source"] for service in SERVICES.values() for config in service.get("configs", [])}
    assert volumes == set(COMPOSE["volumes"])
    assert configs == set(COMPOSE["configs"])


def test_foreign_images_have_a_fixed_version() -> None:
    images = {service["image"] for name, service in SERVICES.items() if name not in OURS}
    assert all(re.search(r":\d+(\.\d+)*$", image) for image in images)


def test_ports_are_published_only_on_the_local_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
