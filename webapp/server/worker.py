"""A gunicorn worker in which a slow client holds no thread.

All threads wait on one epoll. A free one goes on with the next connection that can be read or
written, as far as it can without waiting for the client. A large body is kept in a temporary file
until it is complete, and the next part of a response is asked for once the one before is sent (so
it must not hold a lock or a database connection from part to part).

A connection that waits for its client is *armed*, and belongs to whoever removes it from the set
of armed ones: what epoll says may be about a closed connection whose number was given again.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gunicorn.http.wsgi import base_environ
from gunicorn.workers.base import Worker

from webapp.server.connection import REQUEST_DEADLINE, ClientGone, Connection
from webapp.server.protocol import Environ, Refused, Request, Response, make_problem

TICK = 0.5  # seconds between looks at deadlines; gunicorn may be told to wait for 1 only
HANG_UP_DEADLINE = 2.0  # seconds for a client to close after its last response
STOP_DEADLINE = 2.0  # seconds for a kept-alive client to send one more request at a stop
TURN = 0.0003  # seconds in which the other workers may accept the next client
STOP_DELAY = 0.25  # seconds in which a stopping worker still accepts, until its master stops, too
GRACE = 0.5  # seconds before a client may be closed to make room for another
RETRY = 0.1  # seconds until the next try to accept, if there is no room
HEALTH_THREADS = 2  # requests for health at once: one of them may wait for the database
MOST_UNSENT = 2**28  # bytes of responses that wait in memory for slow clients

_READ = select.EPOLLIN | select.EPOLLONESHOT
_WRITE = select.EPOLLOUT | select.EPOLLONESHOT


class _Queues:
    """Connections that wait for the application, which takes so many of each kind at once."""

    def __init__(self, *limits: int) -> None:
        self._lock = threading.Lock()
        self._free = list(limits)
        self._waiting: list[deque[Connection]] = [deque() for _ in limits]

    def put(self, kind: int, connection: Connection) -> None:
        with self._lock:
            self._waiting[kind].append(connection)

    def get(self) -> tuple[int, Connection] | None:
        with self._lock:
            for kind, waiting in enumerate(self._waiting):
                if waiting and self._free[kind]:
                    self._free[kind] -= 1
                    return kind, waiting.popleft()
        return None

    def done(self, kind: int) -> None:
        with self._lock:
            self._free[kind] += 1


def _describe(host: str, port: str, address: Any) -> Environ:
    """Return an address as variables; that of a Unix socket is a path, or empty."""
    found = address[:2] if isinstance(address, tuple) else (address, 0)
    return {host: found[0], port: str(found[1])}


class EpollWorker(Worker):
    """Threads that share one epoll, under gunicorn's master.

    The application may have a method ``takes_body(environ)``: whether it would read the body of
    a request. It is asked before a large body is taken; if not, the request has no body. And it
    may have one ``is_long(environ)``: such requests have threads of their own, so that they never
    keep others waiting.
    """

    max_body = 2**28  # bytes, set by gunicorn.conf.py; the application must refuse larger ones
    grace = 25.0  # seconds that clients are answered after a stop, also set by gunicorn.conf.py
    health_path = "/health/"  # requests below it have threads of their own

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what gunicorn offers and this worker does not have."""
        if cfg.is_ssl:
            raise SystemExit("Configuration error: TLS is for the proxy in front")

    # The main thread accepts, and ends what takes too long.

    def run(self) -> None:
        """Serve until told to stop, then answer the clients that are connected."""
        self._epoll = select.epoll()
        self._queues = _Queues(HEALTH_THREADS, self.cfg.threads, self.cfg.threads)
        self._is_long = getattr(self.wsgi, "is_long", lambda environ: False)
        self._connections: dict[int, Connection] = {}
        self._armed: set[Connection] = set()
        self._next_check = 0.0  # of deadlines
        self._environ = {**base_environ(self.cfg), "wsgi.multithread": True}
        self._environ |= {"wsgi.url_scheme": "http", "SCRIPT_NAME": ""}
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        # One thread more than the application can use sees to the network.
        for number in range(HEALTH_THREADS + 2 * self.cfg.threads + 1):
            threading.Thread(target=self._serve, name=f"serve-{number}", daemon=True).start()
        while self.alive and self.ppid == os.getppid():
            self._tick(TICK)
        self._stop()

    def _tick(self, seconds: float) -> None:
        """Wait for new clients and signals; see to all else once in so many seconds."""
        has_room = len(self._connections) < self.cfg.worker_connections or self._make_room()
        poller = select.poll()
        for fd in (self.PIPE[0], *(self._listeners if has_room else ())):
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(1000 * (seconds if has_room else min(seconds, RETRY))):
            if fd == self.PIPE[0]:
                os.read(fd, 4096)  # gunicorn writes a byte for each signal
            elif self._accept(self._listeners[fd]) and self.cfg.workers > 1:
                # Linux wakes the same worker again and again: without a pause it would get
                # nearly all clients, and the other cores would have nothing to do.
                time.sleep(TURN)
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + seconds
            self.notify()  # gunicorn that the worker lives
            self._check_deadlines(now)
            self._hold_below(2 * self.max_body, lambda c: body.size if (body := c.body) else 0)
            self._hold_below(MOST_UNSENT, lambda c: len(c.unsent))

    def _check_deadlines(self, now: float) -> None:
        for connection in self._armed.copy():
            if not self.alive and connection.request is None:
                connection.deadline = min(connection.deadline, now + STOP_DEADLINE)
            if connection.deadline < now and self._take(connection):
                self._give_up(connection, 408, "The request did not arrive in time.")

    def _hold_below(self, most: int, size: Callable[[Connection], int]) -> None:
        """Give up the slowest clients while all together hold more bytes than they may."""
        while sum(map(size, self._connections.copy().values())) > most:
            slow = min(filter(size, self._armed.copy()), key=lambda c: c.deadline, default=None)
            if slow is None or not self._take(slow):
                return
            self._give_up(slow, 503, "Too many large requests arrive at once.")

    def _give_up(self, connection: Connection, status: int, detail: str) -> None:
        if connection.unsent or connection.is_idle:
            self._close(connection)
        else:
            self._refuse(connection, Refused(status, detail))

    def _stop(self) -> None:
        """Answer all clients that have connected; those after the last accept are reset."""
        self.alive = False
        self._next_check = now = time.monotonic()
        while time.monotonic() < now + STOP_DELAY:
            self._tick(0.05)
        for listener in self._listeners.values():
            while self._accept(listener):
                pass
            listener.close()
        self._listeners.clear()
        while self._connections and time.monotonic() < now + self.grace:
            self._tick(0.05)

    def _accept(self, listener: Any) -> bool:
        """Accept the next client; return whether there was one."""
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:  # no file descriptors are left, for example
            self.log.error("Cannot accept connections for a moment: %s", error)
            self._make_room()
            time.sleep(RETRY)
            return False
        base = {**self._environ, **_describe("SERVER_NAME", "SERVER_PORT", listener.getsockname())}
        connection = Connection(sock, base | _describe("REMOTE_ADDR", "REMOTE_PORT", peer))
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLONESHOT)
        self._arm(connection)
        return True

    def _make_room(self) -> bool:
        """Close the client that has been silent longest, if possible one without a request."""
        before = time.monotonic() - GRACE
        found = [connection for connection in self._armed.copy() if connection.since < before]
        oldest = min(found, key=lambda c: (c.request is not None, c.since), default=None)
        if oldest is None or not self._take(oldest):
            return False
        self._close(oldest)
        return True

    # All other threads see to the network and call the application.

    def _serve(self) -> None:
        while True:
            for fd, _ in self._epoll.poll(maxevents=1):
                if (found := self._connections.get(fd)) and self._take(found):
                    self._run(self._go_on, found)
            while turn := self._queues.get():
                kind, connection = turn
                self._run(self._call_application, connection)
                self._queues.done(kind)

    def _run(self, step: Callable[[Connection], None], connection: Connection) -> None:
        """Take a step; an error in it ends the connection, but not the thread."""
        try:
            step(connection)
        except Refused as refused:
            self._refuse(connection, refused)
        except ClientGone:
            self._close(connection)
        except BaseException:  # such as SystemExit of an application
            self.log.exception("A connection failed")
            self._close(connection)

    def _take(self, connection: Connection) -> bool:
        """Take an armed connection; return False if another thread was faster."""
        try:
            self._armed.remove(connection)
        except KeyError:
            return False
        connection.seconds_left = connection.deadline - time.monotonic()
        return True

    def _arm(self, connection: Connection) -> None:
        """Wait for the client; from here on, any thread may take the connection."""
        event = _WRITE if connection.unsent else _READ
        connection.deadline = time.monotonic() + connection.seconds_left
        self._armed.add(connection)
        with suppress(OSError):  # another thread may have closed it already
            self._epoll.modify(connection.fd, event)

    def _go_on(self, connection: Connection) -> None:
        """Take what has arrived on a connection, or send what is left to send."""
        if not connection.unsent:
            connection.receive()
            self._read(connection)
        elif not connection.flush():
            self._arm(connection)
        elif connection.response:
            self._enqueue(connection)
        else:
            self._follow(connection)

    def _read(self, connection: Connection) -> None:
        if not connection.is_lingering and connection.read_request():
            self._enqueue(connection)
        elif connection.has_ended:
            self._close(connection)
        else:
            self._arm(connection)

    def _enqueue(self, connection: Connection) -> None:
        environ = connection.request.environ
        if environ["PATH_INFO"].startswith(self.health_path):
            kind = 0
        else:
            kind = 2 if self._is_long(environ) else 1
        self._queues.put(kind, connection)

    def _follow(self, connection: Connection) -> None:
        """Go on after a response, once all of it has been sent."""
        if connection.unsent:
            self._arm(connection)
        elif connection.keep_alive:
            connection.allow(self.cfg.keepalive if connection.is_idle else REQUEST_DEADLINE)
            self._read(connection)
        else:
            connection.linger(seconds=HANG_UP_DEADLINE)
            self._arm(connection)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        self.log.info("Refused a request: %s %s", refused.detail, refused.__cause__ or "")
        connection.end_request()
        connection.keep_alive = False
        try:
            connection.send(make_problem(refused))
            self._follow(connection)
        except ClientGone:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._connections.pop(connection.fd, None)  # before another one can get its number
        self._end_response(connection)
        connection.close()

    def _call_application(self, connection: Connection) -> None:
        """Have the application accept or refuse a body, answer, or go on with its response."""
        request, response = connection.request, connection.response
        if response is None:
            is_complete = "wsgi.input" in request.environ
            if not is_complete and self._is_wanted(request):
                connection.open_body(most=self.max_body)
                self._read(connection)
                return
            request.environ.setdefault("wsgi.input", io.BytesIO())
            request.keep_alive = request.keep_alive and is_complete
            response = connection.open_response()
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
        if response.context.run(self._respond, connection, response):
            self._arm(connection)
        else:
            self._end_response(connection)
            self._follow(connection)

    def _is_wanted(self, request: Request) -> bool:
        takes_body = getattr(self.wsgi, "takes_body", lambda environ: True)
        return (request.length or 0) <= self.max_body and takes_body(request.environ.copy())

    def _respond(self, connection: Connection, response: Response) -> bool:
        """Send a response as far as the client takes it; return whether some is left."""
        try:
            if response.parts is None:
                response.result = self.wsgi(connection.request.environ, response.start)
                response.parts = iter(response.result)
                response.keep_alive = response.keep_alive and self.alive
            return response.write_all(response.parts)
        except Exception:
            self.log.exception("Error handling a request")  # without its URL, which has the query
            response.keep_alive = False
            if not response.head_sent:
                connection.send(make_problem(Refused(500, "The request could not be answered.")))
            return False

    def _end_response(self, connection: Connection) -> None:
        if response := connection.response:
            connection.response, connection.keep_alive = None, response.keep_alive
            try:
                if hasattr(response.result, "close"):
                    response.context.run(response.result.close)
            except Exception:
                self.log.exception("Error after a request")
            connection.end_request()
