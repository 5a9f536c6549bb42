"""Waiting for PostgreSQL: every wait ends, also for a frozen server.

The kernel of a frozen server still acknowledges packets, so neither ``statement_timeout`` nor
keepalives end a wait for it. psycopg2 therefore waits in ``_wait``, which has a deadline, and
checks in a long wait whether the server responds at all. If not, the statement fails and a circuit
breaker opens: new connections are refused at once, except one attempt per ``PAUSE``.
"""

from __future__ import annotations

import math
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine, ExceptionContext
from sqlalchemy.exc import InvalidatePoolError

from webapp.db.base import READS
from webapp.db.outages import is_refused_write

PATIENCE = 0.6  # seconds of a wait after which the server must show that it responds
CHECK_TIMEOUT = 1.0  # seconds in which it must do so
CHECK_INTERVAL = 5.0  # seconds between such checks in one long wait
PAUSE = 2.0  # seconds between attempts to connect to a silent server; longer than an attempt
SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # PostgreSQL's manual, "Message Formats"


class ServerSilent(psycopg2.OperationalError):  # type: ignore[misc] # psycopg2 has no types
    """The server did not respond in time."""


class Server:
    """A PostgreSQL server: the circuit breaker, and the seconds that a statement may take."""

    def __init__(self, *, timeout: float) -> None:
        self.timeout = timeout
        self._retry_at = 0.0  # monotonic seconds; 0 while the server responds
        self._lock = threading.Lock()
        # psycopg2 gives the wait function nothing but the connection.
        self._factory = type("_Connection", (psycopg2.extensions.connection,), {"server": self})

    def connect(self, dialect: Dialect, _record: object, arguments: Any, parameters: Any) -> Any:
        """Return a new connection, with what SQLAlchemy's ``do_connect`` event gives."""
        with self._lock:
            if time.monotonic() < self._retry_at:
                raise ServerSilent("the server has not responded for some time")
            if self._retry_at:
                self._retry_at = time.monotonic() + PAUSE
        connection = dialect.connect(*arguments, **parameters, connection_factory=self._factory)
        self._retry_at = 0.0
        return connection

    def check(self, descriptor: int) -> None:
        """Open the circuit breaker and raise ServerSilent unless a socket's server responds.

        It is asked over a new connection whether it offers TLS, which needs no login.
        """
        with suppress(OSError):
            with socket.socket(fileno=os.dup(descriptor)) as known:
                family, address = known.family, known.getpeername()
            with socket.socket(family) as probe:
                probe.settimeout(CHECK_TIMEOUT)
                probe.connect(address)
                probe.sendall(SSL_REQUEST)
                if probe.recv(1):
                    return
        self._retry_at = time.monotonic() + PAUSE
        raise ServerSilent("the server does not respond")


# When waits end, in monotonic seconds; None after the statement time-out.
_ends: ContextVar[float | None] = ContextVar("ends", default=None)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limit the total time that this block waits for PostgreSQL; None lifts every limit."""
    token = _ends.set(math.inf if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends.reset(token)


def configure(engine: Engine, *, timeout: float) -> None:
    """Give an engine these limits; ``timeout`` is the statement time-out in seconds."""
    # The server's own time-out comes first where it can: its error is the clearer one.
    event.listen(engine, "do_connect", Server(timeout=timeout + 1).connect)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "handle_error", _replace_read_only_sessions)
    if hasattr(select, "poll"):  # not on Windows, where the server's own time-out must do
        event.listen(engine, "checkout", _check_open)
        psycopg2.extensions.set_wait_callback(_wait)


def _begin(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    driver.autocommit = connection.get_execution_options().get(READS, False)


def _replace_read_only_sessions(context: ExceptionContext) -> None:
    # Sessions that began under `default_transaction_read_only`, or on a server that has become a
    # standby, stay read-only.
    if is_refused_write(context):
        context.is_disconnect = True


def _check_open(connection: Any, _record: object, _proxy: object) -> None:
    """Replace all pooled connections if this one is closed: the server has been restarted.

    A server sends something unasked only to end a connection. Looking costs no message, unlike
    ``pool_pre_ping``: 34 µs of CPU less of the 496 that a read of one item takes.
    """
    if connection.closed or _is_ready(connection.fileno(), select.POLLIN, 0):
        raise InvalidatePoolError


def _wait(connection: Any) -> None:
    """Wait for what a connection is doing; raises ServerSilent."""
    server: Server | None = getattr(connection, "server", None)
    if server is None:  # of an engine that is not ours
        psycopg2.extras.wait_select(connection)
        return
    check_at = time.monotonic() + PATIENCE
    if (ends := _ends.get()) is None:
        ends = time.monotonic() + server.timeout
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        # psycopg2 drops the connection when this raises; closing it here would deadlock.
        if time.monotonic() >= ends:
            raise ServerSilent("the server did not respond in time")
        if time.monotonic() >= check_at:
            server.check(connection.fileno())
            check_at = time.monotonic() + CHECK_INTERVAL
        if check_at + CHECK_TIMEOUT > ends:
            check_at = math.inf  # no time is left for it
        events = select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        _is_ready(connection.fileno(), events, min(ends, check_at) - time.monotonic())


def _is_ready(descriptor: int, events: int, seconds: float) -> bool:
    """Wait at most so long until a socket is ready; say whether it is."""
    poller = select.poll()  # unlike select(), not limited to the first 1,024 descriptors
    poller.register(descriptor, events)
    return bool(poller.poll(max(0, math.ceil(seconds * 1000))))
