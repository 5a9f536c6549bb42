"""Sending requests: wrong and refused answers never become figures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.hammer import Connection, take
from benchmarks.load import Answer, Exchange, WrongAnswer, drive, read_report, send
from benchmarks.rows import check_value

WRK_TEXT = """Running 1s test @ http://127.0.0.1:8000/
  1 threads and 32 connections
Requests/sec:   4000.12

{"answers": %d, "seconds": 2.000000, "errors": %d}
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"


class Handler(BaseHTTPRequestHandler):
    """Answers the posted body doubled as JSON, and 503 to ``/away``."""

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


def exchange(path: str = "/", expected: float = 4.0) -> Exchange:
    check = check_value(200, lambda body: body["prediction"], expected)
    return Exchange("POST", path, check, b'{"prediction": 4.0}')


def test_the_report_of_a_load_gives_the_time_over_the_answers() -> None:
    assert read_report(WRK_TEXT % (8000, 0)) == pytest.approx(0.00025)


@pytest.mark.parametrize("text", [WRK_TEXT % (8000, 1), WRK_TEXT % (0, 0), "cannot connect", ""])
def test_a_load_with_refused_answers_or_none_is_no_figure(text: str) -> None:
    with pytest.raises(WrongAnswer):
        read_report(text)


def test_a_right_answer_is_returned(url: str) -> None:
    assert send(url, exchange()).body == {"prediction": 4.0}


@pytest.mark.parametrize("wrong", [exchange(expected=4.0001), exchange("/away")])
def test_an_answer_of_another_value_or_status_is_refused(url: str, wrong: Exchange) -> None:
    with pytest.raises(WrongAnswer):
        send(url, wrong)


@pytest.mark.parametrize("body", [{}, [], "text", {"prediction": None}, {"prediction": [4.0]}])
def test_an_answer_of_another_shape_is_refused(body: object) -> None:
    with pytest.raises(WrongAnswer):
        exchange().check(Answer(200, body, 0.1))


@pytest.fixture(params=["wrk", "hammer"])
def generator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each generator in turn; without wrk there is one."""
    if request.param == "hammer":
        monkeypatch.setattr("benchmarks.load.shutil.which", lambda name: None)
    return request.param


def test_a_load_tells_the_time_per_answer(url: str, generator: str) -> None:
    seconds = drive(url, exchange(), connections=3, seconds=1)

    assert 0 < seconds < 0.1, generator


def test_a_load_that_is_refused_is_no_figure(url: str, generator: str) -> None:
    with pytest.raises(WrongAnswer):
        drive(url, exchange("/away"), connections=1, seconds=1)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_is_whole_once_its_length_has_come(size: int) -> None:
    connection = Connection(socket=None)  # type: ignore[arg-type] # nothing is sent here
    parts = [OK[start : start + size] for start in range(0, len(OK), size)]

    assert [take(connection, part) for part in parts] == [None] * (len(parts) - 1) + [True]
    assert take(connection, OK.replace(b"200", b"503")) is False
    assert take(connection, OK.replace(b"Content-Length", b"X-Length")) is False
