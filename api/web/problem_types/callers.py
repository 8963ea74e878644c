"""Problems with who sends a request: tokens, accounts, rights and limits of a caller, and repeated requests."""

from typing import Final

from api.web.problem_types.entry import ProblemType, Retry

CALLERS: Final = {
    "unauthenticated": ProblemType(
        401,
        "The request has no token",
        "The path needs a token, and the request has no header `Authorization: Bearer ...`.",
        "Log in, and send the access token.",
        Retry.NO,
    ),
    "invalid_token": ProblemType(
        401,
        "The token is not valid",
        "The token has expired or been revoked, is not one of this service's or of its identity provider's, or is not "
        "of the kind that the path needs. Or its login has ended, or its account is disabled or no longer exists.",
        "Get a new pair of tokens with the refresh token. If that is refused too, log in again.",
        Retry.NO,
    ),
    "invalid_credentials": ProblemType(
        401,
        "The username or the password is wrong",
        "There is no account with this username and password.",
        "Correct them. After five failures each further attempt has to wait.",
        Retry.NO,
    ),
    "admin_only": ProblemType(
        403,
        "Only an admin may do this",
        "The path is for the admins of the service, and the token belongs to another user.",
        "Ask an admin of the service.",
        Retry.NO,
    ),
    "account_disabled": ProblemType(
        403,
        "The account is disabled",
        "An admin has disabled the account. It cannot log in, and none of its tokens works.",
        "Ask an admin of the service.",
        Retry.NO,
    ),
    "registration_closed": ProblemType(
        403,
        "Nobody can register",
        "This service is set up so that only its operator makes accounts.",
        "Ask the operator of the service for an account.",
        Retry.NO,
    ),
    "insufficient_scope": ProblemType(
        403,
        "The token may only read",
        "The request changes something, and the token for programs that it was sent with has only the scope `read`.",
        "Send the request with a token that has the scope `write`.",
        Retry.NO,
    ),
    "login_required": ProblemType(
        403,
        "The path is for people who have logged in",
        "The request was sent with a token for programs or one of the identity provider, and such a token comes from "
        "no login here.",
        "Log in, and send the access token. A user of the identity provider logs out and changes the password there.",
        Retry.NO,
    ),
    "forbidden": ProblemType(
        403,
        "Your role in the project does not allow this",
        "You may read the resource, but your role in its project does not allow the change. `detail` names the role "
        "that it needs.",
        "Ask an owner of the project for that role: `GET /projects/{id}/members` lists them.",
        Retry.NO,
    ),
    "quota_exceeded": ProblemType(
        403,
        "You have as much as you may have",
        "The request would go beyond a limit of your account or of the project. `detail` names the limit and the use.",
        "Delete something that you no longer need, or ask an admin for more: `GET /quotas` shows all limits.",
        Retry.AFTER_CHANGE,
    ),
    "last_admin": ProblemType(
        409,
        "You are the last admin",
        "Nobody could use the paths for admins any more.",
        "Make another user an admin first.",
        Retry.NO,
    ),
    "role_of_provider": ProblemType(
        409,
        "The identity provider decides",
        "The user comes from the identity provider. With `OIDC_ROLE_CLAIM` its tokens say who of them is an admin.",
        "Give the user the group or role at the identity provider.",
        Retry.NO,
    ),
    "username_taken": ProblemType(
        409,
        "The username is taken",
        "Another account has this username. Case makes no difference.",
        "Choose another username, or log in if the account is yours.",
        Retry.NO,
    ),
    "email_taken": ProblemType(
        409,
        "The email address is in use",
        "Another account has this email address. Case makes no difference.",
        "Use another address, or log in if the account is yours.",
        Retry.NO,
    ),
    "idempotency_key_in_flight": ProblemType(
        409,
        "A request with this key is in progress",
        "An earlier request with the same `Idempotency-Key` has not been answered yet.",
        "Wait for `Retry-After` seconds, and send the same request again. You then get its answer.",
        Retry.LATER,
    ),
    "wrong_password": ProblemType(
        422,
        "The current password is wrong",
        "The request to change the password names a current password that is wrong. It counts as a failed login.",
        "Correct it. If you have forgotten it, ask an admin of the service.",
        Retry.NO,
    ),
    "idempotency_key_reused": ProblemType(
        422,
        "Another request had this key",
        "The `Idempotency-Key` came before with another body or other parameters.",
        "Use a new key for each new request, and keep a key only when you repeat a request.",
        Retry.NO,
    ),
    "too_many_requests": ProblemType(
        429,
        "You have too many requests in progress",
        "So many of your requests wait for a turn that one more would only wait longer.",
        "Wait until some are answered, and send fewer at once.",
        Retry.LATER,
    ),
    "rate_limited": ProblemType(
        429,
        "You have sent too many requests",
        "You have used up a limit on the number of your requests: reads and changes have one each. `detail` names the "
        "limit, and `RateLimit-Policy` has it.",
        "Wait for `Retry-After` seconds. `RateLimit` says how many requests are left: slow down before there are none.",
        Retry.LATER,
    ),
    "too_many_waiting": ProblemType(
        429,
        "You have too many requests that wait",
        "As many of your requests wait for a change, or follow events, as one user may have in one process.",
        "Wait until some of them have ended. One `GET /operations?id=A,B,C&wait=60` waits for many operations.",
        Retry.LATER,
    ),
    "too_many_failed_logins": ProblemType(
        429,
        "Too many logins have failed",
        "Logins to this account or from your address have failed too often. The delay grows with each failure.",
        "Wait for `Retry-After` seconds before you try again.",
        Retry.LATER,
    ),
}
