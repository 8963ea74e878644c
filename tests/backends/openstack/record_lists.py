"""Stories of lists (pages, cells that are down, catalogues) and of requests that the cloud refuses."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from tests.backends.openstack.real_cloud import Cloud, Daemon
from tests.backends.openstack.record_servers import delete_server
from tests.backends.openstack.recorder import Story


def lists(cloud: Cloud) -> None:
    """Pages of changes, and the lists that the backend reads besides."""
    with Story(cloud, "lists", "changes", "Three changed servers and a deleted one, in pages of two.") as story:
        ids = [cloud.new_server(f"page{number}", tags=["vm:0b7a"]) for number in range(4)]
        began = _stamp(-20)
        delete_server(cloud, ids[0])
        cloud.wait("gone", lambda: cloud.get("compute", f"/servers/{ids[0]}").status == 404)
        page = story.get("page", "compute", f"/servers/detail?changes-since={began}&limit=2")
        while links := page.body.get("servers_links"):
            delete_server(cloud, ids[2])  # the marker may be of a server that is deleted between two pages
            page = story.get("page", "compute", f"/servers/detail?{urlsplit(links[0]['href']).query}")
        story.get("of the future", "compute", f"/servers/detail?changes-since={_stamp(3600)}")
        story.get("unescaped plus", "compute", "/servers/detail?changes-since=2026-01-01T00:00:00+00:00")
        story.get("unknown marker", "compute", "/servers/detail?marker=00000000-0000-0000-0000-000000000000")
        story.get("plain", "compute", "/servers")
    with Story(cloud, "lists", "catalogue", "What the catalogue is made of.") as story:
        story.get("flavors", "compute", "/flavors/detail?limit=2")
        story.get("images", "image", "/images")
        story.get("networks", "network", "/networks")
        story.get("subnets", "network", "/subnets")
        story.get("security groups", "network", "/security-groups?fields=id&fields=name&fields=description")
    with Story(cloud, "lists", "by_ids", "Ports and images by their ids; unknown ids are left out.") as story:
        ports = cloud.get("network", f"/ports?device_id={ids[3]}").body["ports"]
        nobody = "00000000-0000-0000-0000-000000000000"
        story.get("ports", "network", f"/ports?id={ports[0]['id']}&id={nobody}")
        story.get("images", "image", f"/images?id=in:{cloud.image},{nobody}")
        story.get("volumes", "block_storage", "/volumes/detail")
    for id in ids:
        delete_server(cloud, id)


def down_cell(cloud: Cloud) -> None:
    """The lists while the database of the cell cannot be reached."""
    id = cloud.new_server("down-cell")
    manage = [
        str(cloud.home / "venv/bin/nova-manage"),
        "--config-file",
        str(cloud.home / "etc/nova/nova.conf"),
        "cell_v2",
    ]
    cell = next(line.split("|") for line in _run(*manage, "list_cells", "--verbose").splitlines() if " cell1 " in line)
    name, uuid, transport, database = (field.strip() for field in cell[1:5])
    update = [*manage, "update_cell", "--cell_uuid", uuid, "--name", name, "--transport-url", transport]
    since = _stamp(-60)
    try:
        _run(*update, "--database_connection", database.replace(":13306", ":13307"))
        _restart_api(cloud)
        with Story(cloud, "lists", "down_cell", "The database of the servers' cell cannot be reached.") as story:
            story.get("plain", "compute", "/servers")
            story.get("changes", "compute", f"/servers/detail?changes-since={since}")
            story.get("one server", "compute", f"/servers/{id}")
    finally:
        _run(*update, "--database_connection", database)
        _restart_api(cloud)
    delete_server(cloud, id)


def _restart_api(cloud: Cloud) -> None:
    with Daemon(cloud.home, "nova-api").away():
        pass
    cloud.wait("nova-api", lambda: cloud.is_answering("compute"))


def refusals(cloud: Cloud) -> None:
    """Requests that each service refuses."""
    nobody = "00000000-0000-0000-0000-000000000000"
    with Story(cloud, "refusals", "compute", "What Nova refuses.") as story:
        for moment, change in (
            ("unknown flavor", {"flavorRef": nobody}),
            ("unknown image", {"imageRef": nobody}),
            ("unknown network", {"networks": [{"uuid": nobody}]}),
            ("comma in a tag", {"tags": ["a,b"]}),
            ("too much metadata", {"metadata": {f"key{number}": "" for number in range(129)}}),
        ):
            body = cloud.server("refused")
            body["server"] |= change
            story.send(moment, "POST", "compute", "/servers", body)
        story.get("unknown server", "compute", f"/servers/{nobody}")
        story.act("unknown server", nobody, "os-stop")
        id = cloud.new_server("refused")
        story.act("policy", id, "os-resetState", {"state": "active"})
        story.act("rebuild from an unknown image", id, "rebuild", {"imageRef": nobody})
        story.act("not resized", id, "confirmResize")
        story.get("unknown action", "compute", f"/servers/{id}/os-instance-actions/req-{nobody}")
        delete_server(cloud, id)
    with Story(cloud, "refusals", "volume", "What Cinder refuses.") as story:
        story.send("unknown type", "POST", "block_storage", "/volumes", {"volume": {"size": 1, "volume_type": "none"}})
        story.get("unknown volume", "block_storage", f"/volumes/{nobody}")
        story.get("unknown filter", "block_storage", f"/volumes/detail?id={nobody}")
    with Story(cloud, "refusals", "network", "What Neutron refuses.") as story:
        chosen = {"network_id": cloud.network, "fixed_ips": [{"ip_address": "10.11.0.77"}]}
        story.send("chosen address on a shared network", "POST", "network", "/ports", {"port": chosen})
        story.send("unknown network", "POST", "network", "/ports", {"port": {"network_id": nobody}})
        story.get("unknown port", "network", f"/ports/{nobody}")
    with Story(cloud, "refusals", "image", "What Glance refuses.") as story:
        story.get("unknown image", "image", f"/images/{nobody}")
        story.send("delete unknown image", "DELETE", "image", f"/images/{nobody}")


def states(cloud: Cloud) -> None:
    """Actions on a server that never had a host, and on one whose host is away."""
    never = cloud.send("POST", "compute", "/servers", cloud.server("states", "m1.impossible")).body["server"]["id"]
    cloud.wait("ERROR", lambda: cloud.get("compute", f"/servers/{never}").body["server"]["status"] == "ERROR")
    with Story(cloud, "refusals", "never_launched", "Actions on a server for which no host was found.") as story:
        for action, value in (("os-start", None), ("os-stop", None), ("reboot", {"type": "HARD"})):
            story.act(action, never, action, value)
    id = cloud.new_server("states")
    with cloud.host_of(id).away():
        host = "/os-services?binary=nova-compute"

        def is_seen() -> bool:
            services = cloud.send("GET", "compute", host, operator=True).body["services"]
            return any(service["state"] == "down" for service in services)

        cloud.wait("the host's death", is_seen, 120)
        with Story(cloud, "refusals", "host_away", "Actions on a server whose host is known to be away.") as story:
            story.act("resize", id, "resize", {"flavorRef": cloud.flavors["m1.small"]})
            story.act("os-stop", id, "os-stop")
    cloud.wait_for_hosts()
    delete_server(cloud, never)
    delete_server(cloud, id)


def _stamp(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout
