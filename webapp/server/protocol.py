"""HTTP/1.1 (RFC 9112) to WSGI (PEP 3333) and back, without a socket.

Bodies come with a Content-Length. One in chunks is not read: the application refuses it (411),
and the connection ends with the answer.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import httptools

Environ: TypeAlias = dict[str, Any]
Headers: TypeAlias = list[tuple[str, str]]

END_OF_HEAD = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LARGEST_HEAD = 65_536  # bytes of a request's line and headers
MOST_JOINED = 65_536  # bytes of body that are sent in one go with the head
# Sent twice, one of them would be believed here and the other one by a proxy.
_ONLY_ONCE = frozenset({"HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_EXPECT", "CONTENT_TYPE"})
_UNPREFIXED = {"HTTP_CONTENT_TYPE": "CONTENT_TYPE", "HTTP_CONTENT_LENGTH": "CONTENT_LENGTH"}
_WITHOUT_BODY = ("204", "304")
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """The longest request line and header in bytes, and the most headers."""

    line: int
    header: int
    headers: int


class Refused(Exception):
    """Bytes that are no request which this server takes; the connection ends."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass
class Request:
    """A request's line and headers, as what they mean to WSGI; and how its body is framed.

    ``length`` is that of the body in bytes. ``chunked``: where it ends is not known.
    """

    environ: Environ
    length: int
    chunked: bool
    keep_alive: bool
    expects_continue: bool


