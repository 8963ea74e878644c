# Generated from the OpenAPI document by `python -m tests.vmctl.generated`.

"""What the service answers."""

from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, Field
from vmctl.client.base import Answer, Word


class Account(Answer):
    """
    A user, as admins see it. A disabled one can neither log in nor use a token.
    """

    id: UUID
    username: str
    email: str | None
    role: str
    created_at: AwareDatetime
    disabled_at: AwareDatetime | None


class ActionName(Word):
    """
    The name of an action. `reboot` is both kinds of reboot.
    """

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    RESIZE = "resize"
    CONFIRM_RESIZE = "confirm-resize"
    REVERT_RESIZE = "revert-resize"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    ATTACH_VOLUME = "attach-volume"
    DETACH_VOLUME = "detach-volume"
    ATTACH_INTERFACE = "attach-interface"
    DETACH_INTERFACE = "detach-interface"
    DELETE = "delete"
    DELETE_SNAPSHOT = "delete-snapshot"
    CREATE_VOLUME = "create-volume"
    DELETE_VOLUME = "delete-volume"
    EXTEND_VOLUME = "extend-volume"
    ADOPT = "adopt"
    RESET_STATE = "reset-state"


class Address(Answer):
    """
    An address of a VM in a network; the addresses are null until the cloud has chosen them.
    """

    network_id: UUID
    network: str
    """
    The network's name.
    """

    ip_address: str | None
    mac_address: str | None


class AddressUse(Answer):
    """
    The number of the project's addresses in a network.
    """

    network_id: UUID
    used: int


class AttachedVolume(Answer):
    """
    A volume of a VM; `device` is null until the cloud has chosen it.
    """

    volume_id: UUID
    device: str | None


class AttachmentStatus(Word):
    """
    The state of an attachment or an interface. The end of a detach deletes its row.
    """

    ATTACHING = "ATTACHING"
    ATTACHED = "ATTACHED"
    DETACHING = "DETACHING"


class AttentionKind(Word):
    """
    Why something needs a person's attention.
    """

    SERVER_GONE = "server_gone"
    SERVER_ERROR = "server_error"
    SERVER_RECOVERED = "server_recovered"
    POWER_STATE = "power_state"
    RESIZED = "resized"
    RESIZE_DECIDED = "resize_decided"
    SERVER_STATUS = "server_status"
    SERVER_SIZE = "server_size"
    SERVER_IMAGE = "server_image"
    VOLUME_GONE = "volume_gone"
    VOLUME_ERROR = "volume_error"
    VOLUME_DETACHED = "volume_detached"
    VOLUME_RECOVERED = "volume_recovered"
    VOLUME_ELSEWHERE = "volume_elsewhere"
    VOLUME_SIZE = "volume_size"
    INTERFACE_GONE = "interface_gone"
    INTERFACE_RECOVERED = "interface_recovered"
    IMAGE_GONE = "image_gone"
    IMAGE_RECOVERED = "image_recovered"
    ORPHAN_SERVER = "orphan_server"
    ORPHAN_PORT = "orphan_port"
    ORPHAN_VOLUME = "orphan_volume"
    ORPHAN_IMAGE = "orphan_image"
    VM_IN_ERROR = "vm_in_error"
    VOLUME_IN_ERROR = "volume_in_error"
    SNAPSHOT_IN_ERROR = "snapshot_in_error"
    OPERATION_RETRYING = "operation_retrying"
    OPERATION_NOT_BEGUN = "operation_not_begun"
    OPERATION_SLOW = "operation_slow"
    OPERATION_INTERRUPTED = "operation_interrupted"
    VM_HELD_BY_NOBODY = "vm_held_by_nobody"


class AvailabilityZone(Answer):
    """
    A part of the cloud that fails by itself.
    """

    name: str


class Check(Answer):
    """
    Whether a service that the API needs is available.
    """

    status: str
    error: str | None = None


