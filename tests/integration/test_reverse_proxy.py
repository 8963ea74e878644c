"""A whole stack behind a real nginx with the configuration of docker-compose.tls.yml."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from api.web.models import Problem
from api.web.problem_types import PROBLEM_TYPES
from api.web.problems import MAX_BODY
from api.web.waiting import LONGEST_WAIT
from tests.support.stack import QUICK_CLOUD, Stack, free_ports
from tests.support.tls import Authority
from tests.support.users import log_in
from tests.support.waiting import block_until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)")
MOST_OF_ADDRESS = 20  # requests at once, instead of 200
CLIENT = "127.0.0.2"  # the client's address; the proxy has another one


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads Compose's own `!reset` as the value behind it."""


_Loader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))
FILE: dict[str, Any] = yaml.load((Path(__file__).parents[2] / "docker-compose.tls.yml").read_text(), _Loader)  # noqa: S506
CONFIG = str(FILE["services"]["proxy"]["environment"]["CONFIG"]).replace("$$", "$")


@dataclass
class Proxy:
    """A running nginx in front of a stack, and the authority of its certificate."""

    stack: Stack
    authority: Path
    https: int
    http: int

    def client(self, **headers: str) -> httpx.AsyncClient:
        """A client on a machine of its own."""
        return client_of(self.authority, self.https, **headers)


def client_of(authority: Path, https: int, **headers: str) -> httpx.AsyncClient:
    """A client of the proxy at this port, on a machine of its own."""
    context = ssl.create_default_context(cafile=authority)
    transport = httpx.AsyncHTTPTransport(verify=context, local_address=CLIENT)
    return httpx.AsyncClient(
        transport=transport, base_url=f"https://localhost:{https}/api/v1", headers=headers, timeout=30
    )


@contextmanager
def nginx(folder: Path, changes: dict[str, str]) -> Iterator[None]:
    """A running nginx with the configuration of the file, but for these changes."""
    config = CONFIG
    for old, new in changes.items():
        assert old in config
        config = config.replace(old, new)
    (folder / "nginx.conf").write_text(f"user root;\n{config}")
    with (folder / "nginx.log").open("wb") as log:
        command = [str(NGINX), "-e", "stderr", "-c", f"{folder}/nginx.conf", "-g", "daemon off;"]
        process = subprocess.Popen(command, stderr=log)
    try:
        block_until((folder / "nginx.pid").exists)
        yield
    finally:
        process.terminate()
        process.wait()
        sys.stdout.write((folder / "nginx.log").read_text())


