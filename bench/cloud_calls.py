"""Counts the requests that go to the services of a cloud on this machine, by proxies in front of them."""

import asyncio
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import openstack

from tests.faults.proxy import CHUNK, Proxy
from tests.openstack import logins
from tests.support.stack import Stack

SERVICES: Final = {"compute": "compute", "block-storage": "block_storage", "network": "network", "image": "image"}
REQUEST_LINE: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.1\r\n")
ID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}|req-\S+")
Calls = Counter[str]


class CountingProxy(Proxy):
    """Counts requests by method and path, with ids and the values of queries left out."""

    def __init__(self, target: int, prefix: str, calls: Calls) -> None:
        super().__init__(target)
        self._prefix = prefix
        self._calls = calls

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(CHUNK):
            # A client sends the next request only after the answer, so a request is always at the start.
            if not answers and (found := REQUEST_LINE.match(data)):
                self._calls[f"{found[1].decode()} {self._prefix}{_template(found[2].decode())}"] += 1
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


def _template(target: str) -> str:
    parts = urlsplit(target)
    names = sorted({pair.partition("=")[0] for pair in parts.query.split("&") if pair})
    path = re.sub(r"^/v[0-9.]+(/[0-9a-f]{32})?", "", parts.path)
    return ID.sub("{id}", path) + ("?" + "&".join(names) if names else "")


@asynccontextmanager
async def counting(folder: Path) -> AsyncIterator[Calls]:
    """Count the calls of this process and of its children; OS_CLOUD names a cloud behind proxies meanwhile.

    Logins are not counted: the endpoint of Keystone stays as it is.
    """
    variables = logins.settings()
    config = openstack.connect(cloud=variables["OS_CLOUD"]).config
    entry: dict[str, Any] = {"auth": dict(config.config["auth"]), "region_name": config.region_name}
    calls: Calls = Counter()
    async with AsyncExitStack() as proxies:
        for service, name in SERVICES.items():
            url = await asyncio.to_thread(config.get_session().get_endpoint, service_type=service, interface="public")
            endpoint = urlsplit(str(url))
            proxy = await CountingProxy(endpoint.port or 80, f"{service} ", calls).start()
            proxies.push_async_callback(proxy.stop)
            entry[f"{name}_endpoint_override"] = f"http://127.0.0.1:{proxy.port}{endpoint.path}"
        file = folder / "clouds.yaml"
        file.write_text(json.dumps({"clouds": {"counted": entry}}))
        os.environ |= {"OS_CLOUD": "counted", "OS_CLIENT_CONFIG_FILE": str(file)}
        try:
            yield calls
        finally:
            os.environ |= {name: variables[name] for name in ("OS_CLOUD", "OS_CLIENT_CONFIG_FILE")}


async def with_counted_stack(measure: Callable[[Stack, Calls], Awaitable[list[str]]]) -> list[str]:
    """Start the service on the counted cloud, measure, and stop it; returns the errors."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with counting(Path(folder)) as calls:
            stack = Stack.at(Path(folder) / "data", **logins.settings())
            await asyncio.to_thread(stack.start)
            try:
                return await measure(stack, calls)
            finally:
                await asyncio.to_thread(stack.stop)
