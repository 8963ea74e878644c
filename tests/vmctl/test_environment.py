"""Proxies and certificates that the environment names. What is for this machine goes to no proxy."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.meta.files import ROOT
from tests.vmctl.conftest import Command
from tests.vmctl.doubles import Service, answer, listening, tokens, user
from vmctl.client import Client, UnusableError
from vmctl.client.service import proxy_of

REMOTE = "http://vm.example"
PROXY = "http://proxy.example:3128"
THIS_MACHINE = ("127.0.0.1", "127.1.2.3", "LOCALHOST.", "vm.localhost", "[::1]", "[::]", "[::ffff:127.0.0.1]")
VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without what this machine says."""
    for name in [*VARIABLES, *map(str.upper, VARIABLES), "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUEST_METHOD"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        (REMOTE, {}, None),
        (REMOTE, {"http_proxy": PROXY}, PROXY),
        (REMOTE, {"https_proxy": PROXY}, None),
        (REMOTE, {"ALL_PROXY": "proxy.example:3128"}, PROXY),
        ("https://vm.example", {"http_proxy": "http://other", "https_proxy": PROXY}, PROXY),
        (REMOTE, {"http_proxy": PROXY, "no_proxy": "127.0.0.1,.example"}, None),
        (REMOTE, {"http_proxy": PROXY, "no_proxy": "*"}, None),
        (REMOTE, {"http_proxy": PROXY, "no_proxy": "fe80::/10,[::1],\u00e9.com"}, PROXY),
        ("http://[2001:db8::1]:8000", {"http_proxy": PROXY, "no_proxy": "2001:db8::1"}, None),
        ("http://[2001:db8::1]:8000", {"http_proxy": PROXY, "no_proxy": "[2001:db8::1]"}, None),
        ("http://b\u00fccher.example", {"http_proxy": PROXY, "no_proxy": "b\u00fccher.example"}, None),
        *((f"http://{host}:8000", {"http_proxy": PROXY, "ALL_PROXY": PROXY}, None) for host in THIS_MACHINE),
    ],
)
def test_the_proxy_is_the_one_of_the_environment_and_never_stands_before_this_machine(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], proxy: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(f"{url}/api/v1") == proxy
    Client(url).close()


UNUSABLE = {
    "ALL_PROXY": "socks5://proxy.example",
    "HTTP_PROXY": "foo://proxy.example",
    "https_proxy": "http://[::1",
    "SSL_CERT_FILE": "/nonexistent",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_proxy_or_certificates_that_cannot_be_used_are_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, UNUSABLE[name])
    with pytest.raises(UnusableError, match=r"^The environment names a proxy [^\n]+$"):
        Client(REMOTE if name == "HTTP_PROXY" else "https://vm.example")
    Client("http://127.0.0.1:8000").close()
    Client("https://127.0.0.1" if "PROXY" in name.upper() else "http://vm.example").close()


def test_a_password_for_this_machine_is_sent_to_no_proxy(alone: Command) -> None:
    proxy, service = Service([]), Service([answer(tokens("1").model_dump()), answer(user())])
    with listening(proxy) as at, listening(service) as here:
        alone.environment |= {"http_proxy": at, "ALL_PROXY": at, "VMCTL_URL": here}
        alone.run("login", "-u", "ada", "--password-stdin", input="secret\n")
        alone.run("whoami")
    assert proxy.requests == []
    assert b"secret" in service.requests[0].content


def test_a_password_for_another_machine_is_sent_to_the_proxy_with_a_warning(alone: Command) -> None:
    proxy = Service([answer(tokens("1").model_dump())])
    with listening(proxy) as at:
        alone.environment |= {"http_proxy": at, "VMCTL_URL": REMOTE}
        said = alone.run("login", "-u", "ada", "--password-stdin", input="secret\n").stderr
    assert "is not encrypted" in said
    assert str(proxy.requests[0].url) == f"{REMOTE}/api/v1/auth/login"


def test_the_images_health_check_asks_no_proxy() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    found = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert found
    command = [sys.executable, *json.loads(found[1])[1:]]
    service = Service([answer({"status": "ok"})])
    with listening(service) as url:
        proxies = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        environment = os.environ | proxies | {"API_PORT": url.rpartition(":")[2]}
        subprocess.run(command, env=environment, check=True)
    assert [request.url.path for request in service.requests] == ["/api/v1/health/live"]
