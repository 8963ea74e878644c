"""How many requests a script sends that makes ten VMs with volumes, resizes five and deletes all.

python -m bench.fleet http://127.0.0.1:8000

It uses the client as the documentation shows it, as a new user, and counts what the client sends.
"""

import sys
import time
from collections import Counter
from uuid import uuid4

import httpx

from vmctl.client import Client
from vmctl.client.requests import NewVM

VMS = 10
RESIZED = 5


class Counting(httpx.HTTPTransport):
    """Counts requests by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Count a request and send it."""
        kind = request.method
        if kind == "GET":
            kind = "waits" if "wait" in request.url.params else "reads"
        self.sent[kind] += 1
        return super().handle_request(request)


def count(url: str) -> tuple[Counter[str], float]:
    """Run the script; returns what it has sent, by kind, and the seconds it took."""
    counting = Counting()
    with Client(url, transport=counting) as client:
        name = f"fleet-{uuid4().hex[:8]}"
        client.account.register(username=name, email=f"{name}@example.com", password="Correct-Horse-1")  # noqa: S106
        client.account.log_in(name, "Correct-Horse-1")
        counting.sent.clear()
        begun = time.monotonic()
        run(client)
        return counting.sent, time.monotonic() - begun


def run(client: Client) -> None:
    """Make the fleet, change it, delete it, and wait for the end of each part."""
    operations = client.operations
    volumes = [client.volumes.create(name=f"data-{number}", size_gb=1) for number in range(VMS)]
    operations.complete(volumes)
    new: list[NewVM] = [
        {"name": f"web-{number}", "flavor": "m1.tiny", "volumes": [{"volume_id": volume.resource.id}]}
        for number, volume in enumerate(volumes)
    ]
    vms = client.vms.create_all(new)
    operations.complete(vms)
    resized = [vm.resource.id for vm in vms[:RESIZED]]
    operations.complete([client.vms.resize(vm_id, flavor="m1.small") for vm_id in resized])
    operations.complete([client.vms.confirm_resize(vm_id) for vm_id in resized])
    operations.complete([client.vms.delete(vm.resource.id) for vm in vms])
    operations.complete([client.volumes.delete(volume.resource.id) for volume in volumes])


if __name__ == "__main__":
    sent, seconds = count(sys.argv[1])
    print(f"{sent.total()} requests in {seconds:.0f} s: {dict(sent)}")
