"""Reads the JSON body of a request. It takes only what every JSON reader understands in the same way."""

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from starlette.requests import Request

from api.web import threads
from api.web.origin import origin_of
from api.web.problems import ProblemError
from api.web.reading import Reading
from api.web.slots import NoSlotError, without_slot

# RFC 9110, section 5.6.6. The parser of the standard library is one for e-mail: it also knows `charset*0*=`, raises
# errors for some forms of it, and needs a second for thousands of semicolons.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*(?:({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*+"))?')
_TYPE = re.compile(
    rf"application/(?P<patch>merge-patch\+)?json(?P<parameters>(?:{_PARAMETER.pattern})*+)[ \t]*", re.IGNORECASE
)
_UTF_8 = {"utf-8", "utf8"}


T = TypeVar("T")
_LARGE = 8 * 1024  # bytes; to parse and check a megabyte may take as long as hundreds of requests


async def read(request: Request, check: Callable[[Any], T]) -> T:
    """Return what `check` makes of the parsed body, None if there is none; ProblemError if it is not plain JSON.

    A large body waits for its turn: a thread reads one at a time, and the event loop goes on meanwhile. NoSlotError if
    too many wait, if it takes too long, or if the client has left meanwhile.
    """
    body = await request.body()
    if not body:
        return check(None)
    _check_headers(request, is_patch=request.method == "PATCH")
    if len(body) <= _LARGE:
        return check(_parse(body))
    reading: Reading = request.app.state.vmapi.reading
    caller, rank = request.scope["slot_caller"]
    turn = reading.turn(caller, rank, origin_of(request.scope), len(body))
    async with without_slot(request.scope), turn:
        if await request.is_disconnected():  # the bodies of many that do not wait would keep all others waiting
            raise NoSlotError("overloaded")
        return await threads.call(lambda: check(_parse(body)))


def _check_headers(request: Request, *, is_patch: bool) -> None:
    encodings = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    if any(encoding.strip() not in {"", "identity"} for encoding in encodings):
        detail = "Send the body as it is, without compression and without the header Content-Encoding."
        raise ProblemError("unsupported_encoding", detail)
    media_type = request.headers.get("content-type", "text/plain")
    if media_type == "application/json":
        return  # most clients write exactly this, which needs no parser
    json_type = _TYPE.fullmatch(media_type)
    if not json_type or (json_type["patch"] and not is_patch):
        others = " or application/merge-patch+json" if is_patch else ""
        detail = f"Send the body as JSON, with the header Content-Type: application/json{others}."
        raise ProblemError("unsupported_media_type", detail)
    parameters = _PARAMETER.findall(json_type["parameters"])
    if not {value.strip('"').lower() for name, value in parameters if name.lower() == "charset"} <= _UTF_8:
        raise ProblemError("unsupported_media_type", "Send the body in UTF-8, the only encoding of JSON.")


def _parse(body: bytes) -> Any:
    try:
        # A byte order mark is no part of JSON, but a reader may skip it (RFC 8259, section 8.1).
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        # `error.msg` is one of the parser's few texts, and holds nothing of the body.
        reason = f"The body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}."
    except UnicodeDecodeError:
        reason = "The body is not JSON: it is not UTF-8."
    except RecursionError:
        reason = "The body is nested too deeply."
    except ValueError:  # Python converts no more than 4,300 digits, because the time grows with their square
        reason = "A number in the body has too many digits."
    raise ProblemError("malformed_body", reason)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these members; ProblemError if two have one name.

    JSON does not say which of them counts. A proxy that reads the first would check another request than the one that
    is carried out.
    """
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ProblemError("malformed_body", "An object in the body has two members with the same name.")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ProblemError("malformed_body", f"The body is not JSON: {name} is no JSON value.")
