"""HTTP/1.1 (RFC 9112) to WSGI (PEP 3333) and back, without a socket; bodies are in body.py."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import SimpleNamespace
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
_OURS = frozenset({"connection", "transfer-encoding"})
# Tunnels are not dug: what follows a CONNECT would be no request.
_LINE = re.compile(rb"(?!CONNECT )([A-Z-]+) ([!-~]+) HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(rb"[^\r\n]* HTTP/[2-9]\.[0-9]\r\n")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?][^#]*|)", re.IGNORECASE)


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

    ``length`` is that of the body in bytes; None where it comes in chunks.
    """

    environ: Environ
    length: int | None
    keep_alive: bool
    expects_continue: bool

    def give_body(self, body: Any, size: int) -> None:
        """Set the body, of which ``size`` bytes have come, decoded (RFC 9112, 7.1.3)."""
        self.environ["wsgi.input"] = body
        if self.length is None:
            self.environ["CONTENT_LENGTH"] = str(size)
            self.environ.pop("HTTP_TRANSFER_ENCODING")
            self.environ.pop("HTTP_TRAILER", None)


def check_unfinished_head(data: bytes | bytearray, limits: Limits) -> None:
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
    headers: list[tuple[bytes, bytes]] = []
    found = SimpleNamespace(on_header=lambda *header: headers.append(header))
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an offer, which is not taken
    except httptools.HttpParserError as error:
        raise Refused(400, f"The request is not HTTP: {error}.") from None
    # httptools also takes RTSP, line ends before the line, and many blanks for one.
    line = _LINE.match(data)
    if line is None:
        status = 505 if _OTHER_VERSION.match(data) else 400
        raise Refused(status, "The request line is not a method, a target and HTTP/1.0 or 1.1.")
    method, target, minor = line.groups()
    version = "HTTP/1.1" if minor == b"1" else "HTTP/1.0"
    environ = base.copy()
    environ["REQUEST_METHOD"] = method.decode("ascii")
    environ["SERVER_PROTOCOL"] = version
    _add_headers(environ, headers, limits)
    _add_target(environ, target)
    if version == "HTTP/1.1" and "HTTP_HOST" not in environ:
        raise Refused(400, "The request names no host.")
    expectation = environ.get("HTTP_EXPECT")
    if expectation is not None and expectation.lower() != "100-continue":
        raise Refused(417, "The only expectation that is met is 100-continue.")
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and version == "HTTP/1.0":
        raise Refused(400, "HTTP/1.0 has no Transfer-Encoding.")
    if coding is not None and coding.lower() != "chunked":
        raise Refused(501, "The only Transfer-Encoding that is understood is chunked.")
    return Request(
        environ=environ,
        length=int(environ.get("CONTENT_LENGTH", 0)) if coding is None else None,
        keep_alive=_may_follow_another(version, environ.get("HTTP_CONNECTION")),
        expects_continue=expectation is not None and version == "HTTP/1.1",
    )


def _may_follow_another(version: str, connection: str | None) -> bool:
    """Say whether the client lets the connection go on after the answer (RFC 9112, 9.3).

    Not httptools' own judgement: it has forgotten the headers once it has seen their end.
    """
    if connection is None:
        return version == "HTTP/1.1"
    options = {option.strip(" \t") for option in connection.lower().split(",")}
    return "close" not in options and (version == "HTTP/1.1" or "keep-alive" in options)


def _add_headers(environ: Environ, headers: list[tuple[bytes, bytes]], limits: Limits) -> None:
    if len(headers) > limits.headers:
        raise Refused(431, f"The request has more than {limits.headers} headers.")
    for raw_name, raw_value in headers:
        if len(raw_name) + len(raw_value) > limits.header:
            raise Refused(431, f"A header is longer than {limits.header} bytes.")
        if b"_" in raw_name:
            continue  # to WSGI it would be the same as a name with a dash
        name = _name_in_environ(raw_name)
        value = raw_value.decode("latin-1").strip(" \t")
        if name in environ:
            if name in _ONLY_ONCE:
                raise Refused(400, "A header is given twice that can stand but once.")
            value = f"{environ[name]},{value}"
        environ[name] = value


@lru_cache(maxsize=256)  # clients send the same names all the time
def _name_in_environ(name: bytes) -> str:
    prefixed = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
    return _UNPREFIXED.get(prefixed, prefixed)


