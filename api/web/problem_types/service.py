"""Problems of the service itself and of what it depends on."""

from typing import Final

from api.web.problem_types.entry import ProblemType, Retry

SERVICE: Final = {
    "internal_error": ProblemType(
        500,
        "The service has a bug",
        "The service did not expect this to happen. Its log has the reason under the `request_id`.",
        "Report the `request_id` to the operator. Before you send a change again, look whether it took effect.",
        Retry.WITH_KEY,
    ),
    "api_unavailable": ProblemType(
        503,
        "The API does not answer",
        "Only a proxy in front of the service says this. It reaches no process of the API, or one has ended before it "
        "answered, or takes too long.",
        "Wait for `Retry-After` seconds, and send the request again with its `Idempotency-Key`. If it goes on, tell "
        "the operator.",
        Retry.WITH_KEY,
    ),
    "cloud_unavailable": ProblemType(
        503,
        "The cloud does not answer",
        "The request needs an answer of the cloud at once, and the cloud could not be reached or failed.",
        "Wait for `Retry-After` seconds, and send the request again.",
        Retry.LATER,
    ),
    "worker_unavailable": ProblemType(
        503,
        "No worker has answered",
        "The request needs a worker of the service at once. None runs, all are busy, or Temporal cannot be reached.",
        "Wait for `Retry-After` seconds, and send the request again. If it goes on, tell the operator.",
        Retry.LATER,
    ),
    "identity_provider_unavailable": ProblemType(
        503,
        "The identity provider does not answer",
        "The token seems to be the identity provider's, whose keys could not be read, so it cannot be checked.",
        "Wait for `Retry-After` seconds, and send the request again. If it goes on, tell the operator.",
        Retry.LATER,
    ),
    "overloaded": ProblemType(
        503,
        "The service has too many requests",
        "All clients together have more requests or connections than the service serves.",
        "Wait for `Retry-After` seconds, and send the request again. Wait longer after each refusal.",
        Retry.LATER,
    ),
    "search_too_slow": ProblemType(
        503,
        "The list takes too long",
        "The service ends a list that takes longer than three seconds. It has to look at too many items, or has too "
        "much to do at the moment. A filter only by what is missing, such as `!key` or `key!=value`, looks at all "
        "items of all projects that you may read.",
        "Name one project with `project_id`, ask for labels that the items have, or give a longer part of the name. "
        "Or wait for `Retry-After` seconds: when the service has less to do, the same request may succeed.",
        Retry.LATER,
    ),
    "database_unavailable": ProblemType(
        503,
        "The database cannot do this now",
        "The database could not be reached, or ended the connection while it served the request.",
        "Wait for `Retry-After` seconds, and send the request again with its `Idempotency-Key`.",
        Retry.WITH_KEY,
    ),
    "not_ready": ProblemType(
        503,
        "The process is not ready",
        "PostgreSQL or Temporal does not answer this process; `checks` says which. Only readiness checks get this.",
        "Send requests to another process until the check succeeds. Accepted operations are not lost.",
        Retry.LATER,
    ),
    "shutting_down": ProblemType(
        503,
        "The process is shutting down",
        "The process that served the request ends, and had no time to finish. It closes the connection.",
        "Send the request again with its `Idempotency-Key`. Another process serves it.",
        Retry.WITH_KEY,
    ),
}
