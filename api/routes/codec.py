"""Temporal's remote codec protocol, by which its Web UI and command line show admins what payloads say.

It is there only with TEMPORAL_PAYLOAD_KEYS, and no part of the OpenAPI document: Temporal has defined it for its own
tools, and sends what it likes (docs/operations.md).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from fastapi import Request, Response
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads

from api.routes import router
from api.web.dependencies import Admin, Process
from api.web.models import FieldError
from api.web.problems import ProblemError
from domain.payload_codec import EncryptingCodec, UnreadablePayloadError

routes = router("/codec", "codec")

Apply = Callable[[Sequence[Payload]], list[Payload]]


@routes.post("/encode", include_in_schema=False)
async def encode_payloads(_: Admin, process: Process, request: Request) -> Response:
    """Encrypt payloads, for a workflow that a person starts or signals."""
    return await _answer(_codec(process).encrypted, request)


@routes.post("/decode", include_in_schema=False)
async def decode_payloads(_: Admin, process: Process, request: Request) -> Response:
    """Decrypt payloads. Those that are not encrypted come back as they are."""
    return await _answer(_codec(process).decrypted, request)


def _codec(process: Process) -> EncryptingCodec:
    return cast("EncryptingCodec", process.temporal.data_converter.payload_codec)


async def _answer(apply: Apply, request: Request) -> Response:
    # A hundred thousand payloads take seconds. In a thread they do not stop other requests.
    answer = await asyncio.to_thread(_applied, apply, await request.body())
    return Response(answer, media_type="application/json")


def _applied(apply: Apply, body: bytes) -> str:
    try:
        # Fields of later versions are no reason to show nothing.
        asked = json_format.Parse(body, Payloads(), ignore_unknown_fields=True)
        answer = Payloads(payloads=apply(asked.payloads))
    except (json_format.ParseError, UnicodeDecodeError):
        detail = 'The body has another form than Temporal\'s remote codec protocol: {"payloads": [...]}.'
        raise ProblemError("malformed_body", detail) from None
    except UnreadablePayloadError as error:
        unreadable = FieldError(code="unreadable_payload", detail=str(error), pointer="#/payloads")
        raise ProblemError("validation_failed", str(error), [unreadable]) from None
    return json_format.MessageToJson(answer, indent=None)