def _add_target(environ: Environ, target: bytes) -> None:
    environ["RAW_URI"] = environ["REQUEST_URI"] = target.decode("ascii")
    if target[:1] != b"/" and (target != b"*" or environ["REQUEST_METHOD"] != "OPTIONS"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(400, "The request's target is neither a path nor a URL of this service.")
        environ["HTTP_HOST"] = absolute[1].decode("ascii")
        target = absolute[2] if absolute[2][:1] == b"/" else b"/" + absolute[2]
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


@lru_cache(maxsize=1)
def _format_date(second: int) -> str:
    return formatdate(second, usegmt=True)


@dataclass
class Answer:
    """One answer on its way: WSGI's ``start_response``, and the bytes that come of it.

    ``send`` sends bytes, or keeps them where the client is slow, and then returns True.
    ``status``, ``headers`` and ``sent`` (bytes of body) are also what gunicorn's access log reads.
    ``keep_alive`` says whether the connection may go on: as the client wishes, until the head is
    written; ``may_go_on`` is asked then. ``result`` is the application's, ``parts`` what is left
    of it; all of it runs in ``context``, on whichever thread.
    """

    send: Callable[[bytes], bool]
    method: str
    protocol: str
    keep_alive: bool
    may_go_on: Callable[[], bool]
    status: str = "500 Internal Server Error"
    headers: Headers = field(default_factory=list)
    sent: int = 0
    head_sent: bool = False
    result: Any = None
    parts: Iterator[bytes] | None = None
    context: Context = field(default_factory=copy_context)
    began: float = field(default_factory=time.monotonic)
    _started: bool = False
    _dated: bool = False  # by the application
    _announced: int | None = None  # bytes of body
    _bodiless: bool = False
    _chunked: bool = False

    def start(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], bool]:
        """Take status and headers (PEP 3333's ``start_response``)."""
        if self.head_sent and exc_info:
            raise exc_info[1]
        if self._started and not exc_info:
            raise RuntimeError("The answer has been started before.")
        self._announced, self._dated = None, False
        for given, value in headers:
            name = given.lower()
            if name == "content-length":
                self._announced = int(value)
            elif name == "date":
                self._dated = True
            elif name in _OURS:
                raise ValueError(f"It is the server that says {given}.")
        self._started, self.status, self.headers = True, status, headers
        self._bodiless = self.method == "HEAD" or status[:3] in _WITHOUT_BODY
        self._chunked = self._announced is None and not self._bodiless
        if self._chunked and self.protocol == "HTTP/1.0":
            self._chunked = self.keep_alive = False  # the end of the connection ends the body
        return self.write

    def write(self, data: bytes) -> bool:
        """Send a part of the body, and the head before the first; return what ``send`` does."""
        if self._bodiless or not data:
            return False
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
        return self.send(data)

    def write_all(self, parts: Iterator[bytes]) -> bool:
        """Send all parts of the body, and what ends it; return True where the client is slow.

        The rest of the parts is then left for another call, once the client has caught up.
        """
        for part in parts:
            if self.write(part):
                return True
        if not self.head_sent:
            self.send(self._head() + (b"0\r\n\r\n" if self._chunked else b""))
        elif self._chunked:
            self.send(b"0\r\n\r\n")
        if not self._bodiless and self._announced not in (None, self.sent):
            self.keep_alive = False  # the client waits for more: it must see an end
        return False

    def refuse(self, refused: Refused) -> None:
        """Send, in place of the application's answer, what went wrong."""
        self.status, self.headers, self.keep_alive = f"{refused.status} ", [], False
        data = make_refusal(refused)
        end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        self.head_sent = True
        self.send(data[:end] if self.method == "HEAD" else data)

    def _head(self) -> bytes:
        if not self._started:
            raise RuntimeError("The answer has no status and no headers.")
        self.keep_alive = self.keep_alive and self.may_go_on()
        lines = [f"HTTP/1.1 {self.status}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines.append("Connection: keep-alive" if self.keep_alive else "Connection: close")
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        if not self._dated:
            lines.append(f"Date: {_format_date(int(time.time()))}")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("A header of the answer holds a line end.")
        data = f"{text}\r\n\r\n".encode("latin-1")
        self.head_sent = True
        return data


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
    retry = "Retry-After: 5\r\n" if refused.status == 503 else ""
    head = (
        f"HTTP/1.1 {refused.status} {title}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"X-Request-ID: {problem['request_id']}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Date: {_format_date(int(time.time()))}\r\n"
        f"{retry}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
