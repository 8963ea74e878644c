"""Stories of volumes that grow, and of servers that boot from one."""

from tests.backends.openstack.real_cloud import Cloud
from tests.backends.openstack.record_resources import new_volume, quiet_volume
from tests.backends.openstack.record_servers import delete_server
from tests.backends.openstack.recorder import Story


def extensions(cloud: Cloud) -> None:
    """Volumes that are made larger: free, attached, and refused."""
    server = cloud.new_server("extend", metadata={"testcloud_delay": "attach_volume:2"})
    with Story(cloud, "volume", "extend", "A volume is extended while it is free and while it is attached.") as story:
        volume = new_volume(story, "data", 1)
        path = f"/volumes/{volume}"
        story.watch_resource("block_storage", path, {"available"})
        story.send("extend", "POST", "block_storage", f"{path}/action", {"os-extend": {"new_size": 2}})
        story.send("extend at once again", "POST", "block_storage", f"{path}/action", {"os-extend": {"new_size": 3}})
        story.watch_resource("block_storage", path, {"available"})
        story.send("extend to less", "POST", "block_storage", f"{path}/action", {"os-extend": {"new_size": 1}})
        attach = {"volumeAttachment": {"volumeId": volume, "delete_on_termination": False}}
        story.send("attach", "POST", "compute", f"/servers/{server}/os-volume_attachments", attach)
        story.send("extend an attaching one", "POST", "block_storage", f"{path}/action", {"os-extend": {"new_size": 4}})
        story.watch_resource("block_storage", path, {"in-use, 1 attached"})
        story.send("extend attached", "POST", "block_storage", f"{path}/action", {"os-extend": {"new_size": 5}})
        story.watch_resource("block_storage", path, {"in-use, 1 attached"})
        story.get("the server's actions", "compute", f"/servers/{server}/os-instance-actions")
    delete_server(cloud, server)
    cloud.wait("gone", lambda: cloud.get("compute", f"/servers/{server}").status == 404)
    cloud.send("DELETE", "block_storage", path)


def boots(cloud: Cloud) -> None:
    """A server that boots from a volume, and what is refused to it."""
    volume = quiet_volume(cloud, imageRef=cloud.image)
    path = f"/volumes/{volume}"
    disk = {"uuid": volume, "source_type": "volume", "destination_type": "volume", "boot_index": 0}
    body = cloud.server("boots", block_device_mapping_v2=[disk | {"delete_on_termination": False}])
    del body["server"]["imageRef"]
    with Story(cloud, "create", "from_volume", "A server that boots from a volume, which outlives it.") as story:
        answer = story.send("accepted", "POST", "compute", "/servers", body)
        id = answer.body["server"]["id"]
        story.send("a second one", "POST", "compute", "/servers", body)
        story.watch(id, answer.request_id, {"ACTIVE"})
        story.get("the volume", "block_storage", path)
        root = f"/servers/{id}/os-volume_attachments/{volume}"
        story.get("the attachment", "compute", root)
        story.send("detach the root", "DELETE", "compute", root)
        story.send("delete", "DELETE", "compute", f"/servers/{id}")
        story.watch_resource("block_storage", path, {"available"})
    cloud.send("DELETE", "block_storage", path)
