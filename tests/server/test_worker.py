"""The worker under a real gunicorn: what clients do to it, and what is done to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.app import BIG
from tests.server.runner import MAX_BODY, PATIENCE, Server, running
from webapp.server.protocol import Refused
from webapp.server.worker import EpollWorker

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="epoll is Linux's")

HOST = b"Host: x\r\n"
CLOSE = HOST + b"Connection: close\r\n"
LAST = b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
LATE = 8.0  # seconds after which a deadline of at most two has been missed, on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of one worker with two threads, for all that leaves it as it was."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running(log, "--access-logfile", "-") as server:
        yield server


def get(path: str, headers: bytes = HOST, *, method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} /{path} HTTP/{version}\r\n".encode() + headers + b"\r\n"


def post(path: str, length: int, body: bytes = b"", headers: bytes = HOST) -> bytes:
    return get(path, headers + b"Content-Length: %d\r\n" % length, method="POST") + body


def read_all(client: socket.socket) -> bytes:
    """Return what comes until the server closes, without the dates."""
    data = b""
    while piece := client.recv(2**20):
        data += piece
    return re.sub(rb"Date: .*? GMT\r\n", b"", data)


def talk(server: Server, data: bytes) -> bytes:
    with server.connect() as client:
        client.sendall(data)
        return read_all(client)


def wait_until(condition: Callable[[], bool], seconds: float = LATE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


# Framing: a second request on the connection shows where the first answer ends.


def kept(frame: bytes, *, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + frame


KEEP = b"Connection: keep-alive\r\n"
CHUNKED = KEEP + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get(""), kept(b"Content-Length: 5\r\n" + KEEP + b"\r\nhello")),
        (get("", method="HEAD"), kept(b"Content-Length: 5\r\n" + KEEP + b"\r\n")),
        (
            get("", HOST + b"Connection: keep-alive\r\n", version="1.0"),
            kept(b"Content-Length: 5\r\n" + KEEP + b"\r\nhello"),
        ),
        (get("chunks"), kept(CHUNKED)),
        (get("chunks", method="HEAD"), kept(KEEP + b"\r\n")),
        (get("write"), kept(b"Content-Length: 6\r\n" + KEEP + b"\r\nonetwo")),
        (post("echo", 3, b"abc"), kept(b"Content-Length: 3\r\n" + KEEP + b"\r\nabc")),
        (get("echo", HOST + b"Transfer-Encoding: chunked\r\n", method="POST")
         + b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n",
         kept(b"Content-Length: 3\r\n" + KEEP + b"\r\nabc")),
        (b"\r\n" + post("", 3, b"abc"), kept(b"Content-Length: 5\r\n" + KEEP + b"\r\nhello")),
        (get("no") * 2,
         kept(b"Content-Length: 7\r\n" + KEEP + b"\r\nnothing", status=b"404 Not Found") * 2),
    ],
)  # fmt: skip
def test_the_next_answer_begins_where_one_ends(
    server: Server, request_: bytes, answer: bytes
) -> None:
    assert talk(server, request_ + LAST) == answer + HELLO


PROBLEM = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/problem+json\r\n"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get("", CLOSE), HELLO),
        (get("", version="1.0"), HELLO),
        (get("chunks", version="1.0"), b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo"),
        (get("less"), kept(b"Content-Length: 9\r\n" + KEEP + b"\r\nless")),
        (get("raise-late"), kept(KEEP + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")),
        (get("raise"), PROBLEM),
        (get("split"), PROBLEM),
        (get("exit"), b""),
        (get("", b""), b"HTTP/1.1 400 Bad Request\r\n"),
        (get("refuse", HOST + b"Transfer-Encoding: chunked\r\n", method="POST"),
         b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n"
         b"Connection: close\r\n\r\ntoo much"),
        (post("refuse", 100_000, LAST), b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n"
         b"Connection: close\r\n\r\ntoo much"),
    ],
)  # fmt: skip
def test_an_answer_after_which_nothing_can_follow_ends_the_connection(
    server: Server, request_: bytes, answer: bytes
) -> None:
    answers = talk(server, request_ + get("") * 2)

    assert answers.startswith(answer)
    assert answers.count(b"HTTP/1.1 ") == bool(answer)
    assert answer in (PROBLEM, answers) or b" 400 " in answer
    assert talk(server, LAST) == HELLO


def test_a_body_is_continued_once_it_is_wanted(server: Server) -> None:
    expecting = HOST + b"Expect: 100-continue\r\n"
    for path, length in (("echo", 3), ("echo", 100_000)):
        with server.connect() as client:
            client.sendall(post(path, length, headers=expecting))
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"x" * length + LAST)
            assert read_all(client).endswith(b"\r\n\r\n" + b"x" * length + HELLO)

    refused = talk(server, post("refuse", 100_000, headers=expecting))

    assert refused.startswith(b"HTTP/1.1 413 ")


def test_a_client_can_read_what_refuses_the_body_it_is_sending(server: Server) -> None:
    answer = talk(server, post("refuse", 700_000, bytes(700_000)))
    assert answer.endswith(b"\r\n\r\ntoo much")
    body = bytes(20 * 2**20)
    for _ in range(3):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with suppress(BrokenPipeError):  # it is in the middle of sending
            client.request("POST", "/refuse", body)
        response = client.getresponse()
        assert (response.status, response.read()) == (413, b"too much")
        client.close()


def test_a_client_that_will_not_send_any_more_is_answered(server: Server) -> None:
    for request, answer in (
        (get("chunks", CLOSE), b"0\r\n\r\n"),
        (post("echo", 4, b"half"), b"\r\n\r\nhalf"),
        (post("echo", 9, b"half"), b"\r\n\r\nhalf"),  # the application can see what is missing
        (post("count", 100_000, b"half"), b"\r\n\r\n4"),
        (get("")[:-2], b""),
        (b"", b""),
    ):
        with server.connect() as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client).endswith(answer)


def test_the_access_log_tells_what_was_answered(server: Server) -> None:
    talk(server, get("environ?logged", CLOSE + b"User-Agent: me\r\n"))
    talk(server, get("raise?logged", CLOSE))

    line = r'127\.0\.0\.1 - - \[.*\] "GET /environ\?logged HTTP/1\.1" 200 [1-9]\d+ "-" "me"'
    server.wait_for(line)
    server.wait_for(r'"GET /raise\?logged HTTP/1\.1" 500 ')


# Clients that dawdle


@pytest.mark.slow
def test_dawdlers_hold_no_thread_and_do_not_live_for_ever(server: Server) -> None:
    dawdle = [b"GET / HTTP/1.1\r\nX: ", post("echo", 9, b"half"), b"G", b"\r\n", get("") + b"G"]
    with ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(dawdle[number % len(dawdle)])

        assert talk(server, LAST) == HELLO
        assert server.sockets() > 200

        for client in clients:
            assert b"HTTP/1.1 408 Request Timeout\r\n" in read_all(client)
    wait_until(lambda: server.sockets() == 1)


def drip(server: Server, request: bytes) -> float:
    """Return the seconds for which a server stands a byte now and then after a request."""
    with server.connect() as client:
        client.sendall(request)
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < LATE:
                client.sendall(b"x")
                time.sleep(0.1)
        return time.monotonic() - began


@pytest.mark.slow
def test_bytes_that_drip_do_not_renew_a_deadline(server: Server) -> None:
    requests = {
        "head": b"GET / HTTP/1.1\r\nX: ",
        "body": post("echo", 60_000),
        "long body": post("count", 100_000),
        "after the last answer": LAST,
    }
    stood: dict[str, float] = {}

    def note(name: str) -> None:
        stood[name] = drip(server, requests[name])

    threads = [threading.Thread(target=note, args=(name,)) for name in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {name for name, seconds in stood.items() if seconds >= LATE} == set()
    assert len(stood) == len(requests)
    wait_until(lambda: server.sockets() == 1)


@pytest.mark.slow
def test_an_answer_that_nobody_reads_frees_its_thread(server: Server) -> None:
    with ExitStack() as opened:
        for _ in range(4):  # twice as many as there are threads
            opened.enter_context(server.connect()).sendall(get("big"))
        time.sleep(0.2)

        began = time.monotonic()
        assert talk(server, LAST) == HELLO
        assert time.monotonic() - began < 2 * PATIENCE + LATE
        wait_until(lambda: server.sockets() == 1)


@pytest.mark.slow
def test_a_slow_reader_gets_all_of_a_long_answer(server: Server) -> None:
    with server.connect() as client:
        client.sendall(get("big", CLOSE))
        received = 0
        for share in range(1, 9):
            time.sleep(PATIENCE / 4)  # twice the patience in all, which is renewed by what passes
            while received < share * BIG // 8 and (piece := client.recv(2**20)):
                received += len(piece)
        received += len(read_all(client))
    assert received > BIG


def test_a_long_body_is_not_kept_in_memory(server: Server) -> None:
    (process,) = server.workers()
    status = Path(f"/proc/{process}/status")

    def peak() -> int:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]

    Path(f"/proc/{process}/clear_refs").write_text("5")  # begin to measure anew
    before, length = peak(), 64 * 2**20
    with server.connect() as client:
        client.sendall(post("count", length, headers=CLOSE))
        for _ in range(64):
            client.sendall(bytes(2**20))
        assert read_all(client).endswith(b"\r\n\r\n%d" % length)
    assert peak() < before + length // 4


CHUNKED_BODY = HOST + b"Transfer-Encoding: chunked\r\n"


def test_a_body_in_chunks_is_read_like_any_other(server: Server) -> None:
    for headers in (CHUNKED_BODY, CHUNKED_BODY + b"Expect: 100-continue\r\n"):
        with server.connect() as client:
            client.sendall(get("environ", headers, method="POST"))
            if b"Expect" in headers:
                assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            for _ in range(3):
                client.sendall(b"c8000\r\n%b\r\n" % bytes(0xC8000))
            client.sendall(b"0\r\n\r\n" + LAST)
            answer = read_all(client)
        assert f'"CONTENT_LENGTH": "{3 * 0xC8000}"'.encode() in answer
        assert b"TRANSFER_ENCODING" not in answer
        assert answer.endswith(HELLO)


def test_a_body_over_the_limit_is_not_taken(server: Server) -> None:
    with server.connect() as client:
        client.sendall(get("count", CHUNKED_BODY, method="POST") + b"%x\r\n" % (MAX_BODY + 1))
        assert read_all(client).startswith(b"HTTP/1.1 413 ")
    # The application is asked at once, and can see that nothing of it is there.
    answer = talk(server, post("count", MAX_BODY + 1))
    assert answer.endswith(b"Connection: close\r\n\r\n0")


def test_health_does_not_wait_for_its_turn_behind_others(server: Server) -> None:
    with ExitStack() as opened:
        for _ in range(10):  # there are turns for two
            opened.enter_context(server.connect()).sendall(get("sleep?1.5", CLOSE))
        time.sleep(0.2)
        began = time.monotonic()
        assert talk(server, get("health/live", CLOSE)).endswith(b"nothing")
        assert time.monotonic() - began < 1.2


# Limits and addresses


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that takes five clients at a time, and listens in three places."""
    path = tmp_path_factory.mktemp("small")
    binds = ["--bind", f"unix:{path / 'socket'}", "--bind", "[::1]:0"]
    with running(path / "log", "--worker-connections", "5", *binds) as server:
        yield server


