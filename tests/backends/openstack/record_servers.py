"""Stories of servers: create, power, resize, rebuild, delete, each as it goes well and as it fails."""

from tests.backends.openstack.real_cloud import Cloud, Daemon, Json
from tests.backends.openstack.recorder import Story


def create(cloud: Cloud) -> None:
    """Creates."""
    marks: Json = {"tags": ["vm:0b7a", "op:51c9"], "metadata": {"osvm_vm": "0b7a", "osvm_operation": "51c9"}}
    for name, about, body, end in (
        ("ok", "A create that succeeds.", cloud.server("create-ok", **marks), "ACTIVE"),
        ("no_valid_host", "A create for which no host has room.", cloud.server("create-big", "m1.impossible"), "ERROR"),
        (
            "spawn_fails",
            "A create that fails on each host.",
            _steered(cloud, "create-bad", testcloud_fail="spawn"),
            "ERROR",
        ),
    ):
        with Story(cloud, "create", name, about) as story:
            answer = story.send("accepted", "POST", "compute", "/servers", body)
            id = answer.body["server"]["id"]
            story.watch(id, answer.request_id, {end})
            story.get("one server", "compute", f"/servers/{id}")
            story.get("actions", "compute", f"/servers/{id}/os-instance-actions")
            delete_server(cloud, id)
    with Story(cloud, "create", "killed", "nova-compute is killed while it builds, and started again.") as story:
        body = _steered(cloud, "create-killed", testcloud_delay="spawn:20")
        answer = story.send("accepted", "POST", "compute", "/servers", body)
        id = answer.body["server"]["id"]
        cloud.wait_for_task(id, "spawning")
        with cloud.host_of(id).away():
            story.watch(id, answer.request_id, {"BUILD"}, busy=True)
        story.watch(id, answer.request_id, {"ERROR"})
        story.get("one server", "compute", f"/servers/{id}")
        delete_server(cloud, id)
    cloud.wait_for_hosts()


def power(cloud: Cloud) -> None:
    """Stops, starts and reboots."""
    id = cloud.new_server("power")
    for verb, action, end in (("stop", "os-stop", "SHUTOFF"), ("start", "os-start", "ACTIVE")):
        with Story(cloud, verb, "ok", f"A {verb} that succeeds, and the same again.") as story:
            answer = story.act("accepted", id, action)
            story.watch(id, answer.request_id, {end})
            story.get("actions", "compute", f"/servers/{id}/os-instance-actions")
            story.act("again", id, action)
    steer(cloud, id, testcloud_fail="power_off,reboot")
    with Story(cloud, "stop", "fails", "A stop that the host fails: no fault, ACTIVE again.") as story:
        answer = story.act("accepted", id, "os-stop")
        story.watch(id, answer.request_id, {"ACTIVE"})
    for kind in ("SOFT", "HARD"):
        with Story(cloud, "reboot", f"{kind.lower()}_fails", f"A {kind.lower()} reboot that the host fails.") as story:
            answer = story.act("accepted", id, "reboot", {"type": kind})
            story.watch(id, answer.request_id, {"ACTIVE", "ERROR"})
    steer(cloud, id)
    for kind in ("SOFT", "HARD"):
        with Story(cloud, "reboot", f"{kind.lower()}_ok", f"A {kind.lower()} reboot that succeeds.") as story:
            answer = story.act("accepted", id, "reboot", {"type": kind})
            story.act("again at once", id, "reboot", {"type": "SOFT"})
            story.watch(id, answer.request_id, {"ACTIVE"})
    cloud.send("POST", "compute", f"/servers/{id}/action", {"os-stop": None})
    cloud.settle(id)
    steer(cloud, id, testcloud_fail="power_on")
    with Story(cloud, "start", "fails", "A start that the host fails: no fault, SHUTOFF again.") as story:
        answer = story.act("accepted", id, "os-start")
        story.watch(id, answer.request_id, {"SHUTOFF"})
    delete_server(cloud, id)


