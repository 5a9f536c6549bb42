"""HTTP/1.1 (RFC 9112) to WSGI (PEP 3333) and back, without sockets."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import httptools

Environ: TypeAlias = dict[str, Any]

END_OF_HEAD = b"\r\n\r\n"
LONGEST_LINE = 8190  # bytes of a request line, as gunicorn's own workers allow at most
LARGEST_HEAD = 65_536  # bytes of a request line with its headers
MOST_HEADERS = 100
# If these came twice, this server could believe one of them and a proxy the other.
_ONLY_ONCE = frozenset({"HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_EXPECT", "CONTENT_TYPE"})
_WITHOUT_PREFIX = {"HTTP_CONTENT_TYPE": "CONTENT_TYPE", "HTTP_CONTENT_LENGTH": "CONTENT_LENGTH"}
# CONNECT is refused: what follows it is not HTTP.
_REQUEST_LINE = re.compile(rb"(?!CONNECT )([A-Z-]+) ([!-~]+) (HTTP/1\.[01])\r\n")
format_date = lru_cache(1)(partial(formatdate, usegmt=True))  # of a second: takes 2 of 150 µs
_ABSOLUTE_URL = re.compile(r"https?://([^/?#@]+)([/?][^#]*|)", re.IGNORECASE)


class Refused(Exception):
    """The server answers a request itself, with an error, and then closes the connection."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass
class Request:
    """A request's head as a WSGI environ; ``length`` of its body in bytes, None if chunked."""

    environ: Environ
    length: int | None
    keep_alive: bool
    expects_continue: bool

    def set_body(self, file: Any, size: int) -> None:
        """Set the decoded body, of which ``size`` bytes have arrived (RFC 9112, 7.1.3)."""
        self.environ["wsgi.input"] = file
        if self.length is None:
            self.environ["CONTENT_LENGTH"] = str(size)
            del self.environ["HTTP_TRANSFER_ENCODING"]
            self.environ.pop("HTTP_TRAILER", None)


def check_head_size(data: bytes | bytearray) -> None:
    """Raise Refused if a head, which may be incomplete, is too large."""
    if len(data) > LONGEST_LINE and data.find(b"\r\n", 0, LONGEST_LINE + 2) < 0:
        raise Refused(414, f"The request line is longer than {LONGEST_LINE} bytes.")
    if len(data) > LARGEST_HEAD:
        raise Refused(431, f"The headers are longer than {LARGEST_HEAD} bytes.")


def parse_head(data: bytes, base: Environ) -> Request:
    """Return the request that a complete head, up to its empty line, describes.

    ``base`` is the part of the environ that all requests of a connection share. Raises Refused.
    """
    check_head_size(data)
    headers: list[tuple[bytes, bytes]] = []
    events = SimpleNamespace(on_header=lambda *header: headers.append(header))
    try:
        httptools.HttpRequestParser(events).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # the client offers another protocol, which a server may ignore
    except httptools.HttpParserError as error:
        raise Refused(400, f"The request is not valid HTTP: {error}.") from None
    # httptools also accepts RTSP, line ends before the line, and several blanks in a row.
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise Refused(400, "The request line is not a method, a target and HTTP/1.0 or HTTP/1.1.")
    method, target, version = map(bytes.decode, line.groups())
    environ = {**base, "REQUEST_METHOD": method, "SERVER_PROTOCOL": version}
    _add_headers(environ, headers)
    _add_target(environ, target)
    if version == "HTTP/1.1" and "HTTP_HOST" not in environ:
        raise Refused(400, "The request has no Host header.")
    expectation = environ.get("HTTP_EXPECT")
    if expectation is not None and expectation.lower() != "100-continue":
        raise Refused(417, "The only supported expectation is 100-continue.")
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and version == "HTTP/1.0":
        raise Refused(400, "HTTP/1.0 has no Transfer-Encoding.")
    if coding is not None and coding.lower() != "chunked":
        raise Refused(501, "The only supported Transfer-Encoding is chunked.")
    # RFC 9112, 9.3. httptools has forgotten the header once the head has ended.
    options = {option.strip() for option in environ.get("HTTP_CONNECTION", "").lower().split(",")}
    return Request(
        environ=environ,
        length=int(environ.get("CONTENT_LENGTH", 0)) if coding is None else None,
        keep_alive="close" not in options and (version == "HTTP/1.1" or "keep-alive" in options),
        expects_continue=expectation is not None and version == "HTTP/1.1",
    )


def _add_headers(environ: Environ, headers: list[tuple[bytes, bytes]]) -> None:
    if len(headers) > MOST_HEADERS:
        raise Refused(431, f"The request has more than {MOST_HEADERS} headers.")
    for raw_name, raw_value in headers:
        if b"_" in raw_name:
            continue  # WSGI could not tell it from the name with a dash
        name = "HTTP_" + raw_name.decode("ascii").upper().replace("-", "_")
        name = _WITHOUT_PREFIX.get(name, name)
        value = raw_value.decode("latin-1").strip(" \t")
        if name in environ:
            if name in _ONLY_ONCE:
                raise Refused(400, f"The header {raw_name.decode('ascii')} is given twice.")
            value = f"{environ[name]},{value}"
        environ[name] = value