def test_who_finds_no_room_is_served_later(small_server: Server) -> None:
    most = 5 + 3 + 2  # its clients, its listeners, and a thread may be about to accept one more
    with ExitStack() as opened:
        clients = [opened.enter_context(small_server.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(get("environ"))
        for client in clients:
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK")
            assert small_server.sockets() <= most
            client.close()


def test_the_oldest_idle_client_makes_room_for_a_newcomer(small_server: Server) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(small_server.connect()) for _ in range(5)]
        for client in clients:
            client.sendall(get(""))
            assert client.recv(1000)
            time.sleep(0.01)
        busy = opened.enter_context(small_server.connect())  # there is room for four who stay
        busy.sendall(get("sleep?2", CLOSE))

        for _ in range(3):
            assert talk(small_server, LAST) == HELLO

        assert clients[0].recv(1) == b""
        assert read_all(busy).endswith(b"awake")
        clients[-1].sendall(LAST)
        assert read_all(clients[-1]) == HELLO


def test_it_listens_where_gunicorn_can(small_server: Server) -> None:
    port = int(small_server.wait_for(r"http://\[::1\]:(\d+)"))
    path = str(small_server.log.with_name("socket"))
    local = socket.socket(socket.AF_UNIX)
    local.settimeout(10)
    local.connect(path)
    found = []
    for client in (local, socket.create_connection(("::1", port), timeout=10)):
        with client:
            client.sendall(get("environ", CLOSE))
            environ = json.loads(read_all(client).partition(b"\r\n\r\n")[2])
        found.append([environ[name] for name in ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")])

    assert found == [[path, "0", ""], ["::1", str(port), "::1"]]


@pytest.mark.slow
def test_a_worker_without_descriptors_accepts_again_when_it_has_some(server: Server) -> None:
    (process,) = server.workers()
    limits = resource.prlimit(process, resource.RLIMIT_NOFILE)
    wait_until(lambda: server.sockets() == 1)
    few = len(os.listdir(f"/proc/{process}/fd")) + 3
    resource.prlimit(process, resource.RLIMIT_NOFILE, (few, limits[1]))
    try:
        clients = [server.connect() for _ in range(10)]
        complaint = "Cannot accept connections for a moment: [Errno 24] Too many open files"
        server.wait_for(re.escape(complaint))
        time.sleep(0.5)
        assert server.log.read_text().count(complaint) < 20  # it waits, and does not spin
        answered = 0
        for client in clients:
            # The oldest one without a request is closed where there is no room.
            with client, suppress(ConnectionError):
                client.sendall(LAST)
                answered += read_all(client) == HELLO
        assert answered
        with server.connect() as client:
            client.sendall(LAST)
            assert read_all(client) == HELLO
    finally:
        resource.prlimit(process, resource.RLIMIT_NOFILE, limits)


# Stops


@pytest.mark.slow
def test_a_stop_answers_who_has_connected_and_waits_for_nobody_else(tmp_path: Path) -> None:
    arguments = ("--threads", "2", "--graceful-timeout", "3")
    with running(tmp_path / "log", *arguments) as server, ExitStack() as opened:
        idle, busy, stuck = (opened.enter_context(server.connect()) for _ in range(3))
        idle.sendall(get(""))
        idle.recv(1000)
        busy.sendall(get("sleep?1.5"))
        stuck.sendall(get("sleep?60"))  # with it, no thread is free for a while
        time.sleep(0.2)
        (process,) = server.workers()
        os.kill(process, signal.SIGSTOP)
        queued = [opened.enter_context(server.connect()) for _ in range(50)]
        for client in queued:
            client.sendall(get(""))

        server.process.send_signal(signal.SIGTERM)
        server.wait_for("Handling signal: term")
        time.sleep(0.3)
        os.kill(process, signal.SIGCONT)
        began = time.monotonic()
        time.sleep(0.5)
        idle.sendall(get(""))

        assert {read_all(client)[-7:] for client in queued} == {b"\r\nhello"}
        assert read_all(idle) == HELLO
        assert read_all(busy) == HELLO.replace(b"hello", b"awake")
        with suppress(ConnectionResetError):
            assert read_all(stuck) == b""
        assert server.process.wait(timeout=30) == 0
        assert time.monotonic() - began < LATE


@pytest.mark.slow
def test_workers_come_and_go_and_nobody_notices(tmp_path: Path) -> None:
    lost: list[str] = []
    answered = 0
    done = threading.Event()

    def ask() -> None:
        nonlocal answered
        while not done.is_set():
            try:
                assert talk(server, LAST) == HELLO
                answered += 1
            except (OSError, AssertionError) as error:
                lost.append(repr(error))

    arguments = ("--workers", "2", "--max-requests", "50", "--graceful-timeout", "2")
    with running(tmp_path / "log", *arguments) as server:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        stuck = server.connect()
        stuck.sendall(get("sleep?60"))
        for how, workers in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2)):
            server.process.send_signal(how)
            wait_until(lambda: len(server.workers()) == workers)  # noqa: B023
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & set(server.workers()))
        server.wait_for("Autorestarting worker")
        done.set()
        for thread in threads:
            thread.join()
        stuck.close()

    assert lost == []
    assert answered > 50


