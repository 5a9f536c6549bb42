"""Waiting for PostgreSQL: every wait ends, and a server that has fallen silent is left alone.

A frozen server still acknowledges packets, so that neither statement_timeout nor keepalives end
a wait for it. psycopg2 therefore waits in a function of ours, which knows two limits:

- a statement may take the server's time limit (a little longer here: the server's own gives the
  clearer error);
- once a statement has taken ``PATIENCE``, the server must show that it talks at all, by greeting
  a new connection within ``GREETING``. A slow statement goes on; one that waits for a silent
  server ends.

Who has less time says so (``time_limit``), and waits no longer in all, whatever is tried: what a
statement has waited before the greeting counts for the proof of silence then.

A process that knows its server to be silent lets one thread at a time try to connect, with a
pause after each failure; all others are refused at once. So an outage costs a process no more
than one thread, and its other threads go on with what needs no database.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg2
import psycopg2.extensions
from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.engine.characteristics import IsolationLevelCharacteristic
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

PATIENCE = 1.0  # seconds of silence after which a server must show that it talks
GREETING = 2.0  # seconds that a new connection may take
PAUSE = 1.0  # seconds between two attempts to reach a silent server
LONG_UNUSED = 10.0  # seconds after which a pooled connection is tried before it is used
LATER_PATIENCE = 5.0  # seconds between two such proofs during one long statement
# The part of GREETING in which nothing must be heard of a server for it to be known as silent.
# Who may wait for just that long would else prove nothing, for want of a few microseconds.
PROOF = 0.8


class ServerSilent(psycopg2.OperationalError):  # type: ignore[misc] # psycopg2 has no types
    """The server said nothing for as long as we were willing to wait."""


class Server:
    """What this process knows of one PostgreSQL server: how to connect, and whether it talks.

    ``timeout`` is the number of seconds that a statement may take.
    """

    def __init__(self, *, timeout: float) -> None:
        self.timeout = timeout
        self._lock = threading.Lock()
        self._silent = False
        self._trying = False
        self._next_try = 0.0

    def connect(self, dialect: Dialect, arguments: list[Any], parameters: dict[str, Any]) -> Any:
        """Return a new connection, made with what SQLAlchemy's ``do_connect`` event gives.

        Raises ServerSilent, at once where silence is known.
        """
        return self._connect(dialect, arguments, parameters, time.monotonic())

    def _connect(
        self, dialect: Dialect, arguments: list[Any], parameters: dict[str, Any], since: float
    ) -> Any:
        """Connect to a server of which nothing was heard since a moment, in monotonic seconds."""
        mine = self._begin_try()
        silent = self._silent
        try:
            with time_limit(GREETING, at_most=True):
                connection = dialect.connect(
                    *arguments, **parameters, connection_factory=_Connection
                )
            silent = False
        except ServerSilent:
            # Whoever waited for less than a greeting may take has proved nothing.
            silent = silent or time.monotonic() - since >= PROOF * GREETING
            raise
        except psycopg2.Error:
            silent = False  # it has spoken, if only to refuse
            raise
        finally:
            self._end_try(mine, silent=silent)
        assert isinstance(connection, _Connection)  # noqa: S101 (it was asked for above)
        connection.greet = lambda since: self._connect(
            dialect, arguments, parameters, since
        ).close()
        connection.timeout = self.timeout
        return connection

    def _begin_try(self) -> bool:
        with self._lock:
            if not self._silent:
                return False
            if self._trying or time.monotonic() < self._next_try:
                raise ServerSilent("the server has not answered for some time")
            self._trying = True
            return True

    def _end_try(self, mine: bool, *, silent: bool) -> None:
        with self._lock:
            self._silent = silent
            self._next_try = time.monotonic() + PAUSE
            if mine:
                self._trying = False


class _Connection(psycopg2.extensions.connection):  # type: ignore[misc] # the same
    """A connection that can tell whether its server still talks."""

    timeout: float | None = None
    greet: Any = None

    def server_talks(self, since: float) -> bool:
        """Say whether the server greets a new connection, be it with a refusal.

        ``since`` is when this connection's silence began, in monotonic seconds.
        """
        if self.greet is None:
            return True  # it is being made, and has its own limit
        try:
            self.greet(since)
        except ServerSilent:
            return False
        except psycopg2.Error:
            return True
        return True


class _Limits(threading.local):
    """When waits for PostgreSQL end, in this thread and in monotonic seconds; None is never."""

    ends: float | None = None
    overridden = False


_limits = _Limits()


@contextmanager
def time_limit(seconds: float | None, *, at_most: bool = False) -> Iterator[None]:
    """Limit what this block waits for PostgreSQL in all, on our own clock; None lifts the limit.

    With ``at_most``, a limit that ends sooner stays.
    """
    before = (_limits.ends, _limits.overridden)
    ends = None if seconds is None else time.monotonic() + seconds
    if at_most and _limits.ends is not None:
        ends = _limits.ends if ends is None else min(ends, _limits.ends)
    _limits.ends, _limits.overridden = ends, True
    try:
        yield
    finally:
        _limits.ends, _limits.overridden = before


def limit_waits(engine: Engine, *, timeout: float) -> None:
    """Give every connection of a PostgreSQL engine these limits; ``timeout`` in seconds."""
    server = Server(timeout=timeout + 1)

    def connect(dialect: Dialect, _record: object, arguments: Any, parameters: Any) -> Any:
        return server.connect(dialect, arguments, parameters)

    def try_before_use(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        unused = time.monotonic() - record.info.get(_USED, math.inf)
        if _has_hung_up(connection) or (unused > LONG_UNUSED and not _answers(engine, connection)):
            raise InvalidatePoolError

    PlainReset.attach(engine)
    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", try_before_use)
    event.listen(engine, "checkin", _note_use)
    psycopg2.extensions.set_wait_callback(_wait_for_server)


class PlainReset(IsolationLevelCharacteristic):
    """Gives a connection back its transactions without a message to the server.

    SQLAlchemy sets the default level by its name. psycopg2 then tells it to the server, each
    time anew; and of its own default it says nothing.
    """

    def reset_characteristic(self, dialect: Dialect, dbapi_conn: Any) -> None:
        """Return to transactions of the server's default level."""
        dbapi_conn.set_session(isolation_level="DEFAULT", autocommit=False)

    @classmethod
    def attach(cls, engine: Engine) -> None:
        """Have an engine's connections reset so."""
        dialect = cast(DefaultDialect, engine.dialect)
        dialect.connection_characteristics = dialect.connection_characteristics.union(
            {"isolation_level": cls()}
        )


