"""Problems with what a request asks for: resources that are missing, in another state, or do not fit together."""

from typing import Final

from api.web.problem_types.entry import ProblemType, Retry

CONFLICTS: Final = {
    "not_found": ProblemType(
        404,
        "There is no such resource",
        "Nothing is at this path: the id is wrong, the resource belongs to somebody else, or its record has been "
        "deleted after the retention time.",
        "Check the path. Lists show the ids of what you have.",
        Retry.NO,
    ),
    "invalid_transition": ProblemType(
        409,
        "The resource's state does not allow this",
        "The resource is busy, or its status does not allow the action. `current_status` and `task_state` are its "
        "state, and `allowed_actions` is what can be done now.",
        "If it is busy, wait until its operation has ended. Otherwise do one of `allowed_actions` first.",
        Retry.AFTER_CHANGE,
    ),
    "last_owner": ProblemType(
        409,
        "The project needs this owner",
        "The change would leave the project without an owner, or a personal project without its user.",
        "Make another member an owner first, who accepts that by a `PUT` of the same role for themselves.",
        Retry.AFTER_CHANGE,
    ),
    "project_in_use": ProblemType(
        409,
        "The project cannot be deleted",
        "The project has resources or operations that have not ended, or it is the personal project of a user.",
        "Delete its VMs, volumes and snapshots first. A personal project stays as long as its user.",
        Retry.AFTER_CHANGE,
    ),
    "attachment_in_progress": ProblemType(
        409,
        "A volume or an interface is being attached or detached",
        "Resize, snapshot and restore have to wait until nothing is being attached to the VM or detached from it.",
        "Wait until these operations have ended.",
        Retry.AFTER_CHANGE,
    ),
    "no_free_address": ProblemType(
        409,
        "The network has no free address",
        "Interfaces have all addresses of the network's CIDR that VMs can have.",
        "Use another network, or detach an interface that you no longer need.",
        Retry.AFTER_CHANGE,
    ),
    "address_in_use": ProblemType(
        409,
        "The address is in use",
        "Another interface has an address that the request asks for. `errors` names the fields.",
        "Ask for another address, or leave it out to get any free one.",
        Retry.AFTER_CHANGE,
    ),
    "no_free_device": ProblemType(
        409,
        "The VM has as many volumes or interfaces as it can have",
        "A VM has at most 64 interfaces, and 25 volumes or, where the cloud chooses their devices, 64.",
        "Detach one first.",
        Retry.AFTER_CHANGE,
    ),
    "no_console": ProblemType(
        409,
        "The VM has no console now",
        "The VM is being built, or it has no server in the cloud.",
        "Wait until the VM is ACTIVE.",
        Retry.AFTER_CHANGE,
    ),
    "not_supported_by_cloud": ProblemType(
        409,
        "The cloud cannot do this",
        "The cloud behind the service does not have what the request needs.",
        "Do without it, or ask the operator of the cloud.",
        Retry.NO,
    ),
    "root_volume": ProblemType(
        409,
        "The VM boots from this volume",
        "A volume that a VM boots from cannot be detached.",
        "Delete the VM. The volume stays, unless it was attached with `delete_on_termination`.",
        Retry.NO,
    ),
    "volume_backed": ProblemType(
        409,
        "The VM's disk is a volume",
        "Snapshots are taken of disks that belong to the VM, not of volumes.",
        "Keep data that matters on a VM that was built from an image, or back it up from inside the guest.",
        Retry.NO,
    ),
    "too_late": ProblemType(
        409,
        "The operation can no longer be canceled",
        "The operation has ended, or has done something that cannot be undone.",
        "Wait for its end. Then ask for the opposite, for example a delete.",
        Retry.NO,
    ),
    "not_retryable": ProblemType(
        409,
        "The operation cannot be requested again",
        "It has not failed, its resource must be created anew, or a retry has already done it.",
        "Read the operation and its resource. If something is missing, ask for it with a new request.",
        Retry.NO,
    ),
    "name_taken": ProblemType(
        409,
        "You have one of this name",
        "Names of this kind of resource are unique for each user.",
        "Choose another name, or delete the other resource.",
        Retry.AFTER_CHANGE,
    ),
    "not_adoptable": ProblemType(
        409,
        "The server cannot be adopted",
        "The server belongs to a VM already, or its state in the cloud does not allow it. `detail` has the reason.",
        "Remove the obstacle in the cloud, and try again.",
        Retry.AFTER_CHANGE,
    ),
}
MISFITS: Final = {
    "unknown_reference": ProblemType(
        422,
        "The body refers to something that does not exist",
        "An id or a name in the body belongs to nothing that you may use, or the cloud no longer offers it. `errors` "
        "names the fields.",
        "Choose one of those that the lists show, such as `GET /flavors`.",
        Retry.NO,
    ),
    "ambiguous_name": ProblemType(
        422,
        "Several things have this name",
        "The body names something by a name that more than one thing has. `errors` has their ids.",
        "Send the id of the one that you mean.",
        Retry.NO,
    ),
    "same_flavor": ProblemType(
        422,
        "The VM has this flavor already",
        "A resize needs another flavor than the present one.",
        "Nothing is left to do, or choose another flavor.",
        Retry.NO,
    ),
    "flavor_too_small": ProblemType(
        422,
        "The flavor's disk is too small",
        "The disk of the flavor is smaller than the image, the snapshot or the disk that it must hold.",
        "Choose a flavor with a larger disk. `detail` says how large.",
        Retry.NO,
    ),
    "invalid_address": ProblemType(
        422,
        "No VM can have this address",
        "The address is outside the network's CIDR, or is that of the network, its gateway or its broadcast. Or the "
        "cloud chooses the addresses itself.",
        "Ask for another address, or leave it out to get any free one.",
        Retry.NO,
    ),
    "user_data_too_large": ProblemType(
        422,
        "User data and SSH keys are too large",
        "Together they are more than a cloud passes to cloud-init or, of all VMs of a batch, more than one takes. "
        "`detail` has both numbers.",
        "Send less, for example a script that downloads the rest. Or split the batch.",
        Retry.NO,
    ),
    "volume_too_small": ProblemType(
        422,
        "The volume is too small",
        "A new volume must hold its image, and an extended volume must become larger.",
        "Ask for more. `detail` says how much.",
        Retry.NO,
    ),
    "not_bootable": ProblemType(
        422,
        "The volume is not bootable",
        "A VM can boot only from a volume that was created from an image.",
        "Create a volume with `image_id`, and boot from that.",
        Retry.NO,
    ),
}
