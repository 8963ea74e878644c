"""Stories of snapshots, volumes, attachments and interfaces."""

import time
from typing import Any

from tests.backends.openstack.real_cloud import Cloud
from tests.backends.openstack.record_servers import delete_server, steer
from tests.backends.openstack.recorder import Story

MARKS = {"osvm_snapshot": "77aa", "osvm_operation": "9d01"}


def snapshots(cloud: Cloud) -> None:
    """Snapshots: done, failed, lost to a race, and of a server that is deleted meanwhile."""
    id = cloud.new_server("snapshot", metadata={"testcloud_delay": "snapshot:1"})
    image: dict[str, Any] = {"name": "snapshot", "metadata": MARKS | {"osvm_server": id}}
    with Story(cloud, "snapshot", "ok", "A snapshot that is saved, and another one at once.") as story:
        answer = story.act("accepted", id, "createImage", image)
        path = f"/images/{answer.body['image_id']}"
        story.get("image", "image", path)
        story.act("again at once", id, "createImage", image)
        story.watch(id, answer.request_id, {"ACTIVE"}, busy=True)
        story.watch_resource("image", path, {"active"}, action=(id, answer.request_id))
        story.watch(id, None, {"ACTIVE"})
        story.get("found by its marks", "image", f"/images?osvm_operation={MARKS['osvm_operation']}")
        cloud.send("DELETE", "image", path)
    steer(cloud, id, testcloud_fail="snapshot")
    with Story(cloud, "snapshot", "fails", "A snapshot that the host fails: its image goes away.") as story:
        answer = story.act("accepted", id, "createImage", image)
        path = f"/images/{answer.body['image_id']}"
        story.watch_resource("image", path, {"gone"}, action=(id, answer.request_id))
        story.watch(id, None, {"ACTIVE"})
    steer(cloud, id, testcloud_delay="snapshot:4")
    with Story(
        cloud, "snapshot", "image_deleted", "A snapshot whose image somebody deletes while it is saved."
    ) as story:
        answer = story.act("accepted", id, "createImage", image)
        path = f"/images/{answer.body['image_id']}"
        cloud.wait_for_task(id, "image_pending_upload", "image_snapshot", "image_uploading")
        story.send("somebody", "DELETE", "image", path)
        story.watch_resource("image", path, {"gone"}, action=(id, answer.request_id))
        story.watch(id, None, {"ACTIVE"})
    with Story(cloud, "snapshot", "server_deleted", "A snapshot of a server that somebody deletes meanwhile.") as story:
        answer = story.act("accepted", id, "createImage", image)
        path = f"/images/{answer.body['image_id']}"
        story.send("somebody", "DELETE", "compute", f"/servers/{id}")
        story.watch(id, answer.request_id, {"DELETED"})
        story.get("image", "image", path)
        time.sleep(10)
        story.get("image, 10 seconds later", "image", path)  # gone, or queued for ever
    _lost_race(cloud)
    _killed_snapshot(cloud)
    _volume_backed(cloud)


def _killed_snapshot(cloud: Cloud) -> None:
    """Record a snapshot whose nova-compute is killed, and started again."""
    id = cloud.new_server("snapshot-killed", metadata={"testcloud_delay": "snapshot:20"})
    host = cloud.host_of(id)
    with Story(cloud, "snapshot", "killed", "nova-compute is killed while it saves, and started again.") as story:
        answer = story.act("accepted", id, "createImage", {"name": "snapshot", "metadata": MARKS})
        cloud.wait_for_task(id, "image_pending_upload", "image_snapshot", "image_uploading")
        with host.away():
            story.watch(id, answer.request_id, {"ACTIVE"}, busy=True)
        story.watch(id, answer.request_id, {"ACTIVE"})
        path = f"/images/{answer.body['image_id']}"
        story.get("image", "image", path)
        cloud.send("DELETE", "image", path)
    cloud.wait_for_hosts()
    delete_server(cloud, id)


def _volume_backed(cloud: Cloud) -> None:
    """Record a server that boots from a volume, its snapshot, and the same image for a rebuild."""
    volume = quiet_volume(cloud, imageRef=cloud.image)
    disk = {"uuid": volume, "source_type": "volume", "destination_type": "volume", "boot_index": 0}
    with Story(cloud, "create", "volume_backed", "A server that boots from a volume, and its snapshot.") as story:
        body = cloud.server("boots", block_device_mapping_v2=[disk | {"delete_on_termination": True}])
        del body["server"]["imageRef"]
        answer = story.send("accepted", "POST", "compute", "/servers", body)
        id = answer.body["server"]["id"]
        story.watch(id, answer.request_id, {"ACTIVE"})
        answer = story.act("snapshot accepted", id, "createImage", {"name": "snapshot", "metadata": MARKS})
        story.watch_resource("image", f"/images/{answer.body['image_id']}", {"active"}, action=(id, answer.request_id))
        snapshots = story.get("volume snapshots", "block_storage", f"/snapshots?volume_id={volume}").body["snapshots"]
        cloud.send("DELETE", "image", f"/images/{answer.body['image_id']}")
        for snapshot in snapshots:
            cloud.send("DELETE", "block_storage", f"/snapshots/{snapshot['id']}")
    delete_server(cloud, id)