@contextmanager
def running_proxy(folder: Path, api_port: int, changes: dict[str, str]) -> Iterator[tuple[Path, int, int]]:
    """A running nginx in front of this port, with these changes; its authority, and its ports for HTTPS and HTTP."""
    authority = Authority(folder / "authority")
    identity = authority.identity("server")
    https, http = free_ports(2)
    own = {
        "/etc/nginx/tls/certificate.pem": str(identity.certificate),
        "/etc/nginx/tls/key.pem": str(identity.key),
        "listen 8443": f"listen 127.0.0.1:{https}",
        "listen 8080": f"listen 127.0.0.1:{http}",
        "set $api api:8000": f"set $api 127.0.0.1:{api_port}",
        "pid /tmp": f"pid {folder}",
        "_path /tmp": f"_path {folder}",
    }
    with nginx(folder, own | changes):
        yield authority.file, https, http


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A stack that believes only nginx, and nginx."""
    folder = tmp_path_factory.mktemp("proxy")
    stack = Stack.at(folder / "stack", FORWARDED_ALLOW_IPS="127.0.0.1", **QUICK_CLOUD)
    changes = {"limit_conn addresses 200": f"limit_conn addresses {MOST_OF_ADDRESS}"}
    with running_proxy(folder, stack.api_port, changes) as (authority, https, http):
        stack.start()
        yield Proxy(stack, authority, https, http)
        stack.stop()


async def test_a_vm_is_created_and_waited_for_through_it(proxy: Proxy) -> None:
    async with log_in(proxy.stack) as user, proxy.client(Authorization=user.http.headers["Authorization"]) as http:
        flavor = (await http.get("/flavors")).json()["items"][0]["id"]
        vm = (await http.post("/vms", json={"name": "web-1", "flavor_id": flavor})).json()
        answer = await http.get(f"/vms/{vm['id']}", params={"wait": 20, "for": "ACTIVE"})
        assert answer.json()["status"] == "ACTIVE"
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_events_arrive_at_once(proxy: Proxy) -> None:
    async with (
        log_in(proxy.stack) as user,
        proxy.client(Authorization=user.http.headers["Authorization"]) as http,
        http.stream("GET", "/events") as stream,
        asyncio.timeout(20),
    ):
        lines = stream.aiter_lines()
        flavor = (await http.get("/flavors")).json()["items"][0]["id"]
        await http.post("/vms", json={"name": "web-1", "flavor_id": flavor})
        while await anext(lines) != "event: vm":
            pass


async def test_it_passes_what_the_api_takes_and_no_more(proxy: Proxy) -> None:
    async with proxy.client() as http:
        largest = await http.post("/auth/login", content=b" " * MAX_BODY)
        assert largest.headers["Content-Type"] == "application/problem+json"
        check_problem(await http.post("/auth/login", content=b" " * (MAX_BODY + 1)), "body_too_large")


async def test_an_address_has_so_many_requests_at_once_and_is_told(proxy: Proxy) -> None:
    async with log_in(proxy.stack) as user, proxy.client(Authorization=user.http.headers["Authorization"]) as http:
        vm = await user.create("web-1")
        path = f"/vms/{vm['id']}?wait=4&for=SHUTOFF"
        answers = await asyncio.gather(*(http.get(path) for _ in range(MOST_OF_ADDRESS + 5)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(refused) == 5
        check_problem(refused[0], "too_many_requests")
        assert refused[0].headers["Retry-After"] == "2"


def check_problem(answer: httpx.Response, code: str) -> None:
    """Check that what nginx has refused is a problem as the API's own are."""
    problem, kind = Problem.model_validate_json(answer.content), PROBLEM_TYPES[code]
    assert (answer.status_code, problem.status) == (kind.status, kind.status)
    assert (problem.code, problem.title, problem.type) == (code, kind.title, f"/api/v1/docs/problems/{code}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_it_says_that_the_api_does_not_answer(tmp_path: Path) -> None:
    """One that is not there, one that ends before it has answered, and one that is too slow."""
    behaviours = {"/ends": asyncio.Event(), "/slow": asyncio.Event()}
    behaviours["/ends"].set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
        await behaviours[path.removeprefix("/api/v1")].wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    api_port = server.sockets[0].getsockname()[1]
    changes = {"proxy_read_timeout 75s": "proxy_read_timeout 1s"}
    with running_proxy(tmp_path, api_port, changes) as (authority, https, _):
        async with client_of(authority, https) as http:
            answers = [await http.get("/slow"), await http.post("/ends", json={"name": "web-1"})]
            behaviours["/slow"].set()
            server.close()
            answers.append(await http.get("/ends"))
    for answer in answers:
        check_problem(answer, "api_unavailable")
        assert answer.headers["Retry-After"] == "2"


END = b"Host: x\r\nConnection: close\r\n\r\n"
REFUSED = {
    b"GET\r\n\r\n": "malformed_request",
    b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n": "malformed_request",
    b"GET /%zz HTTP/1.1\r\n" + END: "malformed_request",
    b"GET / HTTP/1.1\r\nTransfer-Encoding: x\r\n" + END: "malformed_request",
    b"TRACE / HTTP/1.1\r\n" + END: "method_not_allowed",
    b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + END: "uri_too_long",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n" + END: "head_too_large",
    b"GET / HTTP/3.0\r\n" + END: "http_version_not_supported",
}


def test_what_it_refuses_before_it_knows_the_path_is_a_problem(tmp_path: Path) -> None:
    with running_proxy(tmp_path, 1, {}) as (authority, https, _):
        context = ssl.create_default_context(cafile=authority)
        for request, code in REFUSED.items():
            connection = socket.create_connection(("127.0.0.1", https))
            with context.wrap_socket(connection, server_hostname="localhost") as tls:
                tls.sendall(request)
                head, body = b"".join(iter(lambda: tls.recv(65536), b"")).split(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            check_problem(httpx.Response(int(status.split()[1]), headers=headers, content=body), code)
        plain = httpx.get(f"http://127.0.0.1:{https}/")
        assert plain.json()["code"] == "malformed_request"


async def test_a_client_cannot_claim_to_be_another(proxy: Proxy) -> None:
    async with proxy.client() as http:
        forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
        await http.post("/auth/login", json={"username": "mallory", "password": "x"}, headers=forged)
    log = (proxy.stack.data_dir / "logs" / "api.log").read_text()
    assert "203.0.113.9" not in log
    assert f"from {CLIENT} failed" in log


async def test_plain_http_leads_to_https(proxy: Proxy) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{proxy.http}/api/v1/vms?page=2", headers={"Host": "vms.example"})
    assert (answer.status_code, answer.headers["Location"]) == (308, "https://vms.example/api/v1/vms?page=2")


def test_an_answer_may_take_longer_than_the_longest_wait() -> None:
    [seconds] = re.findall(r"proxy_read_timeout (\d+)s;", CONFIG)
    assert int(seconds) > LONGEST_WAIT + 10


def test_the_apis_believe_nobody_but_the_proxy_and_publish_nothing() -> None:
    proxy = FILE["services"]["proxy"]["networks"]["edge"]["ipv4_address"]
    for name in ("api", "api-more"):
        service = FILE["services"][name]
        assert (service["ports"], service["environment"]["FORWARDED_ALLOW_IPS"]) == ([], proxy)
