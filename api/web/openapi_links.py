"""Links between the operations of the OpenAPI document: which requests an answer leads to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

# Per schema of an answer: sets of path parameters that its fields fill.
_OPERATION: Final = {"operation_id": "operation_id"}  # of the answers that name the operation to follow
_FILLS: Final[Mapping[str, Sequence[Mapping[str, str]]]] = {
    "VM": [{"vm_id": "id"}, _OPERATION],
    "Snapshot": [{"vm_id": "vm_id", "snapshot_id": "id"}, {"snapshot_id": "id"}, _OPERATION],
    "Volume": [{"volume_id": "id"}, _OPERATION],
    "Attachment": [{"vm_id": "vm_id", "volume_id": "volume_id"}, _OPERATION],
    "Interface": [{"vm_id": "vm_id", "interface_id": "id"}, _OPERATION],
    "Operation": [{"operation_id": "id"}],
    "Token": [{"token_id": "id"}],
    "CreatedToken": [{"token_id": "id"}],
}


def add(document: dict[str, Any]) -> None:
    """Add a link from every answer with one resource to every operation whose path its fields can fill."""
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    shared: dict[str, Any] = document["components"].setdefault("links", {})
    for operation in operations:
        for response in operation["responses"].values():
            schema = _schema_of(response)
            if schema in _FILLS:
                links = dict(_links(schema, operations))
                shared |= links
                response["links"] = {name: {"$ref": f"#/components/links/{name}"} for name in links}


def _links(name: str, operations: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for operation in operations:
        wanted = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        fills = next((fills for fills in _FILLS[name] if set(fills) == wanted), None)
        if fills is None:
            continue
        yield (
            f"{name}_{operation['operationId']}",
            {
                "operationId": operation["operationId"],
                "description": operation["description"].partition("\n")[0],
                "parameters": {parameter: f"$response.body#/{field}" for parameter, field in fills.items()},
            },
        )


def _schema_of(response: dict[str, Any]) -> str:
    """The name of the schema of an answer, or the empty text."""
    content = response.get("content", {}).get("application/json", {})
    return str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
