"""One client's connection: what has come and what is still to be sent, without ever waiting."""

from __future__ import annotations

import io
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Any

from webapp.server.body import IN_MEMORY, Body
from webapp.server.protocol import (
    CONTINUE,
    END_OF_HEAD,
    Answer,
    Environ,
    Limits,
    Refused,
    Request,
    check_unfinished_head,
    parse_head,
)

RECEIVE = 65_536  # bytes asked for at once
# A large body and an answer may take PATIENCE, and a second more for each SLOWEST bytes that
# pass; but at no time is a client waited for longer than PATIENCE. 4 KiB/s is a poor mobile
# link; the defaults of Apache (500 B/s) and Kestrel (240 B/s) let a client stay for days.
PATIENCE = 30.0  # seconds
SLOWEST = 4096  # bytes per second
# Bytes that the kernel takes before it sends them. Its usual megabytes would make a client that
# reads 4 KiB/s look as if it read nothing for minutes.
UNSENT_IN_KERNEL = 196_608
MOST_LINGERING = 2**20  # bytes that are thrown away to let a client read its last answer


class ClientGone(Exception):
    """The client has hung up."""


def prepare_listener(listener: socket.socket) -> None:
    """Set the options that accepted connections inherit."""
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


class Connection:
    """A connection with a client; one thread has it at a time.

    ``since`` is when the wait for the client began, ``deadline`` when it ends (monotonic seconds).
    """

    def __init__(self, sock: socket.socket, base: Environ, *, seconds: float) -> None:
        sock.setblocking(False)
        self.fd = sock.fileno()
        self.ended = False  # the client sends no more
        self.lingering: int | None = None  # bytes thrown away since the last answer was sent
        self.request: Any = None  # a Request that is coming or being answered, if any
        self.body: Body | None = None  # that of the request, where it is large
        self.answer: Answer | None = None  # one that has parts left
        self.is_last = False  # no request may follow the present answer
        self.unsent = 0  # bytes that wait for a slow client
        self._sock, self._base = sock, base
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._patience = PATIENCE
        self.wait(seconds)

    @property
    def idle(self) -> bool:
        """Whether no part of a request has come."""
        return not self._received and self.request is None

    @property
    def spooled(self) -> int:
        """Bytes that have come of a large body."""
        body = self.body  # which another thread may be taking away
        return 0 if body is None else body.size

    def wait(self, seconds: float) -> None:
        """Begin to wait for the client."""
        self.since = time.monotonic()
        self.deadline = self.since + seconds

    def wait_on(self) -> None:
        """Go on waiting for a client that sends a large body or reads an answer."""
        self.deadline = time.monotonic() + self._patience

    def receive(self) -> None:
        """Take what has come."""
        try:
            data = self._sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        if self.lingering is None:
            self._received += data
            if self.body is not None:
                self._renew_patience(len(data))
        else:
            self.lingering += len(data)
            self.ended = self.ended or self.lingering > MOST_LINGERING

    def advance(self, limits: Limits) -> bool:
        """Go on with the next request as far as it has come; say whether it is the server's turn.

        It is once the request is whole, or has a large body for which ``open_body`` was not called
        yet: it then has no ``wsgi.input``. A client that ends early leaves a part of the body.
        Raises Refused, and ClientGone.
        """
        request: Request | None = self.request or self._take_head(limits)
        self.request = request
        if request is None:
            return False
        length = request.length
        if self.body is not None:
            if self.body.take() or (self.ended and length is not None):
                self.body.file.seek(0)
                request.give_body(self.body.file, self.body.size)
                return True
            if self.ended:
                raise Refused(400, "The body ended before its last chunk.")
        elif length is None or length > max(len(self._received), IN_MEMORY):
            return True
        elif length <= len(self._received) or self.ended:
            request.give_body(io.BytesIO(self._received[:length]), length)
            del self._received[:length]
            return True
        if request.expects_continue and not self._received:
            request.expects_continue = False
            self.send(CONTINUE)
        return False

    def open_body(self, *, most: int) -> None:
        """Begin to take a large body, of at most so many bytes where its length is not known."""
        self.body = Body(self._received, length=self.request.length, most=most)
        self._begin_patience()

    def begin_answer(self, answer: Answer) -> None:
        """Set the answer whose parts are sent from now on."""
        self.answer, self.is_last = answer, False
        self._begin_patience()

    def end_request(self) -> None:
        """Forget the request and its body: it is answered."""
        if self.body is not None:
            self.body.file.close()
        self.request = self.body = None

    def send(self, data: bytes) -> bool:
        """Send bytes, or keep what the client is too slow to take; say whether some are kept.

        Raises ClientGone.
        """
        sent = 0 if self._unsent else self._send(data)
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self.unsent += len(data) - sent
        return self.unsent > 0

    def flush(self) -> bool:
        """Send what was kept; say whether all of it is sent. Raises ClientGone."""
        before = self.unsent
        while self._unsent:
            sent = self._send(self._unsent[0])
            self.unsent -= sent
            if sent < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][sent:]
                break
            self._unsent.popleft()
        self._renew_patience(before - self.unsent)
        return not self.unsent

    def linger(self, *, seconds: float) -> None:
        """Send no more, and let the client read: closed at once, the answer could be lost to it.

        (RFC 9112, 9.6.)
        """
        self.end_request()
        self._received.clear()
        self.lingering = 0
        self.wait(seconds)
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True

    def close(self) -> None:
        """Hang up."""
        self.end_request()
        with suppress(OSError):
            self._sock.close()

    def _take_head(self, limits: Limits) -> Request | None:
        begin = 2 if self._received[:2] == b"\r\n" else 0  # RFC 9112, 2.2
        end = self._received.find(END_OF_HEAD, begin)
        if end < 0:
            check_unfinished_head(self._received, limits)
            return None
        end += len(END_OF_HEAD)
        head = bytes(self._received[begin:end])
        del self._received[:end]
        return parse_head(head, self._base, limits)

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone from error

    def _begin_patience(self) -> None:
        self._patience = PATIENCE
        self.wait(PATIENCE)

    def _renew_patience(self, passed: int) -> None:
        left = self.deadline - time.monotonic()
        self._patience = min(PATIENCE, left + passed / SLOWEST)
