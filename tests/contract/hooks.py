"""Hooks for schemathesis: ids that exist, in requests that would otherwise only find out that their ids do not."""

import json
import re
from collections import deque
from random import Random
from typing import Any, Final

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.generation.meta import TestPhase

from domain.data.catalogue import FLAVORS, IMAGES, NETWORKS
from domain.data.seeds import SECURITY_GROUPS

# Per schema of an answer: the path parameters that its fields fill.
_FILLS: Final = {
    "VM": {"vm_id": "id"},
    "Snapshot": {"vm_id": "vm_id", "snapshot_id": "id"},
    "Volume": {"volume_id": "id"},
    "Attachment": {"vm_id": "vm_id", "volume_id": "volume_id"},
    "Interface": {"vm_id": "vm_id", "interface_id": "id"},
    "Operation": {"operation_id": "id"},
}
_SOME_FLAVORS: Final = [str(flavor["id"]) for flavor in FLAVORS[1:4]]
# What a schema cannot tell, by the code of the problem, or of an item of its `errors`.
_UNTOLD: Final = {
    *("unknown_reference", "same_flavor", "flavor_too_small", "invalid_address", "user_data_too_large"),
    *("volume_too_small", "not_bootable", "invalid_cursor", "page_too_deep", "idempotency_key_reused"),
    *("unseen_character", "nothing_visible", "invalid_domain", "invalid_ssh_key", "password_too_weak"),
    *("password_too_common", "wrong_password"),
    *("repeated_items", "conflicting_fields", "conflicting_parameters", "ambiguous_name"),
}
_LONGEST_WAIT: Final = 60  # seconds
# Fields and headers of which a pattern describes only the characters; what is required only with or without another;
# the number of requirements in a selector of labels.
_UNTOLD_PLACES: Final = re.compile(r"#/(.*/)?(ip_address|flavor_id|network_id)|Idempotency-Key|wait|id|labels|address")
_CATALOGUE: Final = {
    "flavor_id": _SOME_FLAVORS[0],
    "image_id": str(IMAGES[0]["id"]),
    "network_id": str(NETWORKS[0]["id"]),
    "group_id": str(SECURITY_GROUPS[0]["id"]),
}
_known: deque[dict[str, str]] = deque(maxlen=200)  # what answers have shown, the latest last


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Give three of four valid requests ids that exist, and take out cursors, which only the service makes."""
    _shorten(case)
    random = Random(case.id)
    if not case.meta or not case.meta.generation.mode.is_positive or random.random() < 0.25:
        return
    if case.meta.phase.name is not TestPhase.STATEFUL:
        _fill_path(case, random)
    if case.query:
        case.query.pop("cursor", None)
    if case.headers:
        case.headers.pop("If-Match", None)
    if isinstance(case.body, dict):
        _fill_body(case.body, random)


def _shorten(case: Case[Any]) -> None:
    """Let no request wait for longer than a second."""
    wait = str((case.query or {}).get("wait", ""))
    if wait.isdecimal() and 1 < int(wait) <= _LONGEST_WAIT:
        case.query["wait"] = 1


def _fill_path(case: Case[Any], random: Random) -> None:
    wanted = set(case.path_parameters or {})
    found = [ids for ids in (_CATALOGUE, *_known) if wanted and wanted <= set(ids)]
    if found:
        ids = random.choice(found[-5:])
        case.path_parameters = {name: ids[name] for name in wanted}


def _fill_body(body: dict[str, Any], random: Random) -> None:
    volumes = [ids["volume_id"] for ids in _known if "volume_id" in ids]
    values: dict[str, Any] = {
        **_CATALOGUE,
        "flavor_id": random.choice(_SOME_FLAVORS),
        "network_ids": [_CATALOGUE["network_id"]],
    }
    if volumes:
        values["volume_id"] = volumes[-1]
    body |= {name: value for name, value in values.items() if name in body}
    for name in ("ssh_keys", "security_groups", "availability_zone", "snapshot_id", "boot_volume", "interfaces"):
        body.pop(name, None)  # three of four generated VMs exist, so that there is something to act on


@schemathesis.hook
def after_call(_context: HookContext, case: Case[Any], response: Response) -> None:
    """Remember the ids of what an answer shows."""
    if response.status_code not in {200, 202}:
        return
    declared = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    schema = declared.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    fills = _FILLS.get(schema.rpartition("/")[2])
    if fills is None:
        return
    body = json.loads(response.content)
    _known.append({parameter: body[name] for parameter, name in fills.items() if body.get(name)})


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case[Any], _response: Response) -> bool:
    """Take null for what may be left out: the document does not tell clients to send it, and the service accepts it."""
    has_null = case.body is None or (isinstance(case.body, dict) and None in case.body.values())
    return not (isinstance(failure, AcceptedNegativeData) and has_null)


@schemathesis.check
def told_by_the_document(_context: CheckContext, response: Response, case: Case[Any]) -> None:
    """A request that the document allows is refused only for a reason that a schema cannot tell."""
    is_valid = case.meta and case.meta.generation.mode.is_positive
    # schemathesis guesses links of its own, and then writes "None" for an id that is null.
    is_valid = is_valid and "None" not in map(str, (case.path_parameters or {}).values())
    if not is_valid or response.status_code not in {400, 415, 422}:
        return
    problem = json.loads(response.content)
    if problem["code"] in _UNTOLD:
        return
    for error in problem.get("errors") or [problem]:
        place = error.get("pointer") or error.get("header") or error.get("parameter") or ""
        is_one_of_two = error["code"] == "required" and error.get("detail", "").startswith("Send ")
        is_untold = is_one_of_two or error["code"] in _UNTOLD or _UNTOLD_PLACES.fullmatch(place)
        assert is_untold, f"The document should tell this: {json.dumps(error)}"
