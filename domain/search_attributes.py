"""By what operators find workflows in Temporal.

`python -m migrations` registers them; without that, Temporal starts no workflow.
"""

from typing import Final

from temporalio.common import SearchAttributeKey

VM: Final = SearchAttributeKey.for_keyword("VM")  # its id
VM_NAME: Final = SearchAttributeKey.for_keyword("VMName")  # when the operation was asked for
RESOURCE: Final = SearchAttributeKey.for_keyword("Resource")  # id of the VM, snapshot, volume or interface
OWNER: Final = SearchAttributeKey.for_keyword("Owner")  # username
ACTION: Final = SearchAttributeKey.for_keyword("Action")  # the lifecycle table's word
WAITS_FOR: Final = SearchAttributeKey.for_keyword("WaitsFor")  # CONFIRMATION or RETRY; unset otherwise

ALL: Final = (VM, VM_NAME, RESOURCE, OWNER, ACTION, WAITS_FOR)

CONFIRMATION: Final = "confirmation"
RETRY: Final = "retry"  # an attempt of the present step has failed