def _lost_race(cloud: Cloud) -> None:
    """Record a createImage that loses a race: 500, and an image that stays queued."""
    id = cloud.new_server("snapshot-race")
    for number in range(8):
        marks = MARKS | {"osvm_operation": f"race{number}", "osvm_server": id}
        with Story(
            cloud, "snapshot", "race", "A createImage that a reboot overtakes: 500, the image stays queued."
        ) as story:
            image = {"name": "race", "metadata": marks}
            answer, _ = story.race(id, {"createImage": image, "reboot": {"type": "SOFT"}})
            found = story.get("found by its marks", "image", f"/images?osvm_operation={marks['osvm_operation']}")
            story.watch(id, None, {"ACTIVE"})
            story.get("actions", "compute", f"/servers/{id}/os-instance-actions")
        for left in found.body["images"]:
            cloud.send("DELETE", "image", f"/images/{left['id']}")
        if answer.status == 500:
            break
    delete_server(cloud, id)


def volumes(cloud: Cloud) -> None:
    """Volumes: made, refused by the scheduler, extended, deleted."""
    with Story(cloud, "volume", "ok", "A volume is made, found, extended, and deleted.") as story:
        id = new_volume(story, "data", 1)
        path = f"/volumes/{id}"
        story.watch_resource("block_storage", path, {"available"})
        story.get("found by its marks", "block_storage", '/volumes/detail?metadata={"osvm_operation":"9d01"}')
        story.send("extend", "POST", "block_storage", f"{path}/action", {"os-extend": {"new_size": 2}})
        story.watch_resource("block_storage", path, {"available"})
        story.send("extend again", "POST", "block_storage", f"{path}/action", {"os-extend": {"new_size": 2}})
        story.send("delete", "DELETE", "block_storage", path)
        story.send("delete again", "DELETE", "block_storage", path)
        story.watch_resource("block_storage", path, {"gone"})
    types = cloud.send("GET", "block_storage", "/types", operator=True).body["volume_types"]
    if not any(type["name"] == "nowhere" for type in types):
        body = {"volume_type": {"name": "nowhere", "extra_specs": {"volume_backend_name": "nowhere"}}}
        cloud.send("POST", "block_storage", "/types", body, operator=True)
    with Story(cloud, "volume", "fails", "A volume for which no backend has room.") as story:
        id = new_volume(story, "nowhere", 1, volume_type="nowhere")
        story.watch_resource("block_storage", f"/volumes/{id}", {"error"})
        story.get("messages", "block_storage", f"/messages?resource_uuid={id}")
        cloud.send("DELETE", "block_storage", f"/volumes/{id}")


def attachments(cloud: Cloud) -> None:
    """Attaches and detaches: done, repeated, failed, and by a server that is deleted."""
    id = cloud.new_server("attach", metadata={"testcloud_delay": "attach_volume:1,detach_volume:1"})
    volume = quiet_volume(cloud)
    path, attachments_path = f"/volumes/{volume}", f"/servers/{id}/os-volume_attachments"
    attach = {"volumeAttachment": {"volumeId": volume, "delete_on_termination": False}}
    with Story(cloud, "attach", "ok", "An attach that succeeds, and the same again.") as story:
        answer = story.send("accepted", "POST", "compute", attachments_path, attach)
        story.watch_resource("block_storage", path, {"in-use, 1 attached"}, action=(id, answer.request_id))
        story.get("attachments", "compute", attachments_path)
        story.send("again", "POST", "compute", attachments_path, attach)
        story.send("delete attached", "DELETE", "block_storage", path)
        story.get("the server", "compute", f"/servers/{id}")
    steer(cloud, id, testcloud_fail="detach_volume")
    with Story(cloud, "detach", "fails", "A detach that the host fails: in-use again.") as story:
        answer = story.send("accepted", "DELETE", "compute", f"{attachments_path}/{volume}")
        story.watch_resource("block_storage", path, {"in-use, 1 attached"}, action=(id, answer.request_id))
    steer(cloud, id, testcloud_delay="detach_volume:1", testcloud_fail="attach_volume")
    with Story(cloud, "detach", "ok", "A detach that succeeds, twice at once, and once more.") as story:
        answer = story.send("accepted", "DELETE", "compute", f"{attachments_path}/{volume}")
        story.send("again at once", "DELETE", "compute", f"{attachments_path}/{volume}")
        story.watch_resource("block_storage", path, {"available"}, action=(id, answer.request_id))
        story.send("again", "DELETE", "compute", f"{attachments_path}/{volume}")
    with Story(cloud, "attach", "fails", "An attach that the host fails: available again.") as story:
        answer = story.send("accepted", "POST", "compute", attachments_path, attach)
        story.watch_resource("block_storage", path, {"available"}, action=(id, answer.request_id))
    steer(cloud, id)
    with Story(cloud, "attach", "server_deleted", "The server of an attached volume is deleted.") as story:
        answer = cloud.send("POST", "compute", attachments_path, attach)
        cloud.wait("in-use", lambda: cloud.get("block_storage", path).body["volume"]["status"] == "in-use")
        story.send("somebody", "DELETE", "compute", f"/servers/{id}")
        story.watch_resource("block_storage", path, {"available"})
    id = cloud.new_server("attach-killed", metadata={"testcloud_delay": "attach_volume:20"})
    host = cloud.host_of(id)
    with Story(cloud, "attach", "killed", "nova-compute is killed while it attaches, and started again.") as story:
        answer = story.send("accepted", "POST", "compute", f"/servers/{id}/os-volume_attachments", attach)
        story.watch_resource("block_storage", path, {"attaching"})
        with host.away():
            story.get("away", "block_storage", path)
        cloud.wait_for_hosts()
        story.watch_resource("block_storage", path, {"attaching"}, action=(id, answer.request_id), is_stuck=True)
        story.get("attachments", "compute", f"/servers/{id}/os-volume_attachments")
    cloud.wait_for_hosts()
    delete_server(cloud, id)
    cloud.wait("gone", lambda: cloud.get("compute", f"/servers/{id}").status == 404)
    cloud.send("DELETE", "block_storage", path)


