"""Stories of where servers and ports are put: security groups, availability zones, and addresses that one asks for."""

from tests.backends.openstack.real_cloud import Cloud, Json
from tests.backends.openstack.record_servers import delete_server
from tests.backends.openstack.recorder import Story

NOBODY = "00000000-0000-0000-0000-000000000000"
FIELDS = "fields=id&fields=name&fields=description&fields=project_id"
ADDRESS = "10.77.0.9"


def placement(cloud: Cloud) -> None:
    """The lists, ports with addresses and groups in a network of the project, and servers on them."""
    network = _make(cloud, "network", name="placement")
    _make(cloud, "subnet", network_id=network, ip_version=4, cidr="10.77.0.0/24")
    group = _make(cloud, "security_group", name="placement")
    with Story(cloud, "placement", "lists", "The project's security groups, and the availability zones.") as story:
        story.get("groups", "network", f"/security-groups?{FIELDS}")
        story.get("zones", "compute", "/os-availability-zone")
    wanted = {"network_id": network, "fixed_ips": [{"ip_address": ADDRESS}], "security_groups": [group]}
    with Story(cloud, "placement", "ports", "Ports with an address and a group in a network of the project.") as story:
        port = _port(story, "made", wanted)
        for moment, change in (
            ("address in use", {}),
            ("address of no subnet", {"fixed_ips": [{"ip_address": "10.78.0.9"}]}),
            ("broadcast address", {"fixed_ips": [{"ip_address": "10.77.0.255"}]}),
            ("unknown group", {"fixed_ips": [], "security_groups": [NOBODY]}),
        ):
            _port(story, moment, wanted | change)
    with Story(cloud, "placement", "server", "A server on that port and on one of Nova's, in a zone.") as story:
        place: Json = {"security_groups": [{"name": group}], "availability_zone": "nova"}
        body = cloud.server("placement", networks=[{"port": port}, {"uuid": network}], **place)
        id = story.send("accepted", "POST", "compute", "/servers", body).body["server"]["id"]
        cloud.settle(id)
        story.get("the server", "compute", f"/servers/{id}")
        story.get("its ports", "network", f"/ports?device_id={id}")
        refused: dict[str, Json] = {
            "unknown zone": {"availability_zone": "mars"},
            "unknown group": {"security_groups": [{"name": NOBODY}]},
        }
        for moment, change in refused.items():
            body = cloud.server("placement", networks=[{"uuid": network}], **change)
            story.send(moment, "POST", "compute", "/servers", body)
    delete_server(cloud, id)
    cloud.wait("no server", lambda: cloud.get("compute", f"/servers/{id}").status == 404)
    for path in (f"/ports/{port}", f"/networks/{network}", f"/security-groups/{group}"):
        cloud.send("DELETE", "network", path)


def _make(cloud: Cloud, kind: str, **fields: object) -> str:
    path = f"/{kind.replace('_', '-')}s"
    id: str = cloud.send("POST", "network", path, {kind: fields}).body[kind]["id"]
    return id


def _port(story: Story, moment: str, port: Json) -> str:
    body = story.send(moment, "POST", "network", "/ports", {"port": {"name": "placement", **port}}).body
    return str(body.get("port", {}).get("id"))
