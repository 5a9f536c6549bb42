"""A gunicorn worker for an application whose requests are short, and now and then very long.

Its threads share one epoll. Whichever is free takes the next connection that can be read or
written, and goes on with it as far as it can without waiting for the client. A slow client holds
no thread: a large body waits in a temporary file until it is whole, and the next part of an answer
is asked for once the one before is sent (so an answer must not hold a lock or a database
connection from part to part).

    accepted ──▶ ARMED ──request is whole──▶ WAITING for its turn ──▶ the application
                 │ ▲ ▲                                                 │  │
        deadline │ │ └─────────────── the client is slow ──────────────┘  │
                 ▼ └──────────────────────────────────────────── answered ┤
              closed ◀──── the client hangs up ◀──── LINGERING ◀──────────┘ (last answer)

The application answers at most so many requests at once, health beside all others, and there is
one thread more than these: it sees to the network.

Whoever takes a connection out of the set of the armed has it, and nobody else touches it. What
epoll says is but a hint: it may be about a connection that is closed, whose number another one
has by now, or that the main thread has just taken for its deadline.
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
from datetime import timedelta
from typing import Any

from gunicorn.workers.base import Worker

from webapp.server.connection import ClientGone, Connection, prepare_listener
from webapp.server.protocol import (
    LARGEST_HEAD,
    Answer,
    Environ,
    Limits,
    Refused,
    Request,
    base_environ,
    make_refusal,
)

TICK = 1.0  # seconds between looks at deadlines
REQUEST_DEADLINE = 15.0  # seconds for a request's head, and its body if small
HANG_UP_DEADLINE = 2.0  # seconds for a client to hang up after its last answer
STOP_DEADLINE = 2.0  # seconds for a kept-alive client to send one more request at a stop
TURN = 0.0003  # seconds in which the other workers may take the next client
LINGER = 0.25  # seconds between a worker's stop and that of a master signalled with it
GRACE = 0.5  # seconds before a client may be closed to make room for another
HEALTH_TURNS = 2  # requests for health at once: one of them may wait for the database
MOST_UNSENT = 2**28  # bytes of answers that wait in memory for slow clients

_READ = select.EPOLLIN | select.EPOLLONESHOT
_WRITE = select.EPOLLOUT | select.EPOLLONESHOT


class Turns:
    """Connections that wait for the application, which takes so many of each kind at once."""

    def __init__(self, *limits: int) -> None:
        self._lock = threading.Lock()
        self._free = list(limits)
        self._waiting: list[deque[Connection]] = [deque() for _ in limits]

    def wait(self, kind: int, connection: Connection) -> None:
        """Put a connection at the end of the queue of its kind."""
        with self._lock:
            self._waiting[kind].append(connection)

    def take(self) -> tuple[int, Connection] | None:
        """Return whose turn it is, and its kind; None where no more may come in."""
        with self._lock:
            for kind, waiting in enumerate(self._waiting):
                if waiting and self._free[kind]:
                    self._free[kind] -= 1
                    return kind, waiting.popleft()
        return None

    def leave(self, kind: int) -> None:
        """End a turn; the caller then takes the next one."""
        with self._lock:
            self._free[kind] += 1


class EpollWorker(Worker):
    """Threads that share one epoll, under gunicorn's master.

    The application may have a method ``takes_body(environ)``, which says whether it would read
    the body of a request. It is asked before a large body is taken; otherwise the request is
    answered without its body.
    """

    sockets: list[Any]
    # gunicorn.conf.py sets these.
    max_body = 2**28  # bytes; the application gets no larger body, and has to refuse it
    most_spooled = 2**29  # bytes of large bodies that come at the same time
    health_path = "/health/"

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what gunicorn offers and this worker has not."""
        if cfg.is_ssl:
            raise SystemExit("Configuration error: TLS is for the proxy in front")

    # The main thread: deadlines, and the stop

    def run(self) -> None:
        """Serve until told to leave, then answer who is still there."""
        cfg = self.cfg
        self._limits = Limits(
            line=cfg.limit_request_line or LARGEST_HEAD,
            header=cfg.limit_request_field_size or LARGEST_HEAD,
            headers=cfg.limit_request_fields or LARGEST_HEAD,
        )
        self._epoll = select.epoll()
        self._turns = Turns(HEALTH_TURNS, cfg.threads)
        self._connections: dict[int, Connection] = {}
        self._armed: set[Connection] = set()
        self._listening = threading.RLock()  # for what is done to listeners
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        for listener in self.sockets:
            prepare_listener(listener)
        self._bases = {fd: self._describe(found) for fd, found in self._listeners.items()}
        self._accepting = False
        for number in range(HEALTH_TURNS + cfg.threads + 1):
            threading.Thread(target=self._serve, name=f"serve-{number}", daemon=True).start()
        tick = min(TICK, self.timeout or TICK)
        while self.alive and self.ppid == os.getppid():
            self._accept_if_there_is_room()
            self._tick(tick if self._accepting else GRACE / 5)
        self._stop()

    def _tick(self, seconds: float) -> None:
        """Show that the worker lives, wait (a signal ends that), and see to slow clients."""
        self.notify()
        poller = select.poll()
        poller.register(self.PIPE[0], select.POLLIN)
        if poller.poll(seconds * 1000):
            with suppress(OSError):
                os.read(self.PIPE[0], 4096)
        now = time.monotonic()
        for connection in self._armed.copy():
            if connection.deadline < now and self._take(connection):
                self._give_up(connection)
        self._hold_below(self.most_spooled, lambda c: c.spooled)
        self._hold_below(MOST_UNSENT, lambda c: c.unsent)

    def _give_up(self, connection: Connection) -> None:
        if connection.unsent or connection.idle:
            self._close(connection)
        else:
            self._refuse(connection, Refused(408, "The request did not come to its end in time."))

    def _hold_below(self, most: int, size: Callable[[Connection], int]) -> None:
        """Give up the slowest clients while all of them hold more bytes than they may."""
        while sum(map(size, self._connections.copy().values())) > most:
            slow = min(filter(size, self._armed.copy()), key=lambda c: c.deadline, default=None)
            if slow is None or not self._take(slow):
                return
            if slow.unsent:
                self._close(slow)
            else:
                self._refuse(slow, Refused(503, "Too many large requests come at once."))

    def _stop(self) -> None:
        """Stop accepting, and answer everybody who has connected.

        Nobody tells a worker whether it alone leaves or all do. In the latter case, whoever
        connects between the last look into the listener's queue and its end is lost.
        """
        self.alive = False
        ends = time.monotonic() + self.cfg.graceful_timeout
        self._tick_until(time.monotonic() + LINGER)
        self._stop_accepting()
        with self._listening:
            for fd in list(self._listeners):
                while self._accept(fd):
                    pass
                self._listeners.pop(fd).close()
        self._tick_until(ends, lambda: not self._connections)

    def _tick_until(self, ends: float, is_done: Callable[[], bool] = lambda: False) -> None:
        while (now := time.monotonic()) < ends and not is_done():
            for connection in self._armed.copy():
                if connection.request is None:
                    connection.deadline = min(connection.deadline, now + STOP_DEADLINE)
            self._tick(0.05)

    # Accepting

    def _describe(self, listener: Any) -> Environ:
        name = listener.getsockname()
        host, port = name[:2] if isinstance(name, tuple) else (str(name), 0)
        return base_environ(host, port, multiprocess=self.cfg.workers > 1)

    def _accept_if_there_is_room(self) -> None:
        with self._listening:
            if not self._accepting and self._has_room():
                self._accepting = True
                for fd in self._listeners:
                    self._epoll.register(fd, _READ)

    def _stop_accepting(self) -> None:
        with self._listening:
            if self._accepting:
                self._accepting = False
                for fd in self._listeners:
                    self._epoll.unregister(fd)

    def _accept_in_turn(self, fd: int) -> None:
        """Take in a client, then look away for a moment.

        A worker that is awake would else take all who come at once, and the cores of the others
        would have nothing to do.
        """
        try:
            if self._accept(fd) and self.cfg.workers > 1:
                time.sleep(TURN)
        finally:
            with self._listening:
                if self._accepting and fd in self._listeners:
                    self._epoll.modify(fd, _READ)

    def _accept(self, fd: int) -> bool:
        """Take in the next client of a listener; say whether there was one."""
        try:
            with self._listening:  # who closes it knows of everybody who is in
                if fd not in self._listeners:
                    return False
                sock, peer = self._listeners[fd].accept()
                host, port = peer[:2] if isinstance(peer, tuple) else ("", 0)
                base = {**self._bases[fd], "REMOTE_ADDR": host, "REMOTE_PORT": str(port)}
                connection = Connection(sock, base, seconds=REQUEST_DEADLINE)
                self._connections[connection.fd] = connection
                self._armed.add(connection)
                self._epoll.register(connection.fd, _READ)
        except BlockingIOError:
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            self.log.error("Cannot accept connections for a moment: %s", error)
            self._make_room()
            self._stop_accepting()  # until the next tick
            return False
        if not self._has_room():
            self._stop_accepting()
        return True

    def _has_room(self) -> bool:
        return len(self._connections) < self.cfg.worker_connections or self._make_room()

    def _make_room(self) -> bool:
        """Close the client that was waited for longest, if possible one without a request."""
        before = time.monotonic() - GRACE
        found = [connection for connection in self._armed.copy() if connection.since < before]
        oldest = min(found, key=lambda c: (c.request is not None, c.since), default=None)
        if oldest is None or not self._take(oldest):
            return False
        self._close(oldest)
        return True

    # The threads

    def _serve(self) -> None:
        poll, listeners, connections = self._epoll.poll, self._listeners, self._connections
        while True:
            connection = None
            try:
                for fd, _ in poll(-1, 1):
                    if fd in listeners:
                        self._accept_in_turn(fd)
                    elif (found := connections.get(fd)) and self._take(found):
                        connection = found
                        self._attend_to(connection)
                while turn := self._turns.take():
                    kind, connection = turn
                    try:
                        self._use_turn(connection)
                    finally:
                        self._turns.leave(kind)
            except BaseException as error:  # the thread must go on, whatever an application raises
                if not isinstance(error, ClientGone):
                    self.log.exception("A connection failed")
                if connection:
                    self._close(connection)

    def _take(self, connection: Connection) -> bool:
        try:
            self._armed.remove(connection)
        except KeyError:
            return False
        return True

    def _arm(self, connection: Connection) -> None:
        """Wait for the client; from here on the connection is not the caller's any more."""
        event = _WRITE if connection.unsent else _READ
        if connection.unsent or connection.body:
            connection.wait_on()
        self._armed.add(connection)
        with suppress(OSError):  # others have closed it already, or are about to watch it first
            self._epoll.modify(connection.fd, event)

    def _attend_to(self, connection: Connection) -> None:
        """Take what has come of a connection, or send what waited."""
        if not connection.unsent:
            was_idle = connection.idle
            connection.receive()
            if was_idle and not connection.idle:
                # A request's time counts from its first byte, and no later one renews it.
                connection.wait(REQUEST_DEADLINE)
            self._read(connection)
        elif not connection.flush():
            self._arm(connection)
        elif connection.answer:
            self._wait_for_turn(connection)
        else:
            self._follow(connection)

    def _read(self, connection: Connection) -> None:
        """Go on with a request as far as it has come."""
        try:
            is_our_turn = connection.lingering is None and connection.advance(self._limits)
        except Refused as refused:
            self._refuse(connection, refused)
            return
        if is_our_turn:
            self._wait_for_turn(connection)
        elif connection.ended:
            self._close(connection)
        else:
            self._arm(connection)

    def _wait_for_turn(self, connection: Connection) -> None:
        path = connection.request.environ["PATH_INFO"]
        self._turns.wait(0 if path.startswith(self.health_path) else 1, connection)

    def _follow(self, connection: Connection) -> None:
        """Go on after an answer, once all of it is sent."""
        if connection.unsent:
            self._arm(connection)
        elif connection.is_last:
            connection.linger(seconds=HANG_UP_DEADLINE)
            self._arm(connection)
        else:
            connection.end_request()
            connection.wait(self.cfg.keepalive if connection.idle else REQUEST_DEADLINE)
            self._read(connection)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        self.log.info("Refused a request: %s %s", refused.detail, refused.__cause__ or "")
        connection.is_last = True
        connection.end_request()
        try:
            connection.send(make_refusal(refused))
            self._follow(connection)
        except ClientGone:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.fd]  # before another one may have its number
        if connection.answer:
            self._end_answer(connection, connection.answer)
        connection.close()
        if not self._accepting:
            self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self.PIPE[1], b"1")

    # The application

    def _use_turn(self, connection: Connection) -> None:
        """Have the application say whether it takes a body, or answer, or go on with an answer."""
        request, answer = connection.request, connection.answer
        if answer is None:
            is_whole = "wsgi.input" in request.environ
            if not is_whole and self._is_wanted(request):
                connection.open_body(most=self.max_body)
                self._read(connection)
                return
            answer = self._begin_answer(connection, may_be_followed=is_whole)
        if answer.context.run(self._write, request.environ, answer):
            self._arm(connection)
        else:
            self._end_answer(connection, answer)
            self._follow(connection)

    def _is_wanted(self, request: Request) -> bool:
        if request.length is not None and request.length > self.max_body:
            return False
        takes_body = getattr(self.wsgi, "takes_body", None)
        return takes_body is None or takes_body(request.environ.copy())

    def _begin_answer(self, connection: Connection, *, may_be_followed: bool) -> Answer:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self._wake()
        request = connection.request
        request.environ.setdefault("wsgi.input", io.BytesIO())
        answer = Answer(
            send=connection.send,
            method=request.environ["REQUEST_METHOD"],
            protocol=request.environ["SERVER_PROTOCOL"],
            keep_alive=request.keep_alive and may_be_followed,
            may_go_on=lambda: self.alive,
        )
        connection.begin_answer(answer)
        return answer

    def _write(self, environ: Environ, answer: Answer) -> bool:
        """Send an answer as far as the client takes it; say whether it is to go on later."""
        try:
            if answer.parts is None:
                answer.result = self.wsgi(environ, answer.start)
                answer.parts = iter(answer.result)
            return answer.write_all(answer.parts)
        except ClientGone:
            raise
        except Exception:
            self.log.exception("Error handling a request")  # not its URL: that has the query
            if answer.head_sent:
                answer.keep_alive = False
            else:
                answer.refuse(Refused(500, "The request could not be answered."))
            return False

    def _end_answer(self, connection: Connection, answer: Answer) -> None:
        connection.answer, connection.is_last = None, not answer.keep_alive
        try:
            if hasattr(answer.result, "close"):
                answer.context.run(answer.result.close)
        except Exception:
            self.log.exception("Error after a request")
        if self.log.access_log_enabled:
            spent = timedelta(seconds=time.monotonic() - answer.began)
            self.log.access(answer, {}, connection.request.environ, spent)
