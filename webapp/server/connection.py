"""One client's connection: what it has sent and what it is still to receive, without blocking."""

from __future__ import annotations

import io
import socket
import time
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import Any

import httptools

from webapp.server.protocol import (
    END_OF_HEAD,
    Environ,
    Refused,
    Response,
    check_head_size,
    parse_head,
)

RECEIVE = 65_536  # bytes asked for at once
IN_MEMORY = 65_536  # bytes of a body; a larger one is kept in a temporary file
REQUEST_DEADLINE = 15.0  # seconds for a request's head, and its body if small
# A large body and a response may take PATIENCE, and a second more for each SLOWEST bytes that
# pass; but the server never waits longer than PATIENCE for the next byte. 4 KiB/s is a poor
# mobile link; the defaults of Apache (500 B/s) and Kestrel (240 B/s) let a client stay for days.
PATIENCE = 30.0  # seconds
SLOWEST = 4096  # bytes per second
# Bytes that the kernel takes before it sends them. By default it takes megabytes, and a client
# that reads 4 KiB/s of them would seem to read nothing for minutes.
UNSENT_IN_KERNEL = 196_608
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


class ClientGone(BaseException):
    """The client has closed the connection; the application is not to handle that."""


class Body:
    """A large or chunked body while it arrives: ``size`` decoded bytes of it are in ``file``.

    ``length`` is its length in bytes; None if it is chunked and may have ``most`` bytes.
    """

    def __init__(self, *, length: int | None, most: int) -> None:
        self.file = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (end_request closes it)
        self.size = 0
        self.is_complete = False
        self.is_followed = False  # by bytes of which httptools does not say where they begin
        self._length, self._most = length, most
        self._left = 2 * most + IN_MEMORY  # bytes that a chunked body may take as it is sent
        if length is None:
            self._parser = httptools.HttpRequestParser(self)  # calls the methods named on_…
            self._parser.feed_data(_CHUNKED_HEAD)

    def take(self, received: bytearray) -> bool:
        """Move bytes out of a connection's buffer; return whether the body is complete.

        Raises Refused if chunks are malformed, the body is too long, or the disk is full.
        """
        try:
            if self._length is None:
                self._decode(received)
            else:
                piece = bytes(received[: self._length - self.size])
                del received[: len(piece)]
                self.on_body(piece)
                self.is_complete = self.size == self._length
        except OSError as error:
            raise Refused(507, "The server has no room for the body at the moment.") from error
        return self.is_complete

    def _decode(self, received: bytearray) -> None:
        self._left -= len(received)
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except httptools.HttpParserError as error:
            if not self.is_complete:
                raise Refused(400, f"The chunked body is malformed: {error}.") from None
            self.is_followed = True
        received.clear()
        if self.size > self._most or self._left < 0:
            raise Refused(413, f"The body is longer than {self._most} bytes.")

    def on_body(self, data: bytes) -> None:
        """Keep decoded bytes."""
        self.file.write(data)
        self.size += len(data)

    def on_message_complete(self) -> None:
        """Note the end of a chunked body."""
        self.is_complete = True


class Connection:
    """A client's connection, which only the thread that has taken it may use.

    ``seconds_left`` is the rest of the time that the client was allowed at ``since``. It ends at
    ``deadline`` while no thread has the connection.
    """

    def __init__(self, sock: socket.socket, base: Environ) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)
        self.fd = sock.fileno()
        self.has_ended = False  # the client sends no more
        self.is_lingering = False  # the last response has been sent
        self.keep_alive = True  # another request may follow
        self.request: Any = None  # the Request that is arriving or being answered, if any
        self.body: Body | None = None  # of the request, if large or chunked
        self.response: Response | None = None  # which has parts left
        self.unsent = memoryview(b"")  # what waits for a slow client
        self.deadline = 0.0
        self._sock, self._base = sock, {**base, "gunicorn.socket": sock}
        self._received = bytearray()
        self.allow(REQUEST_DEADLINE)

    @property
    def is_idle(self) -> bool:
        """Whether no part of a request has arrived."""
        return not self._received and self.request is None

    def allow(self, seconds: float) -> None:
        """Give the client so much time from now on."""
        self.since, self.seconds_left = time.monotonic(), seconds

    def receive(self) -> None:
        """Take what has arrived."""
        try:
            data = self._sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.has_ended = not data
        if self.is_lingering:
            return
        if self.is_idle:
            self.allow(REQUEST_DEADLINE)  # from the first byte on; no later one renews it
        self._received += data
        if self.body is not None:
            self._allow_more(len(data))

    def read_request(self) -> bool:
        """Parse what has arrived; return whether the application is to be called.

        It is if the request is complete, or has a large or chunked body for which ``open_body``
        has not been called: it then has no ``wsgi.input`` yet. Raises Refused and ClientGone.
        """
        if self.request is None and not self._read_head():
            return False
        request, body, length = self.request, self.body, self.request.length
        if body is not None:
            if body.take(self._received):
                body.file.seek(0)
                request.set_body(body.file, body.size)
                request.keep_alive = request.keep_alive and not body.is_followed
                return True
        elif length is None or length > max(len(self._received), IN_MEMORY):
            return True
        elif length <= len(self._received):
            request.set_body(io.BytesIO(self._received[:length]), length)
            del self._received[:length]
            return True
        if self.has_ended:
            raise Refused(400, "The body is cut off.")
        if request.expects_continue and not self._received:
            request.expects_continue = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return False

    def _read_head(self) -> bool:
        begin = 2 if self._received[:2] == b"\r\n" else 0  # RFC 9112, 2.2
        end = self._received.find(END_OF_HEAD, begin) + len(END_OF_HEAD)
        if end < len(END_OF_HEAD):
            check_head_size(self._received)
            return False
        self.request = parse_head(bytes(self._received[begin:end]), self._base)
        del self._received[:end]
        return True

    def open_body(self, *, most: int) -> None:
        """Begin to take a large body, or a chunked one of at most ``most`` bytes."""
        self.body = Body(length=self.request.length, most=most)
        self.allow(PATIENCE)

    def open_response(self) -> Response:
        """Begin to answer the request."""
        self.response = Response(self.request, self.send)
        self.allow(PATIENCE)
        return self.response

    def end_request(self) -> None:
        """Forget the request and its body."""
        if self.body is not None:
            self.body.file.close()
        self.request = self.body = None

    def send(self, data: bytes) -> bool:
        """Send bytes; return whether some are kept for a slow client. Raises ClientGone."""
        if self.unsent:
            self.unsent = memoryview(bytes(self.unsent) + data)
        elif data:
            self.unsent = memoryview(data)[self._send(data) :]
        return bool(self.unsent)

    def flush(self) -> bool:
        """Send the kept bytes; return whether all are sent. Raises ClientGone."""
        sent = self._send(self.unsent)
        self.unsent = self.unsent[sent:]
        self._allow_more(sent)
        return not self.unsent

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone from error

    def _allow_more(self, passed: int) -> None:
        self.seconds_left = min(PATIENCE, self.seconds_left + passed / SLOWEST)

    def linger(self, *, seconds: float) -> None:
        """Send no more, but let the client read: to close could lose data (RFC 9112, 9.6)."""
        self._received.clear()
        self.is_lingering = True
        self.allow(seconds)
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self.end_request()
        self._sock.close()
