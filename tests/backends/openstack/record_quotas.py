"""Stories of limits: quotas that are used up, and a proxy that slows down who asks too often."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.backends.openstack.real_cloud import Cloud, Json
from tests.backends.openstack.record_resources import new_volume
from tests.backends.openstack.record_servers import delete_server
from tests.backends.openstack.recorder import Story
from tests.openstack.cloud.layout import PORTS

PROXY_PORT = 8790
PROXY = """
pid {folder}/pid; error_log {folder}/errors; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  limit_req_zone $server_port zone=all:1m rate=1r/m;
  limit_req_status 429;
  server {{
    listen 127.0.0.1:{port};
    location / {{ limit_req zone=all; error_page 429 @slow; proxy_pass http://127.0.0.1:{nova}; }}
    location @slow {{ add_header Retry-After 7 always; return 429; }}
  }}
}}
"""


def quotas(cloud: Cloud) -> None:
    """Requests that would need more than the project may have."""
    server = cloud.new_server("quotas")
    with Story(cloud, "quotas", "compute", "What Nova answers if a quota is used up.") as story:
        for name in ("instances", "cores", "ram"):
            with _quota(cloud, "compute", **{name: 0}):
                story.send(name, "POST", "compute", "/servers", cloud.server("quotas"))
        with _quota(cloud, "compute", cores=1):
            story.act("resize", server, "resize", {"flavorRef": cloud.flavors["m1.medium"]})
        with _quota(cloud, "network", port=0):
            story.send("ports", "POST", "compute", "/servers", cloud.server("quotas"))
        with _quota(cloud, "compute", metadata_items=1):
            body = cloud.server("quotas", metadata={"one": "1", "two": "2"})
            story.send("metadata", "POST", "compute", "/servers", body)
    about = "What Neutron answers if a quota is used up."
    with _quota(cloud, "network", port=0), Story(cloud, "quotas", "network", about) as story:
        story.send("ports", "POST", "network", "/ports", {"port": {"network_id": cloud.network}})
    with Story(cloud, "quotas", "volume", "What Cinder answers if a quota is used up.") as story:
        volume = new_volume(story, "quotas", 1)
        story.watch_resource("block_storage", f"/volumes/{volume}", {"available"})
        extend = {"os-extend": {"new_size": 3}}
        for name, limit in (("volumes", 1), ("gigabytes", 1), ("per_volume_gigabytes", 1)):
            with _quota(cloud, "block_storage", **{name: limit}):
                story.send(name, "POST", "block_storage", "/volumes", {"volume": {"size": 2}})
                if name != "volumes":
                    story.send(f"extend, {name}", "POST", "block_storage", f"/volumes/{volume}/action", extend)
    cloud.send("DELETE", "block_storage", f"/volumes/{volume}")
    delete_server(cloud, server)


def rate_limits(cloud: Cloud) -> None:
    """A web server before Nova that passes one request a minute. OpenStack itself limits no rates any more."""
    url = f"http://127.0.0.1:{PROXY_PORT}/v2.1"
    with _proxy(), Story(cloud, "quotas", "rate", "What a proxy answers to the second request in a minute.") as story:
        story.get("passed", "compute", f"{url}/flavors?limit=1")
        story.get("read", "compute", f"{url}/flavors?limit=1")
        story.send("create", "POST", "compute", f"{url}/servers", cloud.server("rates"))


@contextmanager
def _quota(cloud: Cloud, service: str, **limits: int) -> Iterator[None]:
    """Give the project these limits for a while."""
    name, path = ("quota", "/quotas") if service == "network" else ("quota_set", "/os-quota-sets")
    path = f"{path}/{cloud.project}"
    before = cloud.send("GET", service, path, operator=True).body[name]
    forced: Json = {} if service == "block_storage" else {"force": True}
    try:
        cloud.send("PUT", service, path, {name: limits | forced}, operator=True)
        yield
    finally:
        cloud.send("PUT", service, path, {name: {limit: before[limit] for limit in limits}}, operator=True)


@contextmanager
def _proxy() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nginx.conf"
        file.write_text(PROXY.format(folder=folder, port=PROXY_PORT, nova=PORTS["nova"]))
        command = ("nginx", "-p", folder, "-e", f"{folder}/errors", "-c", str(file))
        subprocess.run(command, check=True)
        try:
            yield
        finally:
            subprocess.run((*command, "-s", "stop"), check=True)
