"""The head of a request: its limits, its grammar (RFC 9112), and how the body after it ends.

llhttp parses the fields after these checks. Its present version and settings refuse the same requests, but earlier ones
accepted some of them. The expression below does not depend on its version.
"""

import re

MAX_HEAD = 32 * 1024  # bytes
USUAL_HEAD = 4 * 1024  # bytes; while a request is served, the part of its head beyond them counts as memory
MAX_PATH = 4 * 1024  # bytes; the longest of the service's paths is shorter, and each is decoded
MAX_FIELDS = 100
END = b"\r\n\r\n"

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_REQUEST_LINE = rb"(" + _TOKEN + rb") ([!\"$-~]++) HTTP/(\d\.\d)\r\n"
# A field's line can hold neither NUL nor a bare CR or LF, has no space before its colon and continues no other line.
_HEAD = re.compile(_REQUEST_LINE + rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+\r\n")
_FIRST_LINE = re.compile(_REQUEST_LINE)
_FIRST_BYTE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_UPGRADE = re.compile(rb"\r\n(?:[Uu][Pp][Gg][Rr][Aa][Dd][Ee]):[^\r]*")
_ABSOLUTE_FORM = re.compile(rb"https?://[^/?]+(/[^?]*)?(?:\?(.*))?", re.IGNORECASE)
# Of two such fields, one reader takes the first and another one the last, or both. llhttp knows this of Content-Length.
_ONCE = frozenset(
    (b"authorization", b"content-type", b"host", b"idempotency-key", b"last-event-id", b"transfer-encoding")
)
_LISTS = (b"if-match", b"if-none-match")
_LONGEST_LENGTH = 20  # digits of a Content-Length; Python converts no more than 4,300, and zeros may lead
_HOST_BYTES = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._~!$&'()*+,;=%:[]"

_VERSIONS = {b"1.0", b"1.1"}
Fields = list[tuple[bytes, bytes]]  # names are in lower case


class RefusedError(Exception):
    """A request that is refused before the application sees it; `code` is one of problem_types.PROBLEM_TYPES."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def malformed(what: str) -> RefusedError:
    """The refusal of a request that is not HTTP."""
    return RefusedError("malformed_request", f"This is not a valid HTTP request: {what}.")


def request_line(head: bytes) -> tuple[bytes, bytes, bytes]:
    """The method, target and version of a complete head; RefusedError if the head is not valid."""
    if len(head) > MAX_HEAD:
        raise _too_large(head)
    if head.count(b"\r\n") - 2 > MAX_FIELDS:
        raise RefusedError("head_too_large", f"A request has at most {MAX_FIELDS} header fields.")
    match = _HEAD.fullmatch(head)
    if not match:
        check_part(head, 0)
        raise malformed("a header field is wrong")
    method, target, version = match.groups()
    if version not in _VERSIONS:
        raise _unsupported_version()
    if method == b"CONNECT":  # llhttp would take what follows for a tunnel, and not for a body
        raise RefusedError("not_implemented", "This server is not a proxy: it does not know CONNECT.")
    return method, target, version


def check_part(head: bytes | bytearray, checked: int) -> None:
    """Raise RefusedError if an incomplete head is too large, or can no longer become a valid one.

    The first `checked` bytes were checked when they arrived. They are not checked again, because a head may arrive byte
    by byte.
    """
    if len(head) > MAX_HEAD:
        raise _too_large(head)
    if not _FIRST_BYTE.match(head):
        raise malformed("it begins with a byte that no method has; TLS is not spoken here")
    before = max(0, checked - 1)  # a line end may have arrived in two parts
    if head.count(b"\n", checked) > head.count(b"\r\n", before):
        raise malformed("a line ends with LF alone")
    has_ended_line = head.find(b"\n", checked) >= 0
    if has_ended_line and head.find(b"\n", 0, checked) < 0:
        match = _FIRST_LINE.match(head)
        if not match:
            raise malformed("the request line is wrong")
        if match[3] not in _VERSIONS:
            raise _unsupported_version()


def without_upgrade(head: bytes) -> bytes:
    """The head without its Upgrade fields, which a server may ignore (RFC 9110, section 7.8).

    llhttp stops at the end of a head that has one, and uvicorn then drops the body or reads it as the next request.
    """
    return _UPGRADE.sub(b"", head)


def length_of_body(version: bytes, fields: Fields, values: dict[bytes, bytes]) -> int | None:
    """The length of the body, None if it is chunked; RefusedError if a field about it, or Host, is wrong or repeated.

    llhttp refuses a wrong or repeated Content-Length, and one beside a Transfer-Encoding. `values` is a dictionary of
    the fields.
    """
    if len(values) < len(fields):
        _check_repetitions(fields)
    host = values.get(b"host")
    if host.translate(None, _HOST_BYTES) if host is not None else version != b"1.0":
        raise malformed("it needs exactly one valid Host field")
    coding = values.get(b"transfer-encoding")
    if coding is None:
        length = values.get(b"content-length", b"0")
        if len(length) > _LONGEST_LENGTH:
            raise malformed(f"its Content-Length has more than {_LONGEST_LENGTH} digits")
        return int(length)
    if version == b"1.0":
        raise malformed("HTTP/1.0 has no Transfer-Encoding")
    if coding.lower() != b"chunked":
        raise RefusedError("not_implemented", "The only Transfer-Encoding that this server knows is chunked.")
    return None


def _check_repetitions(fields: Fields) -> None:
    once = [name for name, _ in fields if name in _ONCE]
    for name in set(once):
        if once.count(name) > 1:
            raise malformed(f"it has the field {name.decode().title()} twice")


def combined(fields: Fields) -> Fields:
    """The fields, with one of each that is a list: a client may send its parts apart (RFC 9110, section 5.3)."""
    parts: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in _LISTS:
            parts.setdefault(name, []).append(value)
    others = [(name, value) for name, value in fields if name not in _LISTS]
    return others + [(name, b", ".join(values)) for name, values in parts.items()]


def path_and_query(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """The path and the query of a target in origin, absolute or asterisk form; RefusedError for any other."""
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
    elif target == b"*" and method == b"OPTIONS":
        path, query = target, b""
    else:
        match = _ABSOLUTE_FORM.fullmatch(target)
        if not match:
            raise malformed("the target of the request is wrong")
        path, query = match[1] or b"/", match[2] or b""
    if len(path) > MAX_PATH:
        raise RefusedError("uri_too_long", f"The path of a URL has at most {MAX_PATH} bytes.")
    return path, query


def _unsupported_version() -> RefusedError:
    return RefusedError("http_version_not_supported", "This server speaks HTTP/1.1 and HTTP/1.0.")


def _too_large(part: bytes | bytearray) -> RefusedError:
    if b"\r\n" not in part[:MAX_HEAD]:
        return RefusedError("uri_too_long", f"The URL of a request and its headers have at most {MAX_HEAD} bytes.")
    return RefusedError("head_too_large", f"The headers of a request have at most {MAX_HEAD} bytes.")
