"""Sending requests: a wrong or refused answer never becomes a figure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.exchange import Answer, Exchange, WrongAnswer, drive, send
from benchmarks.load_generator import AnswerReader
from benchmarks.work import check_value

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"


class Handler(BaseHTTPRequestHandler):
    """Answers the posted body, and 503 to ``/away``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503 if self.path == "/away" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Lets a load hang up in the middle of an answer, as it does at its end."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """URL of a server that answers what it was sent."""
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def exchange(path: str = "/", expected: object = 4.0) -> Exchange:
    check = check_value(200, lambda body: body["prediction"], expected)
    return Exchange("POST", path, check, b'{"prediction": 4.0}')


def test_a_right_answer_is_returned_and_a_load_of_them_has_a_time_per_answer(url: str) -> None:
    assert send(url, exchange()).body == {"prediction": 4.0}
    assert 0 < drive(url, exchange(), connections=3, seconds=1) < 0.1


@pytest.mark.parametrize(
    "wrong", [exchange(expected=4.0001), exchange(expected="4.0"), exchange("/away")]
)
def test_an_answer_of_another_value_or_status_is_refused(url: str, wrong: Exchange) -> None:
    with pytest.raises(WrongAnswer):
        send(url, wrong)


@pytest.mark.parametrize("body", [{}, [], "text", {"prediction": None}, {"prediction": [4.0]}])
def test_an_answer_of_another_shape_is_refused(body: object) -> None:
    with pytest.raises(WrongAnswer):
        exchange().check(Answer(200, body, 0.1))


def test_a_load_that_is_refused_or_not_answered_is_no_figure(url: str) -> None:
    with pytest.raises(WrongAnswer, match="1 errors among 0 answers"):
        drive(url, exchange("/away"), connections=1, seconds=1)
    with pytest.raises(WrongAnswer, match="refused"):
        drive("http://127.0.0.1:1", exchange(), connections=1, seconds=1)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_is_whole_once_its_length_has_come(size: int) -> None:
    reader = AnswerReader()
    parts = [OK[start : start + size] for start in range(0, len(OK), size)]

    assert [reader.take(part) for part in parts] == [None] * (len(parts) - 1) + [True]
    assert reader.take(OK.replace(b"200", b"503")) is False
    assert reader.take(OK.replace(b"Content-Length", b"X-Length")) is False
