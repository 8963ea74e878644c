"""Requests per second of an earlier version and of this one, in turn: `python -m bench.versions CHECKOUT [ROUNDS]`.

CHECKOUT is a folder with the other version. Its processes run with the packages of this environment. Needs wrk.

Both have a database of their own in one PostgreSQL server, which is started here, and an API process without a worker.
Each request is measured with one version, then at once with the other. The result is the median of the ratios.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.load import Request, load, need_wrk, prepare
from bench.processes import ROOT, api, new_database, postgres
from bench.usage import table

ROUNDS = 3  # of eight seconds for each request and version
NAMES = ("GET /vms/{id}", "GET /vms, 20 items", "POST /vms")


def requests_to(address: str) -> list[Request]:
    """The requests in the order of NAMES, of a new user with twenty VMs."""
    token, flavor, vm = prepare(address)
    new = {"name": "vm", "flavor_id": flavor}
    one, all_ = f"{address}/vms/{vm}", f"{address}/vms"
    return [Request(one, [token]), Request(all_, [token]), Request(all_, [token], new)]


def main() -> None:
    """Measure, and print one row for each request."""
    need_wrk()
    other, rounds = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS  # noqa: PLR2004
    rates: dict[str, list[tuple[float, ...]]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        server = stack.enter_context(postgres("-F")).url
        urls = {
            checkout: new_database(server, name, checkout) for name, checkout in (("earlier", other), ("this", ROOT))
        }
        versions = [requests_to(stack.enter_context(api(url, checkout=checkout)).url) for checkout, url in urls.items()]
        for turn in range(rounds):
            for name, *both in zip(NAMES, *versions, strict=True):
                order = both if turn % 2 == 0 else both[::-1]
                found = [load(request).rate for request in order]
                rates[name].append(tuple(found if turn % 2 == 0 else found[::-1]))
    rows = [
        (
            name,
            *(median(column) for column in zip(*pairs, strict=True)),
            median(this / earlier for earlier, this in pairs),
        )
        for name, pairs in rates.items()
    ]
    table("requests/s", "earlier", "this", "ratio", rows=rows)


if __name__ == "__main__":
    main()
