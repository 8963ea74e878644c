"""The roles of users, and the security events that the audit keeps."""

from enum import StrEnum


class Role(StrEnum):
    """What a user may do: an admin may also use everything under /admin."""

    USER = "user"
    ADMIN = "admin"


class Event(StrEnum):
    """A security event, named by what was asked for or seen."""

    REGISTER = "register"
    LOGIN = "login"
    LOGOUT = "logout"
    LOGOUT_ALL = "logout_all"
    CHANGE_PASSWORD = "change_password"  # noqa: S105 - no password
    REUSE_REFRESH_TOKEN = "reuse_refresh_token"  # noqa: S105 - no token
    CREATE_TOKEN = "create_token"  # noqa: S105 - no token
    DELETE_TOKEN = "delete_token"  # noqa: S105 - no token
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


class Outcome(StrEnum):
    """Whether what was asked for was done."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
