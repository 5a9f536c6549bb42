"""The worker under a real gunicorn: what clients do to it, and what is done to it."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.gunicorn_server import GunicornServer, running_gunicorn, wait_until
from tests.server.app import BIG
from tests.server.runner import MAX_BODY, PATIENCE, WorkerThread, running_worker

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="epoll is Linux's")

HOST = b"Host: x\r\n"
CLOSE = HOST + b"Connection: close\r\n"
CHUNKED = HOST + b"Transfer-Encoding: chunked\r\n"
EXPECTING = b"Expect: 100-continue\r\n"
LAST = b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
LATE = 8.0  # seconds after which a deadline of at most two has been missed, on a busy machine


@pytest.fixture(scope="module")
def server() -> Iterator[WorkerThread]:
    """Return a worker with two threads, for all that leaves it as it was."""
    with running_worker() as server:
        yield server


def get(path: str, headers: bytes = HOST, *, method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} /{path} HTTP/{version}\r\n".encode() + headers + b"\r\n"


def post(path: str, length: int, body: bytes = b"", headers: bytes = HOST) -> bytes:
    return get(path, headers + b"Content-Length: %d\r\n" % length, method="POST") + body


def read_all(client: socket.socket) -> bytes:
    """Return what comes until the server closes, without the date that each answer has."""
    data = b""
    while piece := client.recv(2**20):
        data += piece
    assert data.lower().count(b"\r\ndate: ") == data.count(b"HTTP/1.1 ")
    return re.sub(rb"Date: .*? GMT\r\n", b"", data)


def talk(server: WorkerThread | GunicornServer, data: bytes) -> bytes:
    with server.connect() as client:
        client.sendall(data)
        return read_all(client)


# Framing: a second request on the connection shows where the first response ends.

KEEP = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"
PARTS = b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def kept(length: int, body: bytes = b"") -> bytes:
    return KEEP.replace(b"Conn", b"Content-Length: %d\r\nConn" % length) + b"\r\n" + body


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get(""), kept(5, b"hello")),
        (get("", HOST + b"Connection: keep-alive\r\n", version="1.0"), kept(5, b"hello")),
        (get("", HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), kept(5, b"hello")),
        (get("chunks"), KEEP + PARTS),
        (get("write"), kept(6, b"onetwo")),
        (get("echo"), kept(0)),
        (get("more"), kept(4, b"abcd").replace(b"Conn", b"date: now\r\nConn")),
        (get("", method="HEAD"), kept(5)),
        (get("chunks", method="HEAD"), KEEP + b"\r\n"),
        (get("status?204"), KEEP.replace(b"200 OK", b"204 No") + b"\r\n"),
        (get("status?304"), KEEP.replace(b"200 OK", b"304 No") + b"\r\n"),
        (post("echo", 3, b"abc"), kept(3, b"abc")),
        (b"\r\n" + post("", 3, b"abc"), kept(5, b"hello")),
        (get("no") * 2, kept(7, b"nothing").replace(b"200 OK", b"404 Not Found") * 2),
    ],
)
def test_the_next_response_begins_where_one_ends(
    server: WorkerThread, request_: bytes, answer: bytes
) -> None:
    assert talk(server, request_ + LAST) == answer + HELLO


PROBLEM = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/problem+json\r\n"
TOO_MUCH = (
    b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much"
)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get("", version="1.0"), HELLO),
        (get("", HOST + b"Connection: keep-alive, close\r\n", version="1.0"), HELLO),
        (get("", HOST + b"Connection: te\r\nConnection: CLOSE\r\n"), HELLO),
        (get("chunks", version="1.0"), KEEP.replace(b"keep-alive", b"close") + b"\r\nonetwo"),
        (get("less"), kept(9, b"less")),
        (get("raise-late"), KEEP + PARTS[:38]),
        (get("raise"), PROBLEM),
        (get("exit"), b""),
        (get("", b""), b"HTTP/1.1 400 Bad Request\r\n"),
        (get("refuse", CHUNKED, method="POST"), TOO_MUCH),
        (post("refuse", 100_000, LAST), TOO_MUCH),
        (get("echo", CHUNKED, method="POST") + b"1\r\na\r\n0\r\n\r\n",
         kept(1, b"a").replace(b"keep-alive", b"close")),  # it may hide what follows the body
    ],
)  # fmt: skip
def test_a_response_after_which_nothing_can_follow_ends_the_connection(
    server: WorkerThread, request_: bytes, answer: bytes
) -> None:
    answers = talk(server, request_ + get("") * 2)

    assert answers.startswith(answer)
    assert answers.count(b"HTTP/1.1 ") == bool(answer)
    assert answer in (PROBLEM, answers) or b" 400 " in answer
    assert talk(server, LAST) == HELLO


@pytest.mark.parametrize("expecting", [b"", EXPECTING])
@pytest.mark.parametrize(
    ("frame", "body"),
    [
        (b"Content-Length: 3\r\n", b"xxx"),
        (b"Content-Length: 100000\r\n", b"x" * 100_000),
        (b"Transfer-Encoding: chunked\r\n", b"186a0\r\n%b\r\n0\r\n\r\n" % (b"x" * 100_000)),
    ],
)
def test_a_body_is_taken_once_it_is_wanted_and_another_request_may_follow(
    server: WorkerThread, frame: bytes, body: bytes, expecting: bytes
) -> None:
    with server.connect() as client:
        client.sendall(get("count", HOST + frame + expecting, method="POST"))
        if expecting:
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        size = b"3" if body == b"xxx" else b"100000"
        assert client.recv(1000).endswith(b"\r\n\r\n" + size)
        client.sendall(LAST)
        assert read_all(client) == HELLO
        assert talk(server, get("refuse", CHUNKED + expecting, method="POST")) == TOO_MUCH


def test_a_client_can_read_what_refuses_the_body_it_is_sending(server: WorkerThread) -> None:
    for _ in range(3):
        client = http.client.HTTPConnection(*server.addresses[0].getsockname(), timeout=10)
        with suppress(BrokenPipeError):  # it is in the middle of sending
            client.request("POST", "/refuse", bytes(4 * 2**20))
        response = client.getresponse()
        assert (response.status, response.read()) == (413, b"too much")
        client.close()


@pytest.mark.parametrize(
    ("request_", "end"),
    [
        (get("chunks", CLOSE), b"0\r\n\r\n"),
        (post("echo", 9, b"half"), b"}\n"),
        (post("count", 100_000, b"half"), b"}\n"),
        (get("echo", CHUNKED, method="POST") + b"4\r\nhalf", b"}\n"),
        (get("")[:-2], b""),
        (b"", b""),
    ],
)
def test_a_client_that_will_not_send_any_more_is_answered(
    server: WorkerThread, request_: bytes, end: bytes
) -> None:
    with server.connect() as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        answer = read_all(client)

    assert answer.endswith(end)
    assert answer.startswith(b"HTTP/1.1 400 ") is (end == b"}\n")


# Clients that are slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "begun",
    [b"G", b"\r\n", get("")[:-2], post("echo", 60_000), post("count", 100_000, b"half")],
)
def test_slow_requests_hold_no_thread_and_no_byte_renews_their_deadline(
    server: WorkerThread, begun: bytes
) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(50)]
        clients[0].sendall(get(""))  # a second request is no different
        assert clients[0].recv(1000)
        for client in clients:
            client.sendall(begun)
        assert talk(server, LAST) == HELLO

        ends = time.monotonic() + LATE
        while not select.select(clients, [], [], 0.1)[0]:
            assert time.monotonic() < ends
            for client in clients:
                client.sendall(b"x")

        for client in clients:
            assert b"HTTP/1.1 408 Request Timeout\r\n" in read_all(client)
    wait_until(lambda: server.clients() == 0, LATE)


@pytest.mark.slow
def test_a_client_that_goes_on_sending_after_the_last_response_is_closed(
    server: WorkerThread,
) -> None:
    ends = time.monotonic() + LATE
    with server.connect() as client, suppress(ConnectionError):
        client.sendall(LAST)
        while True:
            client.sendall(b"x")
            time.sleep(0.1)
            assert time.monotonic() < ends


@pytest.mark.slow
def test_a_long_response_frees_its_thread_and_is_read_slowly_or_ended(
    server: WorkerThread,
) -> None:
    with ExitStack() as opened:
        for _ in range(4):  # twice as many as there are threads
            opened.enter_context(server.connect()).sendall(get("big"))
        client = opened.enter_context(server.connect())
        client.sendall(get("big", CLOSE))
        received = 0
        for share in range(1, 9):
            time.sleep(PATIENCE / 4)  # twice the patience in all, which is renewed by what passes
            while received < share * BIG // 8 and (piece := client.recv(2**20)):
                received += len(piece)
        received += len(read_all(client))
        assert received > BIG

        wait_until(lambda: server.clients() == 0, LATE)


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[GunicornServer]:
    """Return a gunicorn of one worker with two threads."""
    arguments = "-c python:tests.server.runner --workers 1 --graceful-timeout 3"
    with running_gunicorn("", tmp_path / "log", GUNICORN_CMD_ARGS=arguments) as server:
        yield server


def test_a_large_body_is_not_kept_in_memory_and_bounded(gunicorn: GunicornServer) -> None:
    process = Path(f"/proc/{gunicorn.workers().pop()}")

    def peak() -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
        return int(found[1]) * 1024  # type: ignore[index]

    (process / "clear_refs").write_text("5")  # begin to measure anew
    before = peak()
    answer = talk(gunicorn, post("count", MAX_BODY, bytes(MAX_BODY), CLOSE))
    assert answer.endswith(b"%d" % MAX_BODY)
    with gunicorn.connect() as client:
        client.sendall(get("count", CHUNKED, method="POST") + b"%x\r\n" % 2**40)
        with suppress(ConnectionError):
            for _ in range(2 * MAX_BODY // 2**20):
                client.sendall(bytes(2**20))
        assert read_all(client).startswith(b"HTTP/1.1 413 ")
    assert peak() < before + MAX_BODY // 4

    # The application is called at once, and can see that nothing of the body is there.
    answer = talk(gunicorn, post("count", MAX_BODY + 1))
    assert answer.endswith(b"Connection: close\r\n\r\n0")


def test_health_does_not_wait_behind_other_requests(server: WorkerThread) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(10)]
        for client in clients:  # there are threads for two
            client.sendall(get("sleep?1", CLOSE))
        assert talk(server, get("health/live", CLOSE)).endswith(b"nothing")

        assert not select.select([clients[-1]], [], [], 0)[0]


# Limits and addresses


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerThread]:
    """Return a worker that takes five clients at a time, and listens in three places."""
    path = tmp_path_factory.mktemp("small") / "socket"
    binds = ["127.0.0.1:0", "[::1]:0", f"unix:{path}"]
    with running_worker(worker_connections=5, bind=binds) as server:
        yield server


def test_who_finds_no_room_is_served_later(small_server: WorkerThread) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(small_server.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(get("environ"))
        for client in clients:
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK")
            assert small_server.clients() <= 5
            client.close()


def test_the_oldest_idle_client_makes_room_for_a_newcomer(small_server: WorkerThread) -> None:
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


def test_it_listens_where_gunicorn_can(small_server: WorkerThread) -> None:
    found = []
    for listener in small_server.addresses:
        with socket.socket(listener.family) as client:
            client.connect(listener.getsockname())
            client.sendall(get("environ", CLOSE))
            environ = json.loads(read_all(client).partition(b"\r\n\r\n")[2])
        found.append([environ[name] for name in ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")])

    ipv4, ipv6, path = (listener.getsockname() for listener in small_server.addresses)
    assert found[0] == ["127.0.0.1", str(ipv4[1]), "127.0.0.1"]
    assert found[1:] == [["::1", str(ipv6[1]), "::1"], [path, "0", ""]]


@pytest.mark.slow
def test_a_worker_without_descriptors_accepts_again_when_it_has_some(
    gunicorn: GunicornServer,
) -> None:
    (worker,) = map(psutil.Process, gunicorn.workers())
    _, most = worker.rlimit(psutil.RLIMIT_NOFILE)
    worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds() + 3, most))
    clients = [gunicorn.connect() for _ in range(10)]
    complaint = "Cannot accept connections for a moment: [Errno 24] Too many open files"
    wait_until(lambda: complaint in gunicorn.log.read_text(), LATE)
    time.sleep(0.5)
    assert gunicorn.log.read_text().count(complaint) < 20  # it waits, and does not spin
    answered = 0
    for client in clients:
        # The oldest one without a request is closed where there is no room.
        with client, suppress(ConnectionError):
            client.sendall(LAST)
            answered += read_all(client) == HELLO
    assert answered
    assert talk(gunicorn, LAST) == HELLO


def test_the_slowest_clients_are_given_up_if_all_together_hold_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("webapp.server.worker.MOST_UNSENT", BIG)
    with running_worker() as server, ExitStack() as opened:
        server.worker.max_body = 200_000
        senders = [opened.enter_context(server.connect()) for _ in range(3)]
        readers = [opened.enter_context(server.connect()) for _ in range(2)]
        for client in senders:  # at most 400,000 bytes in all
            client.sendall(post("count", 150_001, bytes(150_000)))
        for client in readers:
            client.sendall(get("big", CLOSE))

        (given_up, *_), _, _ = select.select(senders, [], [], 10)
        answer = read_all(given_up)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/")
        assert b"Retry-After: 5\r\nConnection: close\r\n\r\n{" in answer
        for client in set(senders) - {given_up}:
            client.sendall(LAST[:1])
            assert client.recv(1000).endswith(b"\r\n\r\n150001")
        assert sorted(len(read_all(client)) > BIG for client in readers) == [False, True]


# Stops


@pytest.mark.slow
def test_a_stop_answers_who_has_connected_and_waits_for_nobody_else(
    gunicorn: GunicornServer,
) -> None:
    (worker,) = map(psutil.Process, gunicorn.workers())
    with ExitStack() as opened:
        idle, busy, stuck = (opened.enter_context(gunicorn.connect()) for _ in range(3))
        idle.sendall(get(""))
        idle.recv(1000)
        busy.sendall(get("sleep?1.5"))
        stuck.sendall(get("sleep?60"))  # with it, no thread is free for a while
        time.sleep(0.2)
        worker.suspend()
        queued = [opened.enter_context(gunicorn.connect()) for _ in range(50)]
        for client in queued:
            client.sendall(get(""))

        gunicorn.process.terminate()
        wait_until(lambda: "Handling signal: term" in gunicorn.log.read_text(), LATE)
        time.sleep(0.3)
        worker.resume()
        time.sleep(0.5)
        idle.sendall(get(""))

        assert {read_all(client)[-7:] for client in queued} == {b"\r\nhello"}
        assert read_all(idle) == HELLO
        assert read_all(busy) == HELLO.replace(b"hello", b"awake")
        with suppress(ConnectionResetError):
            assert read_all(stuck) == b""
        assert gunicorn.process.wait(timeout=LATE) == 0


def test_an_idle_client_does_not_hold_up_a_stop() -> None:
    with running_worker() as server:
        idle = server.connect()
        idle.sendall(get(""))
        assert idle.recv(1000)
    with idle:
        assert idle.recv(1) == b""