def hosts_that_die(cloud: Cloud) -> None:
    """Stops and reboots of a server whose nova-compute is not there, or is killed meanwhile."""
    id = cloud.new_server("host-dies")
    with Story(cloud, "stop", "host_away", "A stop while nova-compute is away, and then it is back.") as story:
        with cloud.host_of(id).away():
            answer = story.act("accepted", id, "os-stop")
            story.watch(id, answer.request_id, {"ACTIVE"}, busy=True)
            story.act("start meanwhile", id, "os-start")
        story.watch(id, answer.request_id, {"SHUTOFF"})
    cloud.wait_for_hosts()
    cloud.send("POST", "compute", f"/servers/{id}/action", {"os-start": None})
    cloud.settle(id)
    steer(cloud, id, testcloud_delay="power_off:15,reboot:15")
    with Story(
        cloud, "stop", "killed", "nova-compute is killed while it stops the server, and started again."
    ) as story:
        answer = story.act("accepted", id, "os-stop")
        _kill_during(story, id, answer.request_id, "powering-off", {"SHUTOFF", "ACTIVE"})
    cloud.send("POST", "compute", f"/servers/{id}/action", {"os-start": None})
    cloud.settle(id)
    with Story(cloud, "reboot", "killed", "nova-compute is killed while it reboots, and started again.") as story:
        answer = story.act("accepted", id, "reboot", {"type": "HARD"})
        _kill_during(story, id, answer.request_id, "reboot_started_hard", {"ACTIVE", "ERROR"})
    delete_server(cloud, id)


def resize(cloud: Cloud) -> None:
    """Resizes, confirmed, reverted, refused, failing at the source and at the destination."""
    for name, end in (("confirm", "confirmResize"), ("revert", "revertResize")):
        id = cloud.new_server(f"resize-{name}")
        with Story(cloud, "resize", f"ok_{name}", f"A resize that succeeds, and its {name}.") as story:
            answer = story.act("accepted", id, "resize", {"flavorRef": cloud.flavors["m1.small"]})
            story.watch(id, answer.request_id, {"VERIFY_RESIZE"})
            answer = story.act(f"{name} accepted", id, end)
            story.act(f"{name} again", id, end)
            story.watch(id, answer.request_id, {"ACTIVE"})
            story.get("actions", "compute", f"/servers/{id}/os-instance-actions")
            same = "m1.small" if name == "confirm" else "m1.tiny"
            story.act("same flavor", id, "resize", {"flavorRef": cloud.flavors[same]})
        delete_server(cloud, id)
    id = cloud.new_server("resize-big")
    with Story(cloud, "resize", "no_valid_host", "A resize for which no host has room.") as story:
        answer = story.act("accepted", id, "resize", {"flavorRef": cloud.flavors["m1.impossible"]})
        story.watch(id, answer.request_id, {"ACTIVE"})
    delete_server(cloud, id)
    for name, driver_call in (
        ("source_fails", "migrate_disk_and_power_off"),
        ("destination_fails", "finish_migration"),
        ("revert_fails", "finish_revert_migration"),
    ):
        id = cloud.new_server("resize-bad", metadata={"testcloud_fail": driver_call})
        with Story(cloud, "resize", name, f"A resize whose {driver_call} fails on the host.") as story:
            answer = story.act("accepted", id, "resize", {"flavorRef": cloud.flavors["m1.small"]})
            if name == "revert_fails":
                story.watch(id, answer.request_id, {"VERIFY_RESIZE"})
                answer = story.act("revert accepted", id, "revertResize")
            story.watch(id, answer.request_id, {"ERROR"})
        delete_server(cloud, id)


def resizes_whose_host_dies(cloud: Cloud) -> None:
    """Resizes while nova-compute is killed, and started again."""
    for task, driver_call, statuses in (
        ("resize_migrating", "migrate_disk_and_power_off", {"ACTIVE", "ERROR"}),
        ("resize_finish", "finish_migration", {"RESIZE"}),
    ):
        id = cloud.new_server("resize-killed", metadata={"testcloud_delay": f"{driver_call}:20"})
        with Story(
            cloud, "resize", f"killed_in_{task}", f"nova-compute is killed in {task}, and started again."
        ) as story:
            answer = story.act("accepted", id, "resize", {"flavorRef": cloud.flavors["m1.small"]})
            _kill_during(story, id, answer.request_id, task, statuses, is_stuck=task == "resize_finish")
        delete_server(cloud, id)


