"""The client on a real stack: what no command and no example uses. The asynchronous one stands for both."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from tests.support.stack import Stack
from tests.support.users import PASSWORD
from vmctl.client import AsyncClient, ClientError, ProblemError
from vmctl.client.models import OperationStatus, ProblemCode, Snapshot, SnapshotStatus, Status, VolumeStatus


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[AsyncClient]:
    """A client of a new user."""
    async with AsyncClient(stack.url) as client:
        name = f"client-{uuid4().hex[:12]}"
        await client.account.register(username=name, email=f"{name}@example.com", password=PASSWORD)
        await client.account.log_in(name, PASSWORD)
        yield client


async def test_everything_that_belongs_to_a_vm(client: AsyncClient) -> None:
    created = await client.vms.create(name="web-1", flavor="m1.tiny", idempotency_key="first")
    assert (await client.vms.create(name="web-1", flavor="m1.tiny", idempotency_key="first")).operation_id == (
        created.operation_id
    )
    vm = await client.vms.wait(created.resource.id, until=[Status.ACTIVE])
    assert vm.status is Status.ACTIVE
    volume = await (await client.volumes.create(name="data", size_gb=1)).wait()
    assert (await client.volumes.change(volume.id, name="logs", labels={"a": "b", "c": None})).labels == {"a": "b"}
    await (await client.vms.attach_volume(vm.id, volume_id=volume.id)).wait()
    assert [attachment.volume_id async for attachment in client.vms.volumes(vm.id)] == [volume.id]
    await (await client.vms.detach_volume(vm.id, volume.id)).wait()
    snapshot = await (await client.vms.create_snapshot(vm.id, name="before")).wait()
    assert snapshot.status is SnapshotStatus.AVAILABLE
    assert (await client.snapshots.change(snapshot.id, name="after")).name == "after"
    assert [found.name async for found in client.vms.snapshots(vm.id)] == ["after"]
    await (await client.vms.resize(vm.id, flavor="m1.small")).wait()
    assert (await (await client.vms.revert_resize(vm.id)).wait()).flavor.name == "m1.tiny"
    assert (await client.vms.console_log(vm.id, lines=5)).output
    await (await client.vms.delete_snapshot(vm.id, snapshot.id)).wait()
    await (await client.vms.delete(vm.id)).wait()
    assert (await client.vms.get(vm.id)).status is Status.DELETED
    assert {operation.status async for operation in client.vms.operations(vm.id)} == {OperationStatus.SUCCEEDED}
    assert (await client.volumes.find("logs")).status is VolumeStatus.AVAILABLE


async def test_a_problem_has_its_code(client: AsyncClient) -> None:
    with pytest.raises(ProblemError) as caught:
        await client.vms.open_console(UUID(int=1))
    assert caught.value.problem.code is ProblemCode.NOT_FOUND
    with pytest.raises(ProblemError) as caught:
        await client.vms.create(name="web-1", flavor="m1.nothing")
    assert [error.pointer for error in caught.value.problem.errors] == ["#/flavor"]


async def test_a_change_is_made_only_if_the_vm_is_as_it_was_seen(client: AsyncClient) -> None:
    built = await (await client.vms.create(name="web-1", flavor="m1.tiny")).wait()
    vm, etag = await client.vms.get_with_etag(built.id)
    assert vm == built
    assert (await client.vms.change(vm.id, labels={"env": "prod"}, if_match=etag)).labels == {"env": "prod"}
    changes = (
        client.vms.stop(vm.id, if_match=etag),
        client.vms.resize(vm.id, flavor="m1.small", if_match=etag),
        client.vms.create_snapshot(vm.id, name="before", if_match=etag),
        client.vms.delete(vm.id, if_match=etag),
    )
    for change in changes:
        with pytest.raises(ProblemError) as caught:
            await change
        assert caught.value.problem.code is ProblemCode.PRECONDITION_FAILED
    _, etag = await client.vms.get_with_etag(vm.id)
    await (await client.vms.delete(vm.id, if_match=etag)).wait()


async def test_a_trial_changes_nothing_and_says_what_the_service_would(client: AsyncClient) -> None:
    await client.validate(client.vms.create, name="web-1", flavor="m1.tiny")
    await client.validate(client.vms.create_all, [{"name": "web-1", "flavor": "m1.tiny"}])
    await client.validate(client.volumes.create, name="data", size_gb=1)
    with pytest.raises(ProblemError) as caught:
        await client.validate(client.vms.create, name="web-1", flavor="m1.nothing")
    assert [error.pointer for error in caught.value.problem.errors] == ["#/flavor"]
    assert [vm async for vm in client.vms.list()] == []
    assert [volume async for volume in client.volumes.list()] == []
    volume = await (await client.volumes.create(name="data", size_gb=1)).wait()
    with pytest.raises(ClientError, match="cannot be tried"):
        await client.validate(client.volumes.delete, volume.id)
    assert (await client.volumes.get(volume.id)).status is VolumeStatus.AVAILABLE


async def test_events_are_the_resources(client: AsyncClient) -> None:
    events = client.events()
    assert (await anext(events)).kind == "reset"
    accepted = await client.volumes.create(name="data", size_gb=1)
    async for event in events:
        if event.kind == "volume" and event.resource and event.resource.status == "AVAILABLE":
            break
    assert event.resource
    assert not isinstance(event.resource, Snapshot)
    assert event.resource.id == accepted.resource.id
    again = client.events(last_event_id=event.id)
    await client.volumes.delete(accepted.resource.id)
    event = await anext(again)
    assert event.kind in {"volume", "operation"}


async def test_catalogues_and_keys(client: AsyncClient) -> None:
    assert [zone.name async for zone in client.availability_zones()]
    assert (await client.images.find("debian-12")).is_available
    token = await client.tokens.create(name="robot", scopes=["read"])
    assert (await client.tokens.get(token.id)).name == "robot"
    await client.tokens.delete(token.id)
    assert [kept async for kept in client.tokens.list()] == []
