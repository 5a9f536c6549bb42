"""A gunicorn worker for an application whose requests are short, and now and then very long.

Its threads share one epoll. Whichever is free takes the next connection that has something to
read, answers its request and gives it back: no request is handed from thread to thread, and none
waits behind a training while a thread is free. A connection has a thread only once its request
has come (with its body, if that is small), so that clients who dawdle hold none.

    accepted ──▶ ARMED ──readable──▶ a thread has it ──answered──▶ ARMED   (kept alive)
                   │                       │
                   │ deadline              │ last answer
                   ▼                       ▼
                 closed ◀──ended──────── LINGERING

Whoever takes a connection out of the set of the armed has it, and nobody else touches it. What
epoll says is but a hint: it may be about a connection that is closed, whose number another one
has by now, or that the main thread has just taken for its deadline.

A stop loses nobody who has connected: the listener's queue is emptied before it is closed.
"""

from __future__ import annotations

import mmap
import os
import select
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from gunicorn.workers.base import Worker

from webapp.server.connection import ClientGone, Connection
from webapp.server.door import turn_away_newcomers
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
LINGER = 0.25  # seconds: a handshake's last round trip, and a master's way to its stop

_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class EpollWorker(Worker):
    """Threads that share one epoll, under gunicorn's master.

    A worker is told to leave by the same signal when the server stops and when it alone is
    retired (a reload, fewer workers, ``max_requests``). The others go on with the listener then,
    and it must stay as it is.
    """

    sockets: list[Any]
    _stop_sign: mmap.mmap | None = None  # one byte, shared with the master

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what gunicorn offers and this worker has not."""
        if cfg.is_ssl:
            raise SystemExit("Configuration error: TLS is for the proxy in front")

    @classmethod
    def watch(cls, server: Any) -> None:
        """Have the workers told when this master stops as a whole; gunicorn has no hook for it."""
        sign = cls._stop_sign = mmap.mmap(-1, 1)
        stop = server.stop

        def tell_and_stop(graceful: bool = True) -> None:
            # Others listen on after us: the master of an upgrade (SIGUSR2), or systemd.
            if graceful and server.reexec_pid == server.master_pid == 0 and not server.systemd:
                sign[0] = 1
            stop(graceful)

        server.stop = tell_and_stop

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
        self._connections: dict[int, Connection] = {}
        self._armed: set[Connection] = set()
        self._door = threading.RLock()  # for what is done to listeners
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        for listener in self.sockets:
            listener.setblocking(False)
        self._bases = {fd: self._describe(found) for fd, found in self._listeners.items()}
        self._accepting = False
        for number in range(cfg.threads):
            threading.Thread(target=self._serve, name=f"serve-{number}", daemon=True).start()
        tick = min(TICK, self.timeout or TICK)
        while self.alive and self.ppid == os.getppid():
            self._accept_unless_full()
            self._tick(tick)
        self._stop()

    def _tick(self, seconds: float) -> None:
        """Show that the worker lives, wait (a signal ends that), and see to deadlines."""
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

    def _give_up(self, connection: Connection) -> None:
        if not connection.lingering and connection.has_more():
            connection.deadline = time.monotonic() + TICK  # no thread was free to look
            self._arm(connection)
        elif connection.idle:
            self._close(connection)
        else:
            self._refuse(connection, Refused(408, "The request did not come to its end in time."))

    def _stop(self) -> None:
        self.alive = False
        ends = time.monotonic() + self.cfg.graceful_timeout
        self._close_the_door()
        while self._connections and time.monotonic() < ends:
            cap = time.monotonic() + STOP_DEADLINE
            for connection in self._armed.copy():
                connection.deadline = min(connection.deadline, cap)
            self._tick(0.05)

    def _close_the_door(self) -> None:
        """Stop accepting; take in who has connected, where nobody else goes on with the listener.

        For a moment accepting goes on: where a supervisor signals master and workers alike, the
        master has time to say that all stops.
        """
        self._tick_for(LINGER)
        all_stop = self._stop_sign is not None and self._stop_sign[0]
        if all_stop:
            for listener in self._listeners.values():
                turn_away_newcomers(listener)
            self._tick_for(LINGER)  # what has begun to connect ends doing so
        self._stop_accepting()
        with self._door:
            for fd in list(self._listeners):
                while all_stop and self._accept(fd):
                    pass
                self._listeners.pop(fd).close()

    def _tick_for(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while (remaining := ends - time.monotonic()) > 0:
            self._tick(remaining)

    # Accepting

    def _describe(self, listener: Any) -> Environ:
        name = listener.getsockname()
        host, port = name[:2] if isinstance(name, tuple) else (str(name), 0)
        return base_environ(host, port, multiprocess=self.cfg.workers > 1)

    def _accept_unless_full(self) -> None:
        with self._door:
            if not self._accepting and len(self._connections) < self.cfg.worker_connections:
                self._accepting = True
                for fd in self._listeners:
                    self._epoll.register(fd, _ONCE)

    def _stop_accepting(self) -> None:
        with self._door:
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
            with self._door:
                if self._accepting and fd in self._listeners:
                    self._epoll.modify(fd, _ONCE)

    def _accept(self, fd: int) -> bool:
        """Take in the next client of a listener; say whether there was one."""
        try:
            with self._door:  # who shuts it knows of everybody who is in
                if fd not in self._listeners:
                    return False
                sock, peer = self._listeners[fd].accept()
                host, port = peer[:2] if isinstance(peer, tuple) else ("", 0)
                base = {**self._bases[fd], "REMOTE_ADDR": host, "REMOTE_PORT": str(port)}
                connection = Connection(sock, base, deadline=time.monotonic() + REQUEST_DEADLINE)
                self._connections[connection.fd] = connection
                self._armed.add(connection)
                self._epoll.register(connection.fd, _ONCE)
        except BlockingIOError:
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            self.log.error("Cannot accept connections for a moment: %s", error)
            self._stop_accepting()  # until one is closed, or the next tick
            return False
        if len(self._connections) >= self.cfg.worker_connections:
            self._stop_accepting()
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
            except BaseException:  # the thread must go on, whatever an application raises
                self.log.exception("A connection failed")
                if connection:
                    self._close(connection)

    def _attend_to(self, connection: Connection) -> None:
        """Answer what has come of a connection, then give it back, or close it."""
        was_idle, answered = connection.idle, False
        connection.receive()
        try:
            while request := connection.next_request(self._limits):
                answered = True
                if not self._answer(connection, request):
                    self._linger(connection)
                    return
        except Refused as refused:
            self._refuse(connection, refused)
        except ClientGone:
            self._close(connection)
        else:
            if connection.ended:
                self._close(connection)
                return
            # A request's time counts from its first byte, and no later one renews it.
            if answered or (was_idle and not connection.idle):
                patience = self.cfg.keepalive if connection.idle else REQUEST_DEADLINE
                connection.deadline = time.monotonic() + patience
            self._arm(connection)

    def _take(self, connection: Connection) -> bool:
        try:
            self._armed.remove(connection)
        except KeyError:
            return False
        return True

    def _arm(self, connection: Connection) -> None:
        """Give a connection back; from here on it is not the caller's any more."""
        self._armed.add(connection)
        with suppress(OSError):  # others have closed it already, or are about to watch it first
            self._epoll.modify(connection.fd, _ONCE)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.fd]  # before another one may have its number
        connection.close()
        if not self._accepting:
            self._wake()

    def _linger(self, connection: Connection) -> None:
        connection.linger(deadline=time.monotonic() + HANG_UP_DEADLINE)
        self._arm(connection)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        self.log.info("Refused bytes that are no request: %s", refused.detail)
        try:
            connection.send_at_once(make_refusal(refused))  # the main thread must not wait
        except ClientGone:
            self._close(connection)
        else:
            self._linger(connection)

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self.PIPE[1], b"1")

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Have the application answer a request; say whether another may follow."""
        self._count_request()
        started = time.monotonic()
        environ = request.environ
        environ["wsgi.input"], body = connection.open_body(request)
        answer = Answer(
            send=connection.send,
            method=environ["REQUEST_METHOD"],
            protocol=environ["SERVER_PROTOCOL"],
            keep_alive=request.keep_alive and not request.chunked,
            may_go_on=lambda: self.alive and (body is None or body.remaining == 0),
        )
        try:
            parts = self.wsgi(environ, answer.start)
            try:
                answer.write_all(parts)
            finally:
                if hasattr(parts, "close"):
                    parts.close()
        except ClientGone:
            raise
        except Exception:
            self.log.exception("Error handling a request")  # not its URL: that has the query
            if not answer.head_sent:
                answer.refuse(Refused(500, "The request could not be answered."))
            return False
        finally:
            if self.log.access_log_enabled:
                spent = timedelta(seconds=time.monotonic() - started)
                self.log.access(answer, {}, environ, spent)
        return answer.keep_alive

    def _count_request(self) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self._wake()
