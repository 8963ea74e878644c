"""The search attributes by which operators find workflows in Temporal.

`python -m migrations` registers them. Temporal refuses to start a workflow with an attribute that is not registered.
It keeps them in plain text, also if TEMPORAL_PAYLOAD_KEYS encrypts all else. TEMPORAL_SEARCH_NAMES says which names
they may have.
"""

from typing import Final, Literal

from temporalio.common import SearchAttributeKey

VM: Final = SearchAttributeKey.for_keyword("VM")  # the VM's id
VM_NAME: Final = SearchAttributeKey.for_keyword("VMName")  # at the time of the request; not with `none`
RESOURCE: Final = SearchAttributeKey.for_keyword("Resource")  # the id of the VM, snapshot, volume or interface
OWNER: Final = SearchAttributeKey.for_keyword("Owner")  # id; with `all`, the username
ACTION: Final = SearchAttributeKey.for_keyword("Action")  # as in the lifecycle table
WAITS_FOR: Final = SearchAttributeKey.for_keyword("WaitsFor")  # CONFIRMATION, RETRY, or unset

ALL: Final = (VM, VM_NAME, RESOURCE, OWNER, ACTION, WAITS_FOR)

Names = Literal["none", "vms", "all"]
"""Which names Temporal may have in plain text; usernames are among them only with `all`."""

LONGEST_NAME: Final = 64
"""Characters of a name that Temporal gets. It takes 2,048 bytes of JSON, and an emoji has twelve."""

CONFIRMATION: Final = "confirmation"
RETRY: Final = "retry"  # an attempt of the current step has failed