class CloudInterface(Answer):
    """
    A port of a server; `network_id` may be one that is in no list of networks.
    """

    id: UUID
    network_id: UUID
    ip_address: str | None
    mac_address: str


class CloudVolume(Answer):
    """
    A volume of a server; `size_gb` is in GiB. With `delete_on_termination` the cloud deletes both together.
    """

    id: UUID
    name: str
    size_gb: int
    device: str | None
    delete_on_termination: bool


class Console(Answer):
    """
    A console that can be used at an address, which is secret; its type in Nova's words.
    """

    type: str
    url: str


class ConsoleLog(Answer):
    """
    What a console has shown. `is_truncated`: the lines have more than 256 KiB, and the first of them are missing.
    """

    output: str
    is_truncated: bool


class Event(Word):
    """
    A security event, named by what was asked for or seen.
    """

    REGISTER = "register"
    LOGIN = "login"
    LOGOUT = "logout"
    LOGOUT_ALL = "logout_all"
    CHANGE_PASSWORD = "change_password"
    REUSE_REFRESH_TOKEN = "reuse_refresh_token"
    CREATE_TOKEN = "create_token"
    DELETE_TOKEN = "delete_token"
    ADD_SSH_KEY = "add_ssh_key"
    DELETE_SSH_KEY = "delete_ssh_key"
    CREATE_USER = "create_user"
    CHANGE_ROLE = "change_role"
    DISABLE_USER = "disable_user"
    ENABLE_USER = "enable_user"
    RETRY_OPERATION = "retry_operation"
    RESET_VM_STATE = "reset_vm_state"
    ADOPT_SERVER = "adopt_server"
    CREATE_PROJECT = "create_project"
    DELETE_PROJECT = "delete_project"
    SET_MEMBER = "set_member"
    REMOVE_MEMBER = "remove_member"
    SET_QUOTAS = "set_quotas"


class Fault(Answer):
    """
    Why something failed: `code` is for programs, `message` for people.
    """

    code: str
    message: str


