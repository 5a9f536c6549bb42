"""The Flask classes of this service, and what a request has: id, sender, host, whole body."""

from __future__ import annotations

import io
import random
import re
import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast

import flask
from flask import abort
from werkzeug.exceptions import ClientDisconnected, SecurityError
from werkzeug.routing import MapAdapter
from werkzeug.sansio.utils import get_content_length, host_is_trusted
from werkzeug.utils import cached_property
from werkzeug.wsgi import LimitedStream

from webapp.errors import ServiceError
from webapp.web.jsonio import OrjsonProvider

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# Keys in the WSGI environment, where code outside of Flask finds them too.
IDENTITY_KEY = "webapp.identity"
REQUEST_ID_KEY = "webapp.request_id"

PIECE = 64 * 1024  # bytes of a body that are read at a time
# The names of gzip (RFC 1952) and deflate (RFC 1950) in HTTP, and zlib's number for each.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
# Load balancers and Prometheus ask by address, whatever the trusted names.
ASKED_BY_ADDRESS = ("/health/", "/metrics")
# A name may hold an underscore, as those of containers do; a port may be empty (RFC 9110, 7.2).
_HOST = re.compile(r"(?:[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::[0-9]{0,5})?", re.IGNORECASE)
_NEEDLESS = re.compile(r"\.(?=:|$)|:$")  # the dot at a name's end, a colon without a port
_ADDRESS = re.compile(r"\[([^\]]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Request(flask.Request):
    """A request with the client's plain IP address, and a body that is never cut short."""

    def __init__(self, environ: WSGIEnvironment, *args: Any, **kwargs: Any) -> None:
        address = environ.get("REMOTE_ADDR") or ""
        if ":" in address:
            environ["REMOTE_ADDR"] = plain_address(address)
        super().__init__(environ, *args, **kwargs)

    @cached_property
    def stream(self) -> BinaryIO:
        """Return the unpacked body; also Werkzeug reads forms from it. Raises as ``open_body``."""
        return open_body(self.environ, cast(int, self.max_content_length))


class Application(flask.Flask):
    """Flask with this service's requests and JSON."""

    request_class = Request
    json_provider_class = OrjsonProvider
    behind_proxies: Callable[[Any], Any] = staticmethod(lambda application: application)
    """Wraps a WSGI application in what reads the headers of trusted proxies."""
    is_long: Callable[[dict[str, Any]], bool] = staticmethod(lambda environ: False)
    """Says whether a request may take seconds: the server gives those threads of their own."""

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """Return what matches the URL of a request; raises SecurityError for an untrusted host.

        Flask reads the host twice, and looks for what URL maps of several hosts need: 7 of 100 µs.
        """
        if request is None:
            return super().create_url_adapter(None)
        host = request.environ.get("HTTP_HOST", "")
        by_address = request.path.startswith(ASKED_BY_ADDRESS)
        names = None if by_address else self.config["TRUSTED_HOSTS"]
        valid = not host or _HOST.fullmatch(host)
        if not valid or (names and not host_is_trusted(_NEEDLESS.sub("", host.lower()), names)):
            raise SecurityError("The Host header is not a host name, or not one of this service.")
        return MapAdapter(
            self.url_map,
            server_name=host,
            script_name=request.root_path + "/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
        )

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return a view as it is: no view is a coroutine.

        Flask would check that 14 times in a prediction, which takes 12 of its 110 µs.
        """
        return func

    def takes_body(self, environ: dict[str, Any]) -> bool:
        """Say whether a request has a route and an API key for it, from its headers alone.

        The server asks before it receives a large body; without a key it answers at once.
        """
        return bool(self.behind_proxies(self._takes_body)(environ, None))

    def _takes_body(self, environ: dict[str, Any], _start_response: object) -> bool:
        with self.request_context(environ) as context:
            try:
                self.extensions.get("guard", lambda: None)()
            except ServiceError:
                return False
            return context.request.routing_exception is None


@lru_cache(maxsize=1024)
def plain_address(text: str) -> str:
    """Return the IP address that a socket or a proxy gave for a client.

    Removes the port that some proxies add (`198.51.100.7:40001`, `[2001:db8::1]:4711`), and
    returns an IPv4 address that came in IPv6 form as IPv4. Other text comes back unchanged.
    """
    found = _ADDRESS.fullmatch(text)
    try:
        address = ip_address(found[1] or found[2] if found else text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def find_request_id(environ: WSGIEnvironment) -> str:
    """Return the id of a request: the client's own where it is well-formed, else a new one.

    It stands in the answer's `X-Request-ID`, in every error and in the log.
    """
    found = environ.get(REQUEST_ID_KEY)
    if found is None:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        # Not secret, so no system call: `uuid4` would let another thread run first.
        found = given if _WELL_FORMED_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        environ[REQUEST_ID_KEY] = found
    return str(found)


def request_id() -> str:
    """Return the id of the current request."""
    return find_request_id(flask.request.environ)


@dataclass(frozen=True)
class Identity:
    """The holder of an API key."""

    key_id: str
    holder_id: str
    name: str
    scopes: frozenset[str]


def current_identity() -> Identity | None:
    """Return who sent the current request, as the guard found out; None without a valid key."""
    found: Identity | None = flask.request.environ.get(IDENTITY_KEY)
    return found


def check_client() -> None:
    """Raise ClientDisconnected where who sent the current request has closed the connection.

    Only a server that puts its socket into the environ, as gunicorn's workers do, can tell.
    """
    connection = flask.request.environ.get("gunicorn.socket")
    if connection is None:
        return
    try:
        closed = connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return
    except OSError:
        closed = True
    if closed:
        raise ClientDisconnected("The client has hung up.")


def open_body(environ: WSGIEnvironment, limit: int) -> BinaryIO:
    """Return the unpacked body of a request, of at most ``limit`` bytes.

    The stream never ends early without an error. Reading it raises 400 where the body is cut off
    or cannot be unpacked, and 413 beyond the limit. Opening it raises 411 for a body of unknown
    length, 413 for a Content-Length beyond the limit, and 415 for an unknown encoding.
    """
    encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() or "identity"
    if encoding != "identity" and encoding not in _WINDOW_BITS:
        abort(415, "The body must be sent without Content-Encoding, or as gzip or deflate.")
    source = environ["wsgi.input"]
    if transfer := environ.get("HTTP_TRANSFER_ENCODING"):
        if transfer.strip().lower() != "chunked" or not environ.get("wsgi.input_terminated"):
            abort(411, "The body must be sent with a Content-Length.")
        body = cast(BinaryIO, _Body(_read_chunks(source), limit))
    else:
        length = get_content_length(environ.get("CONTENT_LENGTH") or None) or 0
        if length > limit:
            _refuse_size(limit)
        is_whole = False
        if hasattr(source, "seekable") and source.seekable():
            start = source.tell()
            is_whole = source.seek(0, io.SEEK_END) - start == length
            source.seek(start)
        # Werkzeug's stream would copy a table in pieces of 64 kB: a quarter of a training's time.
        body = source if is_whole else cast(BinaryIO, LimitedStream(source, length))
    return body if encoding == "identity" else unpack(body, encoding, limit)


def unpack(packed: BinaryIO, encoding: str, limit: int) -> BinaryIO:
    """Return the content of a gzip or deflate stream, of at most ``limit`` bytes.

    Unpacks piece by piece: 1 MB that unpacks to 1 GB needs no more memory than any other body.
    Reading raises 400 where the bytes are damaged, cut off or followed by others, and 413 beyond
    the limit.
    """
    return cast(BinaryIO, _Body(_unpack(packed, encoding), limit))


def _refuse_size(limit: int) -> NoReturn:
    abort(413, f"The body is larger than the limit of {limit:,} bytes (unpacked).")


def _read_chunks(source: BinaryIO) -> Iterator[bytes]:
    try:
        while piece := source.read(PIECE):
            yield piece
    except Exception as error:  # each server has its own errors for malformed chunks
        raise ClientDisconnected("The body's chunks are malformed, or end early.") from error


def _unpack(packed: BinaryIO, encoding: str) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    fault = None
    try:
        while not unpacker.eof and not fault:
            piece = unpacker.unconsumed_tail or packed.read(PIECE)
            yield unpacker.decompress(piece, PIECE)
            fault = None if piece else "it ends early"
    except zlib.error:
        fault = "its bytes are damaged, or in another format"
    if not fault and (unpacker.unused_data or packed.read(1)):
        fault = "more bytes follow its end; compress everything as one stream"
    if fault:
        abort(400, f"The {encoding} body cannot be unpacked: {fault}.")


class _Body(io.RawIOBase):
    """A stream of pieces that raises 413 beyond a limit, where Werkzeug's would end silently."""

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._limit = self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override] # as Werkzeug's
        """Fill a buffer with the next bytes; return how many."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
            self._left -= len(piece)
            if self._left < 0:
                _refuse_size(self._limit)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