class _Head:
    """Collects what the parser finds; the names of its methods are httptools'."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def check_unfinished_head(data: bytes, limits: Limits) -> None:
    """Raise Refused where the first bytes of a request can no longer become one."""
    if len(data) > limits.line and data.find(b"\r\n", 0, limits.line + 2) < 0:
        raise Refused(414, f"The request line is longer than {limits.line} bytes.")
    if len(data) > LARGEST_HEAD:
        raise Refused(431, f"The headers are longer than {LARGEST_HEAD} bytes.")


def parse_head(data: bytes, base: Environ, limits: Limits) -> Request:
    """Return the request that a whole head (up to its empty line) describes.

    ``base`` is what all requests of a listener have in common. Raises Refused.
    """
    check_unfinished_head(data, limits)
    head = _Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an offer, which is not taken
    except httptools.HttpParserError as error:
        raise Refused(400, f"The request is not HTTP: {error}.") from None
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        status = 400 if version == "0.9" else 505
        raise Refused(status, "The request is not HTTP/1.0 or HTTP/1.1.")
    # httptools lets more than one blank stand between the parts of the line.
    if data.count(b" ", 0, data.find(b"\r\n")) != 2:
        raise Refused(400, "The request line is not a method, a target and a version.")
    environ = base.copy()
    environ["REQUEST_METHOD"] = parser.get_method().decode("ascii")
    environ["SERVER_PROTOCOL"] = f"HTTP/{version}"
    _add_headers(environ, head.headers, limits)
    _add_target(environ, head.target)
    if version == "1.1" and "HTTP_HOST" not in environ:
        raise Refused(400, "The request names no host.")
    expectation = environ.get("HTTP_EXPECT")
    if expectation is not None and expectation.lower() != "100-continue":
        raise Refused(417, "The only expectation that is met is 100-continue.")
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    return Request(
        environ=environ,
        length=0 if chunked else int(environ.get("CONTENT_LENGTH", 0)),
        chunked=chunked,
        keep_alive=parser.should_keep_alive(),
        expects_continue=expectation is not None and version == "1.1",
    )


def _add_headers(environ: Environ, headers: list[tuple[bytes, bytes]], limits: Limits) -> None:
    if len(headers) > limits.headers:
        raise Refused(431, f"The request has more than {limits.headers} headers.")
    for raw_name, raw_value in headers:
        if len(raw_name) + len(raw_value) > limits.header:
            raise Refused(431, f"A header is longer than {limits.header} bytes.")
        if b"_" in raw_name:
            continue  # to WSGI it would be the same as a name with a dash
        name = "HTTP_" + raw_name.decode("ascii").upper().replace("-", "_")
        name = _UNPREFIXED.get(name, name)
        value = raw_value.decode("latin-1").strip(" \t")
        if name in environ:
            if name in _ONLY_ONCE:
                raise Refused(400, "A header is given twice that can stand but once.")
            value = f"{environ[name]},{value}"
        environ[name] = value


def _add_target(environ: Environ, target: bytes) -> None:
    environ["RAW_URI"] = environ["REQUEST_URI"] = target.decode("ascii")
    if target[:1] != b"/" and target != b"*":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(400, "The request's target is neither a path nor a URL of this service.")
        environ["HTTP_HOST"] = absolute[1].decode("ascii")
        target = absolute[2]
    path, _, query = target.partition(b"#")[0].partition(b"?")
    environ["PATH_INFO"] = (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1")
    environ["QUERY_STRING"] = query.decode("ascii")


def base_environ(name: str, port: int, *, multiprocess: bool) -> Environ:
    """Return what all requests to a listener have in common."""
    return {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "SERVER_SOFTWARE": "gunicorn",
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SCRIPT_NAME": "",
    }


class Clock:
    """The time as HTTP writes it, formatted once a second."""

    def __init__(self) -> None:
        self._second, self._text = 0, b""

    def date(self) -> bytes:
        """Return the value of a Date header."""
        now = int(time.time())
        if now != self._second:
            self._text = formatdate(now, usegmt=True).encode("ascii")
            self._second = now
        return self._text


_clock = Clock()


@dataclass
class Answer:
    """One answer on its way: WSGI's ``start_response``, and the bytes that come of it.

    ``send`` takes bytes to the client. ``status``, ``headers`` and ``sent`` (bytes of body) are
    also what gunicorn's access log reads. ``keep_alive`` says whether the connection may go on.
    """

    send: Callable[[bytes], None]
    method: str
    protocol: str
    keep_alive: bool
    status: str = "500 Internal Server Error"
    headers: Headers = field(default_factory=list)
    sent: int = 0
    head_sent: bool = False
    _announced: int | None = None  # bytes of body
    _bodiless: bool = False
    _chunked: bool = False

    def start(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Take status and headers (PEP 3333's ``start_response``)."""
        if self.head_sent:
            if exc_info:
                raise exc_info[1]
            raise RuntimeError("The answer has been started before.")
        self.status, self.headers = status, headers
        for name, value in headers:
            if name.lower() == "content-length":
                self._announced = int(value)
        self._bodiless = self.method == "HEAD" or status[:3] in _WITHOUT_BODY
        self._chunked = self._announced is None and not self._bodiless
        if self._chunked and self.protocol == "HTTP/1.0":
            self._chunked = self.keep_alive = False  # the end of the connection ends the body
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body, and before the first one the head."""
        if self._bodiless or not data:
            return
        if self._announced is not None:
            data = data[: self._announced - self.sent]
        self.sent += len(data)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if not self.head_sent:
            head = self._head()
            if len(data) > MOST_JOINED:
                self.send(head)
            else:
                data = head + data
        self.send(data)

    def write_all(self, parts: Iterable[bytes]) -> None:
        """Send all parts of the body, and what ends it."""
        for part in parts:
            self.write(part)
        if not self.head_sent:
            self.send(self._head() + (b"0\r\n\r\n" if self._chunked else b""))
        elif self._chunked:
            self.send(b"0\r\n\r\n")
        if not self._bodiless and self._announced not in (None, self.sent):
            self.keep_alive = False  # the client waits for more: it must see an end

    def _head(self) -> bytes:
        self.head_sent = True
        lines = [f"HTTP/1.1 {self.status}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines.append("Connection: keep-alive" if self.keep_alive else "Connection: close")
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("A header of the answer holds a line end.")
        return b"%b\r\nDate: %b\r\n\r\n" % (text.encode("latin-1"), _clock.date())


def make_refusal(refused: Refused) -> bytes:
    """Return the whole answer to what is no request, in the one shape of errors (RFC 9457)."""
    title = HTTPStatus(refused.status).phrase
    problem = {
        "type": "about:blank",
        "title": title,
        "status": refused.status,
        "detail": refused.detail,
        "instance": "",
        "request_id": os.urandom(16).hex(),
    }
    body = json.dumps(problem).encode() + b"\n"
    head = (
        f"HTTP/1.1 {refused.status} {title}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"X-Request-ID: {problem['request_id']}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