_USED = "used"  # when a pooled connection was used last, in monotonic seconds


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_USED] = time.monotonic()


def _has_hung_up(connection: Any) -> bool:
    """Say whether the server has said something unasked: it does when it ends a connection.

    That costs no message, unlike the question whether it is still there.
    """
    reading = psycopg2.extensions.POLL_READ
    return connection.closed or _wait_for_socket(connection.fileno(), reading, 0)


def _answers(engine: Engine, connection: Any) -> bool:
    """Ask: a firewall on the way may have forgotten a connection that was long unused."""
    try:
        return bool(engine.dialect.do_ping(connection))
    except psycopg2.Error:
        return False


def _wait_for_server(connection: Any) -> None:
    started = time.monotonic()
    own = getattr(connection, "timeout", None)
    ends = math.inf if own is None else started + own
    if _limits.overridden:
        ends = math.inf if _limits.ends is None else _limits.ends
    proof_due = started + PATIENCE
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        now = time.monotonic()
        # Raising makes psycopg2 drop the connection; closing it here would deadlock.
        if now >= ends:
            raise ServerSilent("the server did not answer in time")
        if now >= proof_due and isinstance(connection, _Connection):
            if not connection.server_talks(since=now - PATIENCE):
                raise ServerSilent("the server does not answer")
            proof_due = time.monotonic() + LATER_PATIENCE
        _wait_for_socket(connection.fileno(), state, min(ends, proof_due) - time.monotonic())


def _wait_for_socket(descriptor: int, state: int, seconds: float) -> bool:
    """Say whether a socket can be read, or written, within these seconds."""
    reading = state == psycopg2.extensions.POLL_READ
    seconds = max(0.0, seconds)
    if hasattr(select, "poll"):  # unlike select(), not limited to the first 1,024 descriptors
        poller = select.poll()
        poller.register(descriptor, select.POLLIN if reading else select.POLLOUT)
        return bool(poller.poll(math.ceil(seconds * 1000)))
    sockets = ([descriptor], []) if reading else ([], [descriptor])
    return any(select.select(*sockets, [], seconds))