# The main thread alone


class Client:
    """A connection of which nothing has come, as the worker sees it."""

    fd, idle, lingering, request, answer, unsent, spooled = 10, True, None, None, None, 0, 0

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.closed = False

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class Stale(set[Any]):
    """A set of which one is seen that a thread has taken in the meantime."""

    def __init__(self, seen: Client, *armed: Client) -> None:
        super().__init__(armed)
        self.seen = seen

    def copy(self) -> set[Any]:
        """Return what has been in it."""
        return {self.seen}


@pytest.fixture
def worker() -> Iterator[Any]:
    """Return a worker without threads and listeners, that has no clients yet."""
    worker: Any = object.__new__(EpollWorker)
    worker.notify = lambda: None
    worker.cfg = SimpleNamespace(graceful_timeout=30)
    worker.PIPE = os.pipe()
    worker._listening, worker._listeners, worker._accepting = threading.Lock(), {}, False
    yield worker
    for end in worker.PIPE:
        os.close(end)


def test_a_deadline_does_not_take_the_connection_that_has_the_number_by_now(worker: Any) -> None:
    old, new = Client(deadline=0), Client(deadline=0)
    worker._connections, worker._armed = {new.fd: new}, Stale(old, new)

    worker._tick(0)

    assert new in worker._armed
    assert worker._connections == {new.fd: new}
    assert not old.closed


def test_the_slowest_are_given_up_where_all_together_hold_too_much(worker: Any) -> None:
    soon = time.monotonic() + 60
    clients = [Client(deadline=soon + number) for number in range(4)]
    for number, client in enumerate(clients):
        client.fd, client.spooled = number, 5
    clients[2].unsent, clients[3].unsent = 5, 5
    worker._connections = {client.fd: client for client in clients}
    worker._armed = set(clients[1:])  # the first one is being answered
    refused = []

    def refuse(client: Client, reason: Refused) -> None:
        refused.append((client, reason.status))
        del worker._connections[client.fd]

    worker._refuse = refuse

    worker._hold_below(10, lambda client: client.spooled)
    worker._hold_below(5, lambda client: client.unsent)

    assert refused == [(clients[1], 503)]
    assert [client.closed for client in clients] == [False, False, True, False]


def test_an_idle_client_does_not_hold_up_a_stop(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.server.worker.STOP_DEADLINE", 0.1)
    idle = Client(deadline=time.monotonic() + 60)
    worker._connections, worker._armed = {idle.fd: idle}, {idle}

    worker._stop()

    assert idle.closed
