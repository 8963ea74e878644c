"""Cuts the bytes of a connection into requests, one at a time; llhttp parses each of them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httptools

from api.server import heads
from api.server.heads import Fields, RefusedError

MAX_EMPTY = 64  # bytes of empty lines before a head
MAX_FRAMING = 16 * 1024  # bytes of the chunk sizes, chunk extensions and trailers of one body

Address = tuple[str, int | None]
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)


@dataclass(slots=True)
class Request:
    """What the head of a request says."""

    method: str
    version: str
    path: bytes
    query: bytes
    fields: Fields
    is_kept_alive: bool
    expects_continue: bool  # the client sends its body only after the answer 100
    size: int  # bytes of the head

    def scope(self, client: Address | None, server: Address | None, state: dict[str, Any]) -> Any:
        """The request as ASGI describes it."""
        path = self.path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version,
            "server": server,
            "client": client,
            "scheme": "http",
            "method": self.method,
            "root_path": "",
            "path": _decoded(path) if "%" in path else path,
            "raw_path": self.path,
            "query_string": self.query,
            "headers": self.fields,
            "state": state,
        }


class Reader:
    """Reads requests: `take_head` until it returns one, then `take_body` until `is_complete`.

    The parser never gets more than one request, because it does not say where in its input a request ends.
    """

    def __init__(self, on_body: Callable[[bytes], None]) -> None:
        self.on_body = on_body  # called by the parser with each part of a body, without its chunk framing
        self.part_of_head = bytearray()
        self.is_complete = False
        self._parser = httptools.HttpRequestParser(self)
        self._fields: Fields = []
        self._skipped = 0  # bytes of empty lines before a head
        self._is_in_trailers = self._has_trailers = False
        self._is_kept_alive = False
        self._body_left: int | None = 0  # None if the body is chunked
        self._chunk_left = 0
        self._chunk_line = b""  # the line between two chunks, as far as it was received
        self._framing = 0

    def take_head(self, data: bytes) -> tuple[Request | None, bytes]:
        """Take a part of a head; returns the request if the head is complete, and the bytes that follow it.

        A few empty lines before a head are allowed.
        """
        part = self.part_of_head
        checked = len(part)
        if not checked:
            begun = data.lstrip(b"\r\n")
            self._skip(len(data) - len(begun))
            data = begun
        part += data
        end = part.find(heads.END, max(0, checked - len(heads.END) + 1))
        if end >= 0:
            end += len(heads.END)
            head, rest = bytes(part[:end]), bytes(part[end:])
            part.clear()
            self._skipped = 0
            return self._parse_head(head), rest
        if part:
            heads.check_part(part, checked)
        return None, b""

    def take_body(self, data: bytes) -> bytes:
        """Take a part of a body; returns what follows it."""
        if self._body_left is None:
            return self._take_chunks(data)
        part, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(part)
        self._feed(part)
        return rest

    def close(self) -> None:
        """Let go of the parser, which refers to this reader, and of what the reader refers to."""
        del self._parser, self.on_body
        self.part_of_head.clear()

    # What the parser calls, beside `on_body`.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head. Trailers are dropped, because they may claim what a proxy has not checked."""
        if self._is_in_trailers:
            self._has_trailers = True
        else:
            self._fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Note what the parser knows at this moment only."""
        self._is_in_trailers = True
        self._is_kept_alive = self._parser.should_keep_alive()

    def on_chunk_header(self) -> None:
        """Note the size of the chunk that follows; the parser has checked that it is a number."""
        self._chunk_left = int(self._chunk_line.partition(b";")[0], 16)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self.is_complete = True

    def _skip(self, size: int) -> None:
        self._skipped += size
        if self._skipped > MAX_EMPTY:
            raise heads.malformed("it begins with empty lines")

    def _parse_head(self, head: bytes) -> Request:
        method, target, version = heads.request_line(head)
        path, query = heads.path_and_query(method, target)
        self._start_message()
        try:
            self._feed(head)
        except httptools.HttpParserUpgrade:
            self._replace_parser()
            self._start_message()
            self._feed(heads.without_upgrade(head))
        fields, self._fields = self._fields, []  # an idle connection does not keep them
        values = dict(fields)
        self._body_left = heads.length_of_body(version, fields, values)
        if len(values) < len(fields):
            fields = heads.combined(fields)
        is_modern = version != b"1.0"
        return Request(
            method.decode(),
            version.decode(),
            path,
            query,
            fields,
            is_kept_alive=is_modern and self._is_kept_alive,
            expects_continue=is_modern and values.get(b"expect", b"").lower() == b"100-continue",
            size=len(head),
        )

    def _replace_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._has_trailers = False

    def _start_message(self) -> None:
        if self._has_trailers:  # the parser obeys a `Connection: close` among them, and takes no further request
            self._replace_parser()
        self._fields = []
        self._is_in_trailers = self.is_complete = False
        self._chunk_left = self._framing = 0
        self._chunk_line = b""

    def _take_chunks(self, data: bytes) -> bytes:
        """Take a part of a chunked body; returns what follows it.

        A chunked body ends with the LF of its last line, and the parser must get nothing after that. So it gets the
        lines between the chunks one by one.
        """
        start = 0
        while start < len(data) and not self.is_complete:
            if self._chunk_left:
                end = min(start + self._chunk_left, len(data))
                self._chunk_left -= end - start
                self._feed(data[start:end])
            else:
                end = data.find(b"\n", start) + 1 or len(data)
                self._take_line(data[start:end])
            start = end
        return data[start:]

    def _take_line(self, part: bytes) -> None:
        self._framing += len(part)
        if self._framing > MAX_FRAMING:
            detail = f"The chunk sizes, chunk extensions and trailers of a body have at most {MAX_FRAMING} bytes."
            raise RefusedError("body_too_large", detail)
        self._chunk_line += part
        self._feed(part)
        if part.endswith(b"\n"):
            self._chunk_line = b""

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            raise RefusedError("not_implemented", "This server does not know the method of the request.") from None
        except httptools.HttpParserError as error:
            raise heads.malformed(str(error)) from None


def may_change(scope: Any) -> bool:
    """Whether a request may change something, so that its client needs the answer; no if it is refused already."""
    return scope["method"] not in {"GET", "HEAD"} and not scope.get("is_refused")


def _decoded(path: str) -> str:
    """The path without percent-encoding, except that of a slash.

    An encoded slash separates nothing (RFC 3986, section 2.2). If it did, `/api/v1%2Fadmin` would lead around a proxy
    that keeps strangers from `/api/v1/admin`.
    """
    return unquote(_ENCODED_SLASH.sub("%252F", path))
