"""Ports are matched with interfaces: by the cloud's id, else by their mark, else by VM and network."""

from uuid import UUID, uuid4

from activities import ports
from activities.backends.resources import Port
from domain.data.models import Interface

VM, OTHER_VM, NETWORK, OTHER_NETWORK = (uuid4() for _ in range(4))


def interface(cloud_id: str | None = None, vm_id: UUID = VM, network_id: UUID = NETWORK) -> Interface:
    return Interface(id=uuid4(), vm_id=vm_id, network_id=network_id, cloud_id=cloud_id)


def port(cloud_id: str, mark: UUID | None = None, vm_id: UUID = VM, network_id: UUID = NETWORK) -> Port:
    return Port(cloud_id, vm_id, network_id, "10.0.0.9", "fa:16:3e:00:00:09", mark)


def test_the_id_of_the_cloud_decides_before_the_mark() -> None:
    row = interface("a")
    by_id, by_mark = port("a"), port("b", row.id)
    assert ports.by_interface([by_mark, by_id], [row]) == {row.id: by_id}
    assert ports.by_interface([by_mark], [row]) == {}


def test_a_row_without_the_id_of_the_cloud_gets_the_port_with_its_mark() -> None:
    row, other = interface(), interface()
    marked = port("a", row.id)
    assert ports.by_interface([port("b", uuid4()), marked], [other, row]) == {row.id: marked}


def test_ports_without_a_mark_are_given_to_interfaces_of_their_vm_and_network() -> None:
    rows = [interface(), interface(), interface(), interface(network_id=OTHER_NETWORK), interface(vm_id=OTHER_VM)]
    unmarked = [port("a"), port("b"), port("c", network_id=OTHER_NETWORK), port("d", vm_id=OTHER_VM)]
    found = ports.by_interface(unmarked, rows)
    assert {found[row.id].cloud_id for row in rows[:3] if row.id in found} == {"a", "b"}
    assert [found[row.id].cloud_id for row in rows[3:]] == ["c", "d"]


def test_a_port_that_one_row_keeps_is_given_to_no_other() -> None:
    kept, new = interface("a"), interface()
    taken = port("a")
    assert ports.by_interface([taken], [new, kept]) == {kept.id: taken}
    assert ports.by_interface([taken, port("b")], [new, kept])[new.id].cloud_id == "b"
