"""The errors of commands on accounts."""

from domain.rules.errors import FieldIssue, ServiceError


class UsernameTakenError(ServiceError):
    """Another account has this username, ignoring case."""

    code = "username_taken"

    def __init__(self) -> None:
        message = "This username is taken."
        super().__init__(message)
        self.fields = [FieldIssue("username", self.code, message)]


class EmailTakenError(ServiceError):
    """Another account has this e-mail address, ignoring case."""

    code = "email_taken"

    def __init__(self) -> None:
        message = "This email address is in use."
        super().__init__(message)
        self.fields = [FieldIssue("email", self.code, message)]


class NotAnAdminError(ServiceError):
    """The requester is no admin, or is none any more."""

    code = "admin_only"

    def __init__(self) -> None:
        super().__init__("Only an admin may do this.")


class LastAdminError(ServiceError):
    """Nobody could use /admin any more."""

    code = "last_admin"

    def __init__(self) -> None:
        super().__init__("You are the last admin. Make another user an admin first.")


class RoleOfProviderError(ServiceError):
    """The identity provider decides who of its users is an admin."""

    code = "role_of_provider"

    def __init__(self) -> None:
        super().__init__("This user comes from the identity provider, which decides who of its users is an admin.")