def confirm_without_host(cloud: Cloud) -> None:
    """A confirm while no nova-compute is there."""
    id = cloud.new_server("confirm-away")
    with Story(
        cloud, "resize", "confirm_host_away", "A confirm while nova-compute is away, and then it is back."
    ) as story:
        answer = story.act("accepted", id, "resize", {"flavorRef": cloud.flavors["m1.small"]})
        story.watch(id, answer.request_id, {"VERIFY_RESIZE"})
        with Daemon(cloud.home, "nova-compute1").away(), Daemon(cloud.home, "nova-compute2").away():
            answer = story.act("confirm accepted", id, "confirmResize")
            story.watch(id, answer.request_id, {"VERIFY_RESIZE"}, seconds=5)
        story.watch(id, answer.request_id, {"ACTIVE"})
    cloud.wait_for_hosts()
    delete_server(cloud, id)


def rebuild(cloud: Cloud) -> None:
    """Rebuilds."""
    id = cloud.new_server("rebuild", metadata={"testcloud_delay": "spawn:1"})
    with Story(cloud, "rebuild", "ok", "A rebuild that succeeds, and another one at once.") as story:
        answer = story.act("accepted", id, "rebuild", {"imageRef": cloud.image})
        story.act("again at once", id, "rebuild", {"imageRef": cloud.image})
        story.watch(id, answer.request_id, {"ACTIVE"})
    steer(cloud, id, testcloud_fail="spawn")
    with Story(cloud, "rebuild", "fails", "A rebuild that the host fails.") as story:
        answer = story.act("accepted", id, "rebuild", {"imageRef": cloud.image})
        story.watch(id, answer.request_id, {"ACTIVE", "ERROR"})
    delete_server(cloud, id)


def delete(cloud: Cloud) -> None:
    """Deletes in each state."""
    slow_build: Json = {"metadata": {"testcloud_delay": "spawn:4"}}
    cases: list[tuple[str, str, Json, str]] = [
        ("active", "A delete of an idle server.", {}, ""),
        ("building", "A delete while the host builds.", slow_build, "spawning"),
    ]
    for name, about, more, task in cases:
        with Story(cloud, "delete", name, about) as story:
            answer = cloud.send("POST", "compute", "/servers", cloud.server(f"delete-{name}", **more))
            id = answer.body["server"]["id"]
            cloud.wait_for_task(id, task) if task else cloud.settle(id)
            _record_delete(story, id)
    id = cloud.new_server("delete-fails", metadata={"testcloud_fail": "destroy"})
    with Story(cloud, "delete", "fails", "A delete that the host fails, and then one that succeeds.") as story:
        answer = story.send("accepted", "DELETE", "compute", f"/servers/{id}")
        story.watch(id, None, {"ERROR", "ACTIVE"})
        story.get("actions", "compute", f"/servers/{id}/os-instance-actions")
        # The metadata of a server in ERROR cannot be changed.
        state = {"os-resetState": {"state": "active"}}
        cloud.send("POST", "compute", f"/servers/{id}/action", state, operator=True)
        steer(cloud, id)
        _record_delete(story, id)
    id = cloud.new_server("delete-away")
    with Story(cloud, "delete", "host_away", "A delete while nova-compute is away, and then it is back.") as story:
        with cloud.host_of(id).away():
            story.send("accepted", "DELETE", "compute", f"/servers/{id}")
            story.watch(id, None, {"ACTIVE"}, busy=True)
            story.send("again", "DELETE", "compute", f"/servers/{id}")
        story.watch(id, None, {"DELETED"})
    cloud.wait_for_hosts()


