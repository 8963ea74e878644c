"""docker-compose.yml agrees with the repository; checked without a container engine."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from domain.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGE = "openstack-vm-api"
OURS = {name: service for name, service in SERVICES.items() if service["image"] == IMAGE}
CLOUDS_YAML = "${CLOUDS_YAML:-/dev/null}:/etc/openstack/clouds.yaml:ro"
JOBS = {"settings", "database", "migrate", "temporal-schema", "temporal-namespace"}
each_service = pytest.mark.parametrize("name", SERVICES)
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Settings of `make up` and of the migrations. API_HOST, API_PORT and TEMPORAL_UI_PORT are where the engine publishes
# something.
NOT_OF_CONTAINERS = {"temporal_port", "temporal_ui_port", "data_dir", "db_api_role", "db_worker_role"}
NAMED_BY_LIBRARIES = {"pgpassword", "forwarded_allow_ips", "os_cloud"}  # which read these themselves


def test_it_has_all_services() -> None:
    assert set(OURS) == {"api", "api-more", "worker", "migrate", "settings"}
    assert set(SERVICES) - set(OURS) == {
        "postgres",
        "database",
        "temporal",
        "temporal-schema",
        "temporal-namespace",
        "temporal-ui",
    }


def test_one_build_makes_the_image_of_all_our_services() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["settings"]
    # Otherwise Compose would look for the image in a registry.
    assert {service["pull_policy"] for name, service in OURS.items() if name != "settings"} == {"never"}


@pytest.mark.parametrize("name", sorted(set(OURS) - {"settings"}))
def test_each_command_runs_a_module_that_the_image_contains(name: str) -> None:
    python, option, module = OURS[name]["command"]
    assert (python, option) == ("python", "-m")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{module}.__main__") is not None
    source = f"{module}.py" if spec.submodule_search_locations is None else module
    assert re.search(rf"^COPY {re.escape(source)} ", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", OURS)
def test_each_environment_variable_of_our_services_is_a_setting(name: str) -> None:
    refused = {"admin_username"} if name == "settings" else set()
    assert {variable.lower() for variable in OURS[name]["environment"]} <= set(
        Settings.model_fields
    ) | NAMED_BY_LIBRARIES | refused


def test_each_setting_reaches_the_services_that_read_it() -> None:
    api, worker = ({variable.lower() for variable in SERVICES[name]["environment"]} for name in ("api", "worker"))
    assert set(Settings.model_fields) - NOT_OF_CONTAINERS - {"worker_health_file"} <= api
    only_api = {"secret_key", "secret_key_fallbacks", "api_host", "api_port"}
    assert set(Settings.model_fields) - NOT_OF_CONTAINERS - only_api <= worker
    assert {"DB_API_ROLE", "DB_WORKER_ROLE"} <= set(SERVICES["migrate"]["environment"])
    assert "TEMPORAL_PAYLOAD_KEYS" not in SERVICES["migrate"]["environment"]


def test_no_setting_of_the_env_file_is_overridden_silently() -> None:
    """A fixed value is only inside the container, and a variable of the same name says what is published."""
    ports = str([service.get("ports") for service in SERVICES.values()])
    for name, service in OURS.items():
        for variable, value in service["environment"].items():
            if value is not None and variable not in {"PGPASSWORD", "WORKER_HEALTH_FILE"}:
                assert f"${{{variable}:-" in f"{value} {ports}", name


def test_a_change_of_the_env_file_replaces_only_what_uses_it() -> None:
    """With `env_file`, a new number of workers would replace every container."""
    assert all("env_file" not in service for service in SERVICES.values())


def test_commands_that_start_nothing_need_no_setting() -> None:
    """`${NAME:?}` would make `down` and `logs` fail without the secret."""
    assert not re.search(r"(?<!\$)\$\{\w+:?\?", TEXT)


def test_the_migrations_grant_the_role_of_the_services_what_it_needs() -> None:
    roles = {SERVICES["migrate"]["environment"][name] for name in ("DB_API_ROLE", "DB_WORKER_ROLE")}
    assert roles == {"${DB_API_ROLE:-vmapi}", "${DB_WORKER_ROLE:-vmapi}"}


def test_only_the_api_and_the_check_of_the_settings_get_the_secret_key() -> None:
    for key in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        having = {name for name, service in SERVICES.items() if key in service.get("environment", {})}
        assert having == {"api", "api-more", "settings"}


def test_the_database_password_has_no_default_and_is_part_of_no_url() -> None:
    assert set(re.findall(r"\$\{POSTGRES_PASSWORD[^}]*\}", TEXT)) == {"${POSTGRES_PASSWORD:-}"}
    assert not re.search(r"://[^\s@]*POSTGRES_PASSWORD", TEXT)


def test_the_services_are_neither_superuser_nor_owner_of_the_tables() -> None:
    for name in ("api", "api-more", "worker", "settings"):
        assert "//vmapi@postgres:" in SERVICES[name]["environment"]["DATABASE_URL"]
    assert SERVICES["temporal"]["environment"]["POSTGRES_USER"] == "temporal"
    sockets = {
        name for name, service in SERVICES.items() if any("postgres-socket" in v for v in service.get("volumes", []))
    }
    assert sockets == {"postgres", "database", "migrate"}


@pytest.mark.parametrize("name", ["api", "api-more"])
def test_the_api_listens_on_the_published_port(name: str) -> None:
    api = SERVICES[name]
    assert api["environment"]["API_HOST"] == "0.0.0.0"  # noqa: S104 - inside the container
    assert [port.rpartition(":")[2] for port in api["ports"]] == [str(api["environment"]["API_PORT"])]


def test_each_dependency_can_be_met() -> None:
    for name, service in SERVICES.items():
        for dependency, rule in service.get("depends_on", {}).items():
            if rule["condition"] == "service_healthy":
                assert "test" in SERVICES[dependency]["healthcheck"], f"{name} waits for the health of {dependency}"
            else:
                assert rule["condition"] == "service_completed_successfully"
                assert dependency in JOBS


@each_service
def test_a_job_ends_even_if_it_fails_for_good_and_all_else_survives_a_killed_engine(name: str) -> None:
    """`up` waits for jobs. After a kill of the engine, `unless-stopped` would start nothing again."""
    expected = {"no", "on-failure:5"} if name in JOBS else {"always"}
    assert SERVICES[name]["restart"] in expected


def needed_by(name: str) -> set[str]:
    """All services on which a service depends, directly or not."""
    direct = set(SERVICES[name].get("depends_on", {}))
    return direct.union(*map(needed_by, direct))


def test_an_upgrade_replaces_neither_the_database_nor_temporal() -> None:
    """Compose replaces all that depends on a service that it replaces."""
    for name in set(SERVICES) - set(OURS):
        assert not needed_by(name) & set(OURS), name


def test_each_process_of_ours_has_a_health_check_and_no_job_has_one() -> None:
    assert "healthcheck" not in SERVICES["api"]  # the image's
    assert "HEALTHCHECK" in DOCKERFILE
    assert "WORKER_HEALTH_FILE" in str(SERVICES["worker"]["healthcheck"]["test"])
    assert all(OURS[name]["healthcheck"] == {"disable": True} for name in ("migrate", "settings"))


@each_service
def test_each_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service or name == "postgres"
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert "/tmp" in service["tmpfs"]  # noqa: S108 - inside the container


def test_the_numbers_of_processes_come_from_the_env_file() -> None:
    """With `--scale`, the next `up` would undo them."""
    assert SERVICES["worker"]["deploy"]["replicas"] == "${WORKERS:-2}"
    assert SERVICES["api-more"]["deploy"]["replicas"] == "${API_MORE:-0}"
    assert "deploy" not in SERVICES["api"]


def test_each_volume_is_declared_and_used() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", []) if mount != CLOUDS_YAML]
    assert {mount.partition(":")[0] for mount in mounts} == set(COMPOSE["volumes"])


def test_what_calls_the_cloud_gets_its_login_and_nothing_else_does() -> None:
    having = {name for name, service in SERVICES.items() if CLOUDS_YAML in service.get("volumes", [])}
    assert having == {"worker", "migrate"}
    assert having == {name for name, service in OURS.items() if "OS_CLOUD" in service["environment"]}


def test_the_lines_for_a_real_cloud_reach_the_image_and_the_worker() -> None:
    lines = re.search(
        r"^```\n(COMPUTE_BACKEND=.*?)^```", (ROOT / "docs/openstack.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert lines
    names = dict(line.split("=") for line in lines[1].splitlines())
    assert (ROOT / names["REQUIREMENTS"]).exists()
    assert re.search(r"^ARG REQUIREMENTS=", DOCKERFILE, re.MULTILINE)
    assert set(names) == {"COMPUTE_BACKEND", "OS_CLOUD", "CLOUDS_YAML", "REQUIREMENTS"}
    assert "REQUIREMENTS" in SERVICES["settings"]["build"]["args"]
    assert {"COMPUTE_BACKEND", "OS_CLOUD"} <= set(SERVICES["worker"]["environment"])


def test_foreign_images_are_pinned_by_version_and_digest() -> None:
    proxy = yaml.safe_load(re.sub(r"!reset ", "", (ROOT / "docker-compose.tls.yml").read_text()))["services"]["proxy"]
    images = {service["image"] for name, service in SERVICES.items() if name not in OURS} | {proxy["image"]}
    pinned = [re.fullmatch(r"\$\{(\w+):-(.+):\d+(?:\.\d+)+@sha256:[0-9a-f]{64}\}", image) for image in images]
    assert {match and match.groups() for match in pinned} == {
        ("POSTGRES_IMAGE", "postgres"),
        ("TEMPORAL_IMAGE", "temporalio/server"),
        ("TEMPORAL_TOOLS_IMAGE", "temporalio/admin-tools"),
        ("TEMPORAL_UI_IMAGE", "temporalio/ui"),
        ("NGINX_IMAGE", "nginx"),
    }


def test_the_base_image_is_pinned_by_its_digest() -> None:
    [default] = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", default)
    assert {line.split()[1] for line in re.findall(r"^FROM .*$", DOCKERFILE, re.MULTILINE)} == {"${PYTHON_IMAGE}"}


def test_the_image_has_no_pip() -> None:
    assert "venv --without-pip" in DOCKERFILE
    final = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    assert "pip uninstall --yes" in final
    assert "ensurepip" in final


def test_ports_are_published_only_on_the_local_machine_unless_the_env_file_says_otherwise() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith(("127.0.0.1:", "${API_HOST:-127.0.0.1}:")) for port in ports)
