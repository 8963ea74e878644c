"""Plays what the recordings of consoles are of."""

from http import HTTPStatus

from tests.backends.openstack.real_cloud import Cloud
from tests.backends.openstack.record_servers import delete_server
from tests.backends.openstack.recorder import Story

KINDS = (("vnc", "novnc"), ("spice", "spice-html5"), ("mks", "webmks"), ("serial", "serial"))


def consoles(cloud: Cloud) -> None:
    """The log of a server's console, and its address, which this cloud does not have."""
    with Story(cloud, "console", "log", "The log, from the build of a server to its end.") as story:
        body = cloud.server("console-log")
        id = cloud.send("POST", "compute", "/servers", body).body["server"]["id"]
        log = {"length": 2}
        story.act("building", id, "os-getConsoleOutput", log)
        cloud.settle(id)
        story.act("two lines", id, "os-getConsoleOutput", log)
        story.act("all lines", id, "os-getConsoleOutput", {})
        _delete_wholly(cloud, id)
        story.act("gone", id, "os-getConsoleOutput", log)
    with Story(cloud, "console", "address", "Kinds of consoles that the cloud does not have.") as story:
        id = cloud.new_server("console-address")
        path = f"/servers/{id}/remote-consoles"
        for protocol, kind in KINDS:
            wish = {"remote_console": {"protocol": protocol, "type": kind}}
            story.send(kind, "POST", "compute", path, wish)
        delete_server(cloud, id)
        wish = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
        story.send("deleting", "POST", "compute", path, wish)
        _delete_wholly(cloud, id)
        story.send("gone", "POST", "compute", path, wish)


def _delete_wholly(cloud: Cloud, id: str) -> None:
    delete_server(cloud, id)
    cloud.wait("gone", lambda: cloud.get("compute", f"/servers/{id}").status == HTTPStatus.NOT_FOUND)