def other_hands(cloud: Cloud) -> None:
    """Servers that somebody else changes while we wait for them."""
    id = cloud.new_server("others-stop")
    with Story(
        cloud, "other_hand", "stopped", "We reboot; as soon as that is over, the operator stops the server."
    ) as story:
        ours = story.act("accepted", id, "reboot", {"type": "SOFT"})
        cloud.settle(id)
        story.send("operator", "POST", "compute", f"/servers/{id}/action", {"os-stop": None}, operator=True)
        story.watch(id, ours.request_id, {"SHUTOFF"})
        story.get("actions", "compute", f"/servers/{id}/os-instance-actions")
    with Story(cloud, "other_hand", "resized", "We start; then the operator resizes and confirms.") as story:
        ours = story.act("accepted", id, "os-start")
        cloud.settle(id)
        body = {"resize": {"flavorRef": cloud.flavors["m1.small"]}}
        story.send("operator", "POST", "compute", f"/servers/{id}/action", body, operator=True)
        story.watch(id, ours.request_id, {"VERIFY_RESIZE"})
        story.send("operator", "POST", "compute", f"/servers/{id}/action", {"confirmResize": None}, operator=True)
        story.watch(id, ours.request_id, {"ACTIVE"})
    with Story(cloud, "other_hand", "error", "We stop; then the operator puts the server into ERROR.") as story:
        ours = story.act("accepted", id, "os-stop")
        cloud.settle(id)
        body = {"os-resetState": {"state": "error"}}
        story.send("operator", "POST", "compute", f"/servers/{id}/action", body, operator=True)
        story.watch(id, ours.request_id, {"ERROR"})
    with Story(cloud, "other_hand", "locked", "The operator locks the server; then we start it.") as story:
        cloud.send("POST", "compute", f"/servers/{id}/action", {"lock": {"locked_reason": "repair"}}, operator=True)
        story.act("refused", id, "os-start")
        story.watch(id, None, {"ERROR"})
        cloud.send("POST", "compute", f"/servers/{id}/action", {"unlock": None}, operator=True)
    delete_server(cloud, id)
    id = cloud.new_server("others-delete", metadata={"testcloud_delay": "power_off:5"})
    with Story(cloud, "other_hand", "deleted", "We stop; meanwhile the operator deletes the server.") as story:
        ours = story.act("accepted", id, "os-stop")
        story.watch(id, ours.request_id, {"ACTIVE"}, busy=True)
        story.send("operator", "DELETE", "compute", f"/servers/{id}", operator=True)
        story.watch(id, ours.request_id, {"DELETED"})
        story.get("gone", "compute", f"/servers/{id}")


def _kill_during(  # noqa: PLR0913
    story: Story, id: str, request_id: str, task: str, statuses: set[str], *, is_stuck: bool = False
) -> None:
    cloud = story.cloud
    cloud.wait_for_task(id, task)
    with cloud.host_of(id).away():
        story.watch(id, request_id, {"ACTIVE", "RESIZE", "HARD_REBOOT"}, busy=True)
    cloud.wait_for_hosts()
    story.watch(id, request_id, statuses, busy=is_stuck)


def _record_delete(story: Story, id: str) -> None:
    answer = story.send("accepted", "DELETE", "compute", f"/servers/{id}")
    story.watch(id, None, {"DELETED"})
    story.get("gone", "compute", f"/servers/{id}")
    story.send("again", "DELETE", "compute", f"/servers/{id}")
    story.get("action", "compute", f"/servers/{id}/os-instance-actions/{answer.request_id}")


def _steered(cloud: Cloud, name: str, **metadata: str) -> dict[str, object]:
    return cloud.server(name, metadata=metadata)


def steer(cloud: Cloud, id: str, **metadata: str) -> None:
    """Tell the host which calls for this server to delay or to fail, and no others."""
    cloud.send("PUT", "compute", f"/servers/{id}/metadata", {"metadata": metadata})


def delete_server(cloud: Cloud, id: str) -> None:
    """Begin to delete a server that a story is done with."""
    cloud.send("DELETE", "compute", f"/servers/{id}")
