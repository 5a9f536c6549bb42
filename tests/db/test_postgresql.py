"""Waiting for PostgreSQL: every wait ends, and a silent server is left alone until it responds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from webapp.db import postgresql
from webapp.db.base import begin_read
from webapp.db.engine import configure_engine, engine_options
from webapp.db.postgresql import ServerSilent, time_limit

LIMITS = {"PATIENCE": 0.2, "CHECK_TIMEOUT": 1.0, "PAUSE": 600.0}
TIMEOUT = 60  # seconds that a statement may take: far longer than any test waits


class Line:
    """A TCP proxy in front of a server that passes nothing on while it is silent."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.connections = 0
        self.messages = 0  # to the server
        self.passes = threading.Event()
        self.passes.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = [self.listener]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Connect every client to the server."""
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self.connections += 1
                far = socket.create_connection(self.target)
                self.sockets += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self.pump, args=ends, daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what one side sends."""
        with suppress(OSError):
            while data := source.recv(65536):
                self.passes.wait()
                self.messages += sink.getpeername() == self.target
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cut all connections."""
        self.passes.set()
        for end in self.sockets:
            end.close()


@pytest.fixture
def line(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Return a proxy in front of a real server, with short limits."""
    for name, seconds in LIMITS.items():
        monkeypatch.setattr(postgresql, name, seconds)
    url = sa.make_url(postgres_server)
    line = Line(str(url.host), url.port or 5432)
    yield line
    line.close()


@pytest.fixture
def engine(postgres_server: str, line: Line) -> Iterator[Engine]:
    """Return an engine that reaches the server through the proxy."""
    url = sa.make_url(postgres_server).set(
        drivername="postgresql+psycopg2", host="127.0.0.1", port=line.port
    )
    engine = sa.create_engine(url, **engine_options(url, pool_size=4, timeout=TIMEOUT))
    configure_engine(engine, timeout=TIMEOUT)
    yield engine
    line.passes.set()
    engine.dispose()


def ask(engine: Engine, sql: str = "SELECT 1") -> object:
    with engine.connect() as connection:
        return connection.scalar(sa.text(sql))


def assert_silent(engine: Engine, sql: str = "SELECT 1") -> None:
    with pytest.raises(OperationalError) as raised:
        ask(engine, sql)
    assert isinstance(raised.value.orig, ServerSilent)


def test_a_slow_statement_of_a_server_that_responds_goes_on(engine: Engine, line: Line) -> None:
    assert ask(engine, "SELECT 7 FROM pg_sleep(1)") == 7
    assert line.connections == 2  # its own, and the check whether the server responds


def test_a_server_that_falls_silent_ends_statements_and_is_refused_at_once(
    engine: Engine, line: Line
) -> None:
    ask(engine)
    threading.Timer(0.1, line.passes.clear).start()

    assert_silent(engine, "SELECT pg_sleep(30)")
    before = line.connections, line.messages
    for _ in range(20):
        assert_silent(engine)

    assert (line.connections, line.messages) == before


def test_a_server_that_responds_again_is_used_again(
    engine: Engine, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "PAUSE", 0.1)
    line.passes.clear()
    assert_silent(engine)

    line.passes.set()
    time.sleep(postgresql.PAUSE)

    assert [ask(engine) for _ in range(3)] == [1, 1, 1]


def test_a_server_that_refuses_is_not_silent(engine: Engine) -> None:
    url = engine.url.set(database="nothing_of_this_name")
    nowhere = sa.create_engine(url, **engine_options(url, pool_size=1, timeout=TIMEOUT))
    configure_engine(nowhere, timeout=TIMEOUT)

    for _ in range(3):
        with pytest.raises(OperationalError, match="does not exist"):
            ask(nowhere)


def test_a_wait_that_was_too_short_for_a_check_says_nothing_about_the_server(
    engine: Engine, line: Line
) -> None:
    line.passes.clear()
    with time_limit(0.05):
        assert_silent(engine)

    line.passes.set()

    assert ask(engine) == 1


def test_a_connection_that_was_closed_by_the_server_is_replaced(engine: Engine) -> None:
    first, second = engine.connect(), engine.connect()
    pid = first.scalar(sa.text("SELECT pg_backend_pid()"))
    first.close()
    second.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    second.close()

    assert [ask(engine) for _ in range(4)] == [1, 1, 1, 1]


def test_a_client_that_vanished_does_not_keep_its_locks(engine: Engine) -> None:
    assert ask(engine, "SHOW idle_in_transaction_session_timeout") == "1min"
    assert ask(engine, "SHOW statement_timeout") == f"{TIMEOUT // 60}min"


def test_a_read_costs_one_message_and_leaves_the_connection_with_transactions(
    engine: Engine, line: Line
) -> None:
    ask(engine)
    before = line.messages

    for _ in range(3):
        with Session(engine) as session:
            begin_read(session)
            assert session.scalar(sa.text("SELECT 1")) == 1

    assert line.messages - before == 3
    with Session(engine) as session:
        session.execute(sa.text("CREATE TABLE undone (id int)"))
    with Session(engine) as session:
        assert session.scalar(sa.text("SELECT to_regclass('undone')")) is None
