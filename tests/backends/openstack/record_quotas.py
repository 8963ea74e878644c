"""Stories of limits: quotas that are used up, and a proxy that slows down who asks too often."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.backends.openstack.real_cloud import Cloud, Json
from tests.backends.openstack.record_resources import new_volume
from tests.backends.openstack.record_servers import delete_server
from tests.backends.openstack.recorder import Story
from tests.openstack.cloud.contents import REGION
from tests.openstack.cloud.daemons import Daemon
from tests.openstack.cloud.layout import LOOPBACK, PASSWORD, PORTS
from tests.openstack.cloud.services import DAEMONS

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
IMAGE_LIMITS = ("image_count_total", "image_count_uploading", "image_size_total", "image_stage_total")
ENFORCED = f"""
[DEFAULT]
use_keystone_limits = true

[oslo_limit]
auth_type = password
auth_url = http://{LOOPBACK}:{PORTS["keystone"]}/v3
username = admin
password = {PASSWORD}
system_scope = all
user_domain_name = Default
endpoint_id = """


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


def image_quotas(cloud: Cloud) -> None:
    """Limits of Glance, which are kept in Keystone. Nova meets them while it makes a snapshot."""
    server = cloud.new_server("image-quotas", metadata={"testcloud_delay": "snapshot:1"})
    image = {"name": "image-quotas", "metadata": {"osvm_operation": "9d01"}}
    about = "What Glance and Nova answer if a quota of images is used up."
    with _image_limits(cloud, image_count_total=0), Story(cloud, "quotas", "image", about) as story:
        story.send("images", "POST", "image", "/images", {"name": "image-quotas"})
        story.act("snapshot", server, "createImage", image)
        story.get("found by its marks", "image", "/images?osvm_operation=9d01")
    about = "A snapshot whose upload Glance refuses, because a quota is used up."
    with _image_limits(cloud, image_count_uploading=0), Story(cloud, "snapshot", "over_quota", about) as story:
        answer = story.act("accepted", server, "createImage", image)
        path = f"/images/{answer.body['image_id']}"
        story.watch_resource("image", path, {"gone"}, action=(server, answer.request_id))
        story.watch(server, None, {"ACTIVE"})
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
def _image_limits(cloud: Cloud, **limits: int) -> Iterator[None]:
    """Let Glance ask Keystone for limits, which it does not by default, and limit every project to these."""
    service = cloud.send("GET", "identity", "/services?type=image", operator=True).body["services"][0]["id"]
    path = f"/endpoints?interface=public&service_id={service}"
    endpoint = str(cloud.send("GET", "identity", path, operator=True).body["endpoints"][0]["id"])
    wanted = [
        {"service_id": service, "region_id": REGION, "resource_name": name, "default_limit": limits.get(name, 1000)}
        for name in IMAGE_LIMITS
    ]
    made = cloud.send("POST", "identity", "/registered_limits", {"registered_limits": wanted}, operator=True)
    glance = DAEMONS["glance-api"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(ENFORCED + endpoint)
        file.flush()
        _restart(replace(glance, command=(*glance.command, "--config-file", file.name)))
        try:
            yield
        finally:
            _restart(glance)
            for limit in made.body["registered_limits"]:
                cloud.send("DELETE", "identity", f"/registered_limits/{limit['id']}", operator=True)


def _restart(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()
    daemon.wait()


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
