"""One client's connection: the bytes that have come, and a way to send and to wait for more."""

from __future__ import annotations

import io
import select
import socket
import time
from contextlib import suppress
from typing import Any, BinaryIO, cast

from webapp.server.protocol import (
    CONTINUE,
    END_OF_HEAD,
    Environ,
    Limits,
    Request,
    check_unfinished_head,
    parse_head,
)

RECEIVE = 65_536  # bytes asked for at once
SMALL_BODY = 65_536  # bytes: up to here a body is waited for without a thread
PATIENCE = 30.0  # seconds that a client may let a thread wait in all; bytes that pass renew it
SLOWEST = 4096  # bytes that renew a second of it
MOST_LINGERING = 2**20  # bytes that are thrown away to let a client read its last answer


class ClientGone(Exception):
    """The client has hung up, or does not take its answer."""


class Connection:
    """A connection with a client; one thread has it at a time.

    ``deadline``, in monotonic seconds, is when the server stops waiting for the client.
    """

    def __init__(self, sock: socket.socket, base: Environ, *, deadline: float) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = sock.fileno()
        self.deadline = deadline
        self.ended = False  # nothing more will come
        self._sock = sock
        self._base = base
        self._buffer = b""
        self._request: Request | None = None  # one whose small body is still coming
        self._lingering: int | None = None  # bytes thrown away since the last answer
        self._patience = PATIENCE

    @property
    def idle(self) -> bool:
        """Whether no part of a request has come."""
        return not self._buffer and self._request is None

    @property
    def lingering(self) -> bool:
        """Whether the last answer is sent, and only the client's end is waited for."""
        return self._lingering is not None

    def receive(self) -> None:
        """Take what has come, without waiting."""
        try:
            data = self._sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
        elif self._lingering is None:
            self._buffer += data
        else:
            self._lingering += len(data)
            self.ended = self._lingering > MOST_LINGERING

    def has_more(self) -> bool:
        """Say whether something has come that was not taken yet."""
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def next_request(self, limits: Limits) -> Request | None:
        """Return the next request; None until its head, and its body if small, have come.

        Where the client has ended, what has come of a small body is all. Raises Refused.
        """
        if self.lingering:
            return None
        request = self._request = self._request or self._take_head(limits)
        if request is None:
            return None
        missing = request.length - len(self._buffer)
        if missing > 0 and request.length <= SMALL_BODY and not self.ended:
            self._say_continue(request)
            return None
        self._request = None
        return request

    def open_body(self, request: Request) -> tuple[BinaryIO, Body | None]:
        """Return a request's body to read, and what is read from the network of it, if any."""
        self._patience = PATIENCE
        if len(self._buffer) < request.length and not self.ended:
            body = Body(self, request)
            return cast(BinaryIO, io.BufferedReader(body, RECEIVE)), body
        data = self._buffer[: request.length]
        self._buffer = self._buffer[request.length :]
        return io.BytesIO(data), None

    def read_into(self, view: memoryview, request: Request) -> int:
        """Fill a part of ``view`` with what comes of a body; return its bytes, 0 at the end."""
        if self._buffer:
            count = min(len(view), len(self._buffer))
            view[:count] = self._buffer[:count]
            self._buffer = self._buffer[count:]
            return count
        count = 0
        with suppress(OSError, ClientGone):
            self._say_continue(request)
            self._wait(select.POLLIN)
            count = self._sock.recv_into(view)
        self._renew_patience(count)
        self.ended = count == 0
        return count

    def send(self, data: bytes) -> None:
        """Send bytes, waiting for a client that is slow; raises ClientGone."""
        view = memoryview(data)
        try:
            while True:
                try:
                    sent = self._sock.send(view)
                except BlockingIOError:
                    sent = 0
                if sent == len(view):
                    return
                view = view[sent:]
                self._renew_patience(sent)
                self._wait(select.POLLOUT)
        except OSError as error:
            raise ClientGone from error

    def send_at_once(self, data: bytes) -> None:
        """Send bytes without waiting; raises ClientGone where there is no room for them."""
        try:
            if self._sock.send(data) == len(data):
                return
        except OSError as error:
            raise ClientGone from error
        raise ClientGone

    def linger(self, *, deadline: float) -> None:
        """Send no more, and let the client read: closed at once, the answer could be lost to it.

        (RFC 9112, 9.6.)
        """
        self._lingering, self._buffer, self._request, self.deadline = 0, b"", None, deadline
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._sock.close()

    def _take_head(self, limits: Limits) -> Request | None:
        begin = 2 if self._buffer[:2] == b"\r\n" else 0  # RFC 9112, 2.2
        end = self._buffer.find(END_OF_HEAD, begin)
        if end < 0:
            check_unfinished_head(self._buffer, limits)
            return None
        end += len(END_OF_HEAD)
        head, self._buffer = self._buffer[begin:end], self._buffer[end:]
        return parse_head(head, self._base, limits)

    def _say_continue(self, request: Request) -> None:
        if request.expects_continue and not self._buffer:
            request.expects_continue = False
            self.send(CONTINUE)

    def _wait(self, event: int) -> None:
        poller = select.poll()
        poller.register(self.fd, event)
        began = time.monotonic()
        if not poller.poll(max(self._patience, 0.0) * 1000):
            raise TimeoutError
        self._patience -= time.monotonic() - began

    def _renew_patience(self, passed: int) -> None:
        self._patience = min(PATIENCE, self._patience + passed / SLOWEST)


class Body(io.RawIOBase):
    """A request's body, read from the connection as it comes.

    That it may come is said (100 Continue) only once the application wants it: it may refuse.
    """

    def __init__(self, connection: Connection, request: Request) -> None:
        super().__init__()
        self._connection = connection
        self._request = request
        self.remaining = request.length

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of ``buffer``; return its bytes, 0 at the end of body or client."""
        view = memoryview(buffer)[: self.remaining]
        count = self._connection.read_into(view, self._request) if len(view) else 0
        self.remaining -= count
        return count