class FieldError(Answer):
    """
    One error in a request. Exactly one of `pointer`, `parameter` and `header` says where it is.

    `candidates` are the ids of the things that have an ambiguous name, at most 20.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None
    candidates: list[str] | None = None


class Flavor(Answer):
    """
    A size of VM: `ram_mb` in MiB, `disk_gb` in GiB. `is_available`: VMs can still get it.
    """

    id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    is_available: bool


class Health(Answer):
    """
    The service is up.
    """

    status: str
    name: str
    version: str


class Image(Answer):
    """
    An image from which VMs boot; `size_gb`, in GiB, is the smallest disk that holds it.

    `os_distro` and `os_version` are null if the image does not tell. `is_available`: VMs can still get it.
    """

    id: UUID
    name: str
    os_distro: str | None
    os_version: str | None
    size_gb: int
    is_default: bool
    is_available: bool


class Interface(Answer):
    """
    The interface of a VM in a network; its addresses are null until the cloud has chosen them.
    """

    id: UUID
    vm_id: UUID
    network_id: UUID
    ip_address: str | None
    mac_address: str | None
    status: AttachmentStatus
    operation_id: UUID
    created_at: AwareDatetime


class Kind(Word):
    """
    A kind of resource, as in an operation's `resource_type`.
    """

    VM = "vm"
    SNAPSHOT = "snapshot"
    VOLUME = "volume"
    ATTACHMENT = "attachment"
    INTERFACE = "interface"


class Liveness(Answer):
    """
    The process answers.
    """

    status: str


class Network(Answer):
    """
    A network to which VMs can be attached; `gateway` is null if it has none.

    `free_addresses` is the number of addresses that no interface has; it is null if only the cloud knows it.
    `is_available`: VMs can still be attached to it.
    """

    id: UUID
    name: str
    cidr: str
    gateway: str | None
    is_default: bool
    free_addresses: int | None
    is_available: bool


class OperationStatus(Word):
    """
    The status of an operation.
    """

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SUPERSEDED = "SUPERSEDED"


class Outcome(Word):
    """
    Whether what was asked for was done.
    """

    SUCCEEDED = "succeeded"
    REFUSED = "refused"


class ProblemCode(Word):
    """
    What went wrong, for programs. Later versions may add codes. The page at `type` explains each.
    """

    MALFORMED_BODY = "malformed_body"
    MALFORMED_REQUEST = "malformed_request"
    UNAUTHENTICATED = "unauthenticated"
    INVALID_TOKEN = "invalid_token"
    INVALID_CREDENTIALS = "invalid_credentials"
    PREFLIGHT_REFUSED = "preflight_refused"
    ADMIN_ONLY = "admin_only"
    ACCOUNT_DISABLED = "account_disabled"
    REGISTRATION_CLOSED = "registration_closed"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    LOGIN_REQUIRED = "login_required"
    FORBIDDEN = "forbidden"
    QUOTA_EXCEEDED = "quota_exceeded"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    LAST_ADMIN = "last_admin"
    ROLE_OF_PROVIDER = "role_of_provider"
    USERNAME_TAKEN = "username_taken"
    EMAIL_TAKEN = "email_taken"
    IDEMPOTENCY_KEY_IN_FLIGHT = "idempotency_key_in_flight"
    INVALID_TRANSITION = "invalid_transition"
    LAST_OWNER = "last_owner"
    PROJECT_IN_USE = "project_in_use"
    ATTACHMENT_IN_PROGRESS = "attachment_in_progress"
    NO_FREE_ADDRESS = "no_free_address"
    ADDRESS_IN_USE = "address_in_use"
    NO_FREE_DEVICE = "no_free_device"
    NO_CONSOLE = "no_console"
    NOT_SUPPORTED_BY_CLOUD = "not_supported_by_cloud"
    ROOT_VOLUME = "root_volume"
    VOLUME_BACKED = "volume_backed"
    TOO_LATE = "too_late"
    NOT_RETRYABLE = "not_retryable"
    NAME_TAKEN = "name_taken"
    NOT_ADOPTABLE = "not_adoptable"
    PRECONDITION_FAILED = "precondition_failed"
    BODY_TOO_LARGE = "body_too_large"
    QUERY_TOO_LONG = "query_too_long"
    URI_TOO_LONG = "uri_too_long"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNKNOWN_PARAMETER = "unknown_parameter"
    VALIDATION_FAILED = "validation_failed"
    INVALID_CURSOR = "invalid_cursor"
    PAGE_TOO_DEEP = "page_too_deep"
    WRONG_PASSWORD = "wrong_password"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    UNKNOWN_REFERENCE = "unknown_reference"
    AMBIGUOUS_NAME = "ambiguous_name"
    SAME_FLAVOR = "same_flavor"
    FLAVOR_TOO_SMALL = "flavor_too_small"
    INVALID_ADDRESS = "invalid_address"
    USER_DATA_TOO_LARGE = "user_data_too_large"
    VOLUME_TOO_SMALL = "volume_too_small"
    NOT_BOOTABLE = "not_bootable"
    TOO_MANY_REQUESTS = "too_many_requests"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_WAITING = "too_many_waiting"
    TOO_MANY_FAILED_LOGINS = "too_many_failed_logins"
    HEAD_TOO_LARGE = "head_too_large"
    INTERNAL_ERROR = "internal_error"
    NOT_IMPLEMENTED = "not_implemented"
    API_UNAVAILABLE = "api_unavailable"
    CLOUD_UNAVAILABLE = "cloud_unavailable"
    WORKER_UNAVAILABLE = "worker_unavailable"
    IDENTITY_PROVIDER_UNAVAILABLE = "identity_provider_unavailable"
    OVERLOADED = "overloaded"
    SEARCH_TOO_SLOW = "search_too_slow"
    DATABASE_UNAVAILABLE = "database_unavailable"
    NOT_READY = "not_ready"
    SHUTTING_DOWN = "shutting_down"
    HTTP_VERSION_NOT_SUPPORTED = "http_version_not_supported"


class ProjectRole(Word):
    """
    What a member of a project is in it.
    """

    READER = "reader"
    OPERATOR = "operator"
    OWNER = "owner"


class Quota(Word):
    """
    Something of which a project may have only so much. The values are also names of columns and of settings.

    VMs count until they are DELETED, with the vCPUs and the RAM of their flavors. During a resize the larger of the two
    flavors counts. Volumes and snapshots count until they are DELETED, too.
    """

    VMS = "vms"
    VCPUS = "vcpus"
    RAM_MB = "ram_mb"
    VOLUMES = "volumes"
    VOLUME_GB = "volume_gb"
    SNAPSHOTS = "snapshots"
    ADDRESSES_PER_NETWORK = "addresses_per_network"
    OPEN_OPERATIONS = "open_operations"


class QuotaUse(Answer):
    """
    The limit of a quota, null if there is none, and what the project uses of it.
    """

    limit: int | None
    used: int


class Quotas(Answer):
    """
    How much the project may have, and how much it has: `ram_mb` in MiB, `volume_gb` in GiB.

    `addresses_per_network` limits each network by itself. Its `used` is the largest number in `addresses`.
    """

    project_id: UUID
    vms: QuotaUse
    vcpus: QuotaUse
    ram_mb: QuotaUse
    volumes: QuotaUse
    volume_gb: QuotaUse
    snapshots: QuotaUse
    addresses_per_network: QuotaUse
    open_operations: QuotaUse
    addresses: list[AddressUse]


class Readiness(Answer):
    """
    Whether all services that the API needs are available.
    """

    status: str
    checks: dict[str, Check]


class SSHKey(Answer):
    """
    A public SSH key; `fingerprint` is the one that `ssh-keygen -l` shows.
    """

    name: str
    type: str
    fingerprint: str
    public_key: str
    created_at: AwareDatetime


class Scope(Word):
    """
    A part of what the owner of a token may do: `read` is every GET, `write` is everything, reading included.
    """

    READ = "read"
    WRITE = "write"


class SecurityEvent(Answer):
    """
    A security event: who did what, when and from where.

    `actor` is the user who asked for it, null for somebody who has not logged in, or `@server` for a command on the
    server. `target` is the name or the id of what the event is about. Equal refusals of a minute are one event with
    their `count`.
    """

    id: UUID
    at: AwareDatetime
    event: Event
    outcome: Outcome
    actor_id: UUID | None
    actor: str | None
    target: str | None
    address: str | None
    user_agent: str | None
    request_id: str | None
    count: int
    details: dict[str, Any]


class SecurityGroup(Answer):
    """
    A set of rules that says which packets reach a VM. `is_available`: new VMs can still get it.
    """

    id: UUID
    name: str
    description: str
    is_available: bool


class Size(Answer):
    """
    The flavor of a VM: `ram_mb` in MiB, `disk_gb` in GiB.
    """

    id: UUID
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int


class SnapshotStatus(Word):
    """
    The state of a snapshot, as clients see it.
    """

    CREATING = "CREATING"
    AVAILABLE = "AVAILABLE"
    RESTORING = "RESTORING"
    DELETING = "DELETING"
    DELETED = "DELETED"
    ERROR = "ERROR"


class Status(Word):
    """
    The status of a VM, as clients see it.
    """

    BUILDING = "BUILDING"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    REBOOTING = "REBOOTING"
    RESIZING = "RESIZING"
    VERIFY_RESIZE = "VERIFY_RESIZE"
    ERROR = "ERROR"
    DELETING = "DELETING"
    DELETED = "DELETED"


class TaskState(Word):
    """
    The step that a VM's operation is in. An idle VM has no task state.
    """

    SCHEDULING = "scheduling"
    NETWORKING = "networking"
    SPAWNING = "spawning"
    POWERING_ON = "powering_on"
    POWERING_OFF = "powering_off"
    REBOOTING = "rebooting"
    REBOOTING_HARD = "rebooting_hard"
    RESIZE_PREP = "resize_prep"
    RESIZE_MIGRATING = "resize_migrating"
    RESIZE_FINISH = "resize_finish"
    RESIZE_CONFIRMING = "resize_confirming"
    RESIZE_REVERTING = "resize_reverting"
    IMAGE_SNAPSHOT = "image_snapshot"
    IMAGE_UPLOADING = "image_uploading"
    RESTORING = "restoring"
    DELETING = "deleting"


class Token(Answer):
    """
    A token for programs. `last_used_at` is a minute old at most; a token without `expires_at` never ends.
    """

    id: UUID
    name: str
    scopes: list[Scope]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used_at: AwareDatetime | None


class TokenPair(Answer):
    """
    The tokens of a login; `expires_in` is the lifetime of the access token in seconds.
    """

    access_token: str
    refresh_token: str
    token_type: str = "bearer"
    expires_in: int


class User(Answer):
    """
    A user's profile. A user of the identity provider has no `email` here.
    """

    id: UUID
    username: str
    email: str | None
    role: str
    created_at: AwareDatetime


class VM(Answer):
    """
    A virtual machine; `task_state` is the step that its operation is in, null if the VM is idle.

    `previous_flavor_id` is set in VERIFY_RESIZE: a revert of the resize brings that flavor back.

    `snapshot_id` or `boot_volume_id` is set if it was built from a snapshot, or boots from a volume. `image_id` is then
    the image from which that was made. `availability_zone` is null until the cloud has chosen it, if its request did
    not. `security_groups` are those that its request asked for, by name; null means the cloud's default group.
    """

    id: UUID
    project_id: UUID
    name: str
    status: Status
    task_state: TaskState | None
    flavor_id: UUID
    flavor: Size
    previous_flavor_id: UUID | None
    image_id: UUID
    addresses: list[Address]
    volumes: list[AttachedVolume]
    labels: dict[str, str]
    fault: Fault | None
    operation_id: UUID
    confirm_by: AwareDatetime | None
    launched_at: AwareDatetime | None
    snapshot_id: UUID | None
    boot_volume_id: UUID | None
    availability_zone: str | None
    security_groups: list[str] | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    allowed_actions: list[ActionName]
    """
    The names of the actions that are allowed right now.
    """


class VMs(Answer):
    """
    New VMs, in the order of their request.
    """

    items: list[VM]


class Validity(Answer):
    """
    The answer to a request with `validate_only=true` that would be accepted.
    """

    valid: bool = True


class VolumeStatus(Word):
    """
    The state of a volume, as clients see it.
    """

    CREATING = "CREATING"
    AVAILABLE = "AVAILABLE"
    ATTACHING = "ATTACHING"
    IN_USE = "IN_USE"
    DETACHING = "DETACHING"
    EXTENDING = "EXTENDING"
    DELETING = "DELETING"
    DELETED = "DELETED"
    ERROR = "ERROR"


class Attachment(Answer):
    """
    The attachment of a volume to a VM; `device` is null until the cloud has chosen it.
    """

    volume_id: UUID
    vm_id: UUID
    device: str | None
    status: AttachmentStatus
    delete_on_termination: bool
    operation_id: UUID
    created_at: AwareDatetime


class Attention(Answer):
    """
    Something that needs a person's attention.

    `kind` says what it is: an operation that makes no progress, a resource in ERROR, or a difference between the cloud
    and the database. `detail` is what is known about it; it may be null.
    """

    kind: AttentionKind
    resource_type: Kind
    resource_id: UUID
    vm_id: UUID | None
    owner: str | None
    operation_id: UUID | None
    temporal_url: str | None
    detail: dict[str, Any] | None
    since: AwareDatetime


class CloudServer(Answer):
    """
    A server of the cloud. `id` is the cloud's.

    If it is `managed`, it is the server of the VM `vm_id`, which also has its volumes and interfaces: null here.
    If not, `vm_id` is the id that its VM would have, `owner` is null, and `obstacle` says why it cannot be adopted, or
    is null. `status` is that of the VM, or else Nova's. `created_at` is when the VM was created, or else the server.
    """

    id: UUID
    name: str
    status: str
    managed: bool
    vm_id: UUID
    owner: str | None
    flavor: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    image_id: UUID | None
    volumes: list[CloudVolume] | None
    interfaces: list[CloudInterface] | None
    obstacle: str | None
    created_at: AwareDatetime


class CreatedToken(Answer):
    """
    A new token for programs; `token` is its text, which no other answer shows.
    """

    id: UUID
    name: str
    scopes: list[Scope]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used_at: AwareDatetime | None
    token: str


class Member(Answer):
    """
    A member of a project, since `created_at`; `accepted` if the member has made the project or set the role.
    """

    username: str
    role: ProjectRole
    accepted: bool
    created_at: AwareDatetime


class Operation(Answer):
    """
    A request to do something with a resource: who made it, its progress, and why it failed.

    `parameters` is what was requested, by names and ids: of a resize, the new flavor and the one before. A reset-state
    has no workflow: its `workflow_id` is empty and its `temporal_url` null.
    """

    id: UUID
    project_id: UUID
    action: ActionName
    status: OperationStatus
    resource_type: Kind
    resource_id: UUID
    vm_id: UUID | None
    parameters: dict[str, Any]
    step: TaskState | None
    progress: int
    attempt: int
    last_error: str | None
    next_retry_at: AwareDatetime | None
    error: Fault | None
    cancel_requested_at: AwareDatetime | None
    cancel_requested_by: str | None
    request_id: str
    actor: str
    workflow_id: str
    temporal_url: str | None
    retry_of: UUID | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None


class Problem(Answer):
    """
    An error (RFC 9457). Most problems lack the members after `request_id`.
    """

    type: str
    """
    The path of a page about this kind of problem.
    """

    title: str
    status: int
    detail: str
    instance: str
    code: ProblemCode
    request_id: str
    errors: list[FieldError] = Field([], validate_default=True)
    current_status: Status | SnapshotStatus | VolumeStatus | AttachmentStatus | None = None
    task_state: TaskState | None = None
    allowed_actions: list[ActionName] = []
    operation_id: UUID | None = None
    """
    The operation that the request has to wait for.
    """

    checks: dict[str, Check] = Field({}, validate_default=True)
    quota: Quota | None = None
    """
    The quota of the project that is too small.
    """

    limit: int | None = None
    """
    That quota's limit.
    """

    used: int | None = None
    """
    How much of it is in use.
    """


class Project(Answer):
    """
    A project, and what you are in it. A `personal` one belongs to one user, who always owns it.
    """

    id: UUID
    name: str
    personal: bool
    role: ProjectRole
    created_at: AwareDatetime


class Snapshot(Answer):
    """
    The disk of a VM at one moment; `size_gb` in GiB. A restore also brings `flavor_id` and `image_id` back.
    """

    id: UUID
    project_id: UUID
    vm_id: UUID
    name: str
    status: SnapshotStatus
    size_gb: int
    labels: dict[str, str]
    flavor_id: UUID
    image_id: UUID
    operation_id: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime


class Volume(Answer):
    """
    A block device that outlives VMs; `size_gb` in GiB. `vm_id` and `device` are set while it is attached.

    `image_id` is the image from which it was created, if any; then it is `bootable`.
    """

    id: UUID
    project_id: UUID
    name: str
    size_gb: int
    status: VolumeStatus
    labels: dict[str, str]
    vm_id: UUID | None = None
    device: str | None = None
    image_id: UUID | None
    operation_id: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime
    bootable: bool
    """
    Whether VMs can boot from it.
    """
