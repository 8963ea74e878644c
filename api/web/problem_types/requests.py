"""Problems with the form of a request. It is refused before anybody looks at what it asks for."""

from typing import Final

from api.web.problem_types.entry import ProblemType, Retry

REQUESTS: Final = {
    "malformed_body": ProblemType(
        400,
        "The body is not valid JSON",
        "The body is not JSON in UTF-8, is nested too deeply, or has an object with two members of the same name.",
        "Write the body with a JSON library, and send it as UTF-8.",
        Retry.NO,
    ),
    "malformed_request": ProblemType(
        400,
        "The request is not valid HTTP",
        "The head or the chunks of the request break the rules of HTTP/1.1. The server closes the connection.",
        "Use an HTTP library. If you do, look for a proxy that changes requests.",
        Retry.NO,
    ),
    "preflight_refused": ProblemType(
        403,
        "A page of another origin may not send this request",
        "A browser asked whether a page of another origin may send a request. The origin, the method or a header of "
        "that request is not allowed; `detail` says which.",
        "Use a method and headers that `detail` allows. The operator can add an origin to `CORS_ALLOW_ORIGINS`.",
        Retry.NO,
    ),
    "method_not_allowed": ProblemType(
        405,
        "The path does not have this method",
        "The path exists, but not with the method of the request.",
        "Use a method that the header `Allow` names.",
        Retry.NO,
    ),
    "request_timeout": ProblemType(
        408,
        "The request took too long to arrive",
        "The server waited for the rest of the head or the body, and then closed the connection.",
        "Send the request again on a new connection. If it is long, look for a slow network or proxy.",
        Retry.LATER,
    ),
    "precondition_failed": ProblemType(
        412,
        "The resource has changed",
        "`If-Match` names an ETag that the resource no longer has. Nothing was done.",
        "Read the resource again, and decide anew.",
        Retry.AFTER_CHANGE,
    ),
    "body_too_large": ProblemType(
        413,
        "The body is too large",
        "The body has more bytes than the service reads. The longest legal body of every request is shorter.",
        "Send a smaller body.",
        Retry.NO,
    ),
    "query_too_long": ProblemType(
        414,
        "The query string is too long",
        "The part of the URL after the `?` has more bytes than the service reads.",
        "Send fewer or shorter parameters, in several requests if need be.",
        Retry.NO,
    ),
    "uri_too_long": ProblemType(
        414,
        "The URL is too long",
        "The URL has more bytes than the server reads. The server closes the connection.",
        "Send a shorter URL.",
        Retry.NO,
    ),
    "unsupported_encoding": ProblemType(
        415,
        "The body is compressed",
        "The header `Content-Encoding` says that the body is compressed, which the service does not accept.",
        "Send the body as it is, without `Content-Encoding`.",
        Retry.NO,
    ),
    "unsupported_media_type": ProblemType(
        415,
        "The body is not declared as JSON",
        "The header `Content-Type` is missing or names another media type or encoding.",
        "Send `Content-Type: application/json`.",
        Retry.NO,
    ),
    "unknown_parameter": ProblemType(
        422,
        "The path has no such query parameter",
        "The query string has a parameter that the path does not have. It is refused because a mistyped filter would "
        "otherwise select everything.",
        "Correct the name that `errors` shows, or leave the parameter out.",
        Retry.NO,
    ),
    "validation_failed": ProblemType(
        422,
        "The request does not have the expected form",
        "A field of the body, a parameter or a header is missing, unknown, of the wrong type or out of range. Each "
        "item of `errors` names its place, and has a `code` and a `detail`.",
        "Correct the places that `errors` names. It has at most 20 items.",
        Retry.NO,
    ),
    "invalid_cursor": ProblemType(
        422,
        "The cursor is not valid",
        "The `cursor` is not one that this list has returned in this order.",
        "Pass `next_cursor` of the page before, unchanged, with the same `sort`. Or begin again without a cursor.",
        Retry.NO,
    ),
    "page_too_deep": ProblemType(
        422,
        "Page numbers do not reach so far",
        "Page numbers reach the first 10,000 items of a list.",
        'Follow `Link: rel="next"`, or pass `next_cursor` as `cursor`. Cursors reach all items.',
        Retry.NO,
    ),
    "head_too_large": ProblemType(
        431,
        "The headers are too large",
        "The headers of the request have more bytes than the server reads, or are too many. The server closes the "
        "connection.",
        "Send fewer or shorter headers. Cookies of other services are a common reason.",
        Retry.NO,
    ),
    "not_implemented": ProblemType(
        501,
        "The server does not know the method",
        "The method of the request is not one of HTTP's, or is `CONNECT`.",
        "Use a method that the documentation names.",
        Retry.NO,
    ),
    "http_version_not_supported": ProblemType(
        505,
        "The server does not speak this version of HTTP",
        "The request is neither HTTP/1.1 nor HTTP/1.0.",
        "Send HTTP/1.1. A proxy in front of the service may speak others.",
        Retry.NO,
    ),
}