def _add_target(environ: Environ, target: str) -> None:
    environ["RAW_URI"] = environ["REQUEST_URI"] = target
    if not target.startswith("/") and (target, environ["REQUEST_METHOD"]) != ("*", "OPTIONS"):
        absolute = _ABSOLUTE_URL.fullmatch(target)
        if absolute is None:
            raise Refused(400, "The request's target is neither a path nor an http URL.")
        environ["HTTP_HOST"], target = absolute.groups()
        target = target if target.startswith("/") else f"/{target}"
    path, _, query = target.partition("#")[0].partition("?")
    environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1")
    environ["QUERY_STRING"] = query


class Response:
    """One response: ``start_response`` and ``write`` of WSGI, and their bytes in HTTP.

    ``send`` sends bytes, or keeps them and returns True while the client is slow to take them.
    The application runs in ``context``, on whichever thread; ``result`` is what it returned and
    ``parts`` the rest of that. gunicorn's own Response blocks, and takes 7 µs more.
    """

    def __init__(self, request: Request, send: Callable[[bytes], bool]) -> None:
        self.keep_alive = request.keep_alive  # may change until the head is sent
        self.head_sent = False
        self.result: Any = None
        self.parts: Iterator[bytes] | None = None
        self.context = copy_context()
        self._send = send
        self._method = request.environ["REQUEST_METHOD"]
        self._is_http_10 = request.environ["SERVER_PROTOCOL"] == "HTTP/1.0"
        self._status: str | None = None
        self._headers: list[tuple[str, str]] = []
        self._length: int | None = None  # of the body, as the application announced it
        self._written = 0  # bytes of the body
        self._omits_body = self._is_chunked = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], bool]:
        """Set status and headers (``start_response`` of PEP 3333); return ``write``."""
        if self.head_sent and exc_info:
            raise exc_info[1]
        if self._status is not None and not exc_info:
            raise RuntimeError("The application has called start_response twice.")
        self._status, self._headers = status, headers
        return self.write

    def write(self, data: bytes) -> bool:
        """Send a part of the body, and the head before the first; return what ``send`` does."""
        head = b"" if self.head_sent else self._make_head()
        if self._omits_body:
            data = b""
        elif self._length is not None:
            data = data[: self._length - self._written]
        self._written += len(data)
        if self._is_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if len(data) > 65_536:  # bytes: more are not copied
            self._send(head)
            head = b""
        return self._send(head + data)

    def write_all(self, parts: Iterator[bytes]) -> bool:
        """Send all parts of the body and end the response.

        Returns True if the client is slow: call it again with the rest once everything is sent.
        """
        for part in parts:
            if part and self.write(part):
                return True
        end = b"" if self.head_sent else self._make_head()
        self._send(end + b"0\r\n\r\n" if self._is_chunked else end)
        if not self._omits_body and self._length not in (None, self._written):
            self.keep_alive = False  # only this tells the client that the rest is missing
        return False

    def _make_head(self) -> bytes:
        """Return the head, and choose how the body is framed."""
        if self._status is None:
            raise RuntimeError("The application has not called start_response.")
        named = {name.lower(): value for name, value in self._headers}
        if named.keys() & {"connection", "transfer-encoding"}:
            raise ValueError("Connection and Transfer-Encoding are set by the server alone.")
        self._length = int(named["content-length"]) if "content-length" in named else None
        self._omits_body = self._method == "HEAD" or self._status[:3] in ("204", "304")
        self._is_chunked = self._length is None and not self._omits_body
        if self._is_chunked and self._is_http_10:
            self._is_chunked = self.keep_alive = False  # the connection's end ends the body
        lines = [f"HTTP/1.1 {self._status}"]
        lines += [f"{name}: {value}" for name, value in self._headers]
        lines.append(f"Connection: {'keep-alive' if self.keep_alive else 'close'}")
        if self._is_chunked:
            lines.append("Transfer-Encoding: chunked")
        if "date" not in named:
            lines.append(f"Date: {format_date(int(time.time()))}")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("The response's status or a header contains a line end.")
        data = f"{text}\r\n\r\n".encode("latin-1")
        self.head_sent = True
        return data


def make_problem(refused: Refused) -> bytes:
    """Return a whole response in the service's one shape of errors (RFC 9457)."""
    title, request_id = HTTPStatus(refused.status).phrase, os.urandom(16).hex()
    problem = {"type": "about:blank", "title": title, "status": refused.status}
    problem |= {"detail": refused.detail, "instance": "", "request_id": request_id}
    body = json.dumps(problem).encode() + b"\n"
    retry = "Retry-After: 5\r\n" if refused.status == 503 else ""
    head = (
        f"HTTP/1.1 {refused.status} {title}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"X-Request-ID: {request_id}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Date: {format_date(int(time.time()))}\r\n"
        f"{retry}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