def interfaces(cloud: Cloud) -> None:
    """Interfaces: plugged, unplugged, and a port that somebody deletes."""
    id = cloud.new_server("interface")
    with Story(cloud, "interface", "ok", "A port is made, plugged, and unplugged; each once more.") as story:
        port = _new_port(story, cloud)
        path = f"/ports/{port}"
        attach = {"interfaceAttachment": {"port_id": port}}
        story.get("port", "network", path)
        answer = story.send("attach", "POST", "compute", f"/servers/{id}/os-interface", attach)
        story.watch_resource("network", path, {"ACTIVE, plugged"}, action=(id, answer.request_id))
        story.send("attach again", "POST", "compute", f"/servers/{id}/os-interface", attach)
        answer = story.send("detach", "DELETE", "compute", f"/servers/{id}/os-interface/{port}")
        story.watch_resource("network", path, {"DOWN, free"}, action=(id, answer.request_id))
        story.send("detach again", "DELETE", "compute", f"/servers/{id}/os-interface/{port}")
        story.send("delete", "DELETE", "network", path)
        story.send("delete again", "DELETE", "network", path)
    steer(cloud, id, testcloud_fail="attach_interface,detach_interface")
    with Story(cloud, "interface", "fails", "A plug that the host fails.") as story:
        port = _new_port(story, cloud)
        attach = {"interfaceAttachment": {"port_id": port}}
        answer = story.send("attach", "POST", "compute", f"/servers/{id}/os-interface", attach)
        story.watch_resource("network", f"/ports/{port}", {"DOWN, free"}, action=(id, answer.request_id))
        steer(cloud, id, testcloud_fail="detach_interface")
        cloud.send("POST", "compute", f"/servers/{id}/os-interface", attach)
        answer = story.send("detach", "DELETE", "compute", f"/servers/{id}/os-interface/{port}")
        looks = {"ACTIVE, plugged", "DOWN, free"}
        story.watch_resource("network", f"/ports/{port}", looks, action=(id, answer.request_id))
    with Story(cloud, "interface", "port_deleted", "Somebody deletes a port that is plugged.") as story:
        ports = story.get("ports of the server", "network", f"/ports?device_id={id}").body["ports"]
        path = f"/ports/{ports[0]['id']}"
        story.send("somebody", "DELETE", "network", path)
        story.watch_resource("network", path, {"gone"})
        story.get("the server", "compute", f"/servers/{id}")
    delete_server(cloud, id)


def new_volume(story: Story, name: str, size: int, **more: str) -> str:
    """Create a volume as the first moment of a story."""
    body = {"volume": {"name": name, "size": size, "metadata": MARKS} | more}
    id: str = story.send("accepted", "POST", "block_storage", "/volumes", body).body["volume"]["id"]
    return id


def quiet_volume(cloud: Cloud, **more: str) -> str:
    """Create a volume that is no part of a story, and wait until it is available."""
    body = {"volume": {"name": "data", "size": 1} | more}
    id: str = cloud.send("POST", "block_storage", "/volumes", body).body["volume"]["id"]
    cloud.wait(
        "available", lambda: cloud.get("block_storage", f"/volumes/{id}").body["volume"]["status"] == "available"
    )
    return id


def _new_port(story: Story, cloud: Cloud) -> str:
    port = {"name": "osvm-4f00-1", "description": "osvm operation 9d01", "network_id": cloud.network}
    id: str = story.send("create", "POST", "network", "/ports", {"port": port}).body["port"]["id"]
    return id
