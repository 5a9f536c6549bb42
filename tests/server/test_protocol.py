"""HTTP to WSGI and back without a socket: bytes in, an environ or a refusal; an answer out."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from webapp.server.protocol import (
    LARGEST_HEAD,
    Answer,
    Limits,
    Refused,
    Request,
    base_environ,
    check_unfinished_head,
    make_refusal,
    parse_head,
)

LIMITS = Limits(line=100, header=200, headers=10)
BASE = base_environ("localhost", 8000, multiprocess=False)
GET = b"GET / HTTP/1.1\r\n"
HOST = b"Host: x\r\n"


def parse(data: bytes) -> Request:
    return parse_head(data, BASE, LIMITS)


def parse_headers(*headers: bytes) -> Request:
    return parse(GET + HOST + b"".join(header + b"\r\n" for header in headers) + b"\r\n")


def status_of(data: bytes) -> int:
    with pytest.raises(Refused) as caught:
        parse(data)
    return caught.value.status


def test_a_request_becomes_an_environ() -> None:
    head = b"POST /a%20b/%C3%A9?q=%20#f HTTP/1.1\r\nhost: x:1\r\nContent-Type: text/csv\r\n"
    head += b"Content-Length: 12\r\nX-One:\t1 \r\nx-one: 2\r\nX-Latin: \xe9\r\n\r\n"

    request = parse(head)

    assert {key: value for key, value in request.environ.items() if key not in BASE} == {
        "REQUEST_METHOD": "POST",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "RAW_URI": "/a%20b/%C3%A9?q=%20#f",
        "REQUEST_URI": "/a%20b/%C3%A9?q=%20#f",
        "PATH_INFO": "/a b/Ã©",
        "QUERY_STRING": "q=%20",
        "HTTP_HOST": "x:1",
        "CONTENT_TYPE": "text/csv",
        "CONTENT_LENGTH": "12",
        "HTTP_X_ONE": "1,2",
        "HTTP_X_LATIN": "é",
    }
    assert (request.length, request.keep_alive) == (12, True)
    assert not request.expects_continue
    assert "HTTP_HOST" not in BASE


@pytest.mark.parametrize(
    ("line", "path", "query", "host"),
    [
        (b"GET http://y:2/p?q HTTP/1.1", "/p", "q", "y:2"),
        (b"GET HTTPS://y HTTP/1.1", "/", "", "y"),
        (b"GET http://y?q HTTP/1.1", "/", "q", "y"),
        (b"GET //y/p HTTP/1.1", "//y/p", "", "x"),
        (b"OPTIONS * HTTP/1.1", "*", "", "x"),
        (b"GET /? HTTP/1.0", "/", "", "x"),
    ],
)
def test_a_target_may_name_a_host(line: bytes, path: str, query: str, host: str) -> None:
    environ = parse(line + b"\r\n" + HOST + b"\r\n").environ

    found = environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]
    assert found == (path, query, host)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b" GET / HTTP/1.1", 400),
        (b"\nGET / HTTP/1.1", 400),
        (b"\rGET / HTTP/1.1", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b"GET /\tx HTTP/1.1", 400),
        (b"GET / x HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"GET /\xff HTTP/1.1", 400),
        (b"GET /\xc3\xa9 HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r", 400),
        (b"GET / HTTP/1.1\nX: y", 400),
        (b"GET /", 400),
        (b"GET / HTTP/0.9", 400),
        (b"GET / HTTP/1.2", 400),
        (b"GET / HTTP/1.10", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/2.0", 505),
        (b"OPTIONS / RTSP/1.0", 400),
        (b"DESCRIBE / RTSP/1.0", 400),
        (b"SOURCE / ICE/1.0", 400),
        (b"PRI * HTTP/2.0", 400),
        (b"get / HTTP/1.1", 400),
        (b"NOTHING / HTTP/1.1", 400),
        (b"CONNECT x:443 HTTP/1.1", 400),
        (b"CONNECT /x HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET x HTTP/1.1", 400),
        (b"GET ftp://x/ HTTP/1.1", 400),
        (b"GET http:///x HTTP/1.1", 400),
        (b"GET http://u@x/ HTTP/1.1", 400),
        (b"GET /" + b"x" * 87 + b" HTTP/1.1", 414),
    ],
)
def test_a_line_that_is_no_request_is_refused(line: bytes, status: int) -> None:
    assert status_of(line + b"\r\n" + HOST + b"\r\n") == status


def test_the_longest_line_is_taken() -> None:
    assert parse(b"GET /" + b"x" * 86 + b" HTTP/1.1\r\n" + HOST + b"\r\n").length == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"X: a\r\n b", 400),
        (b"X: a\r\n\tb", 400),
        (b"X:\r\n b", 400),
        (b" X: a", 400),
        (b"X: a\rY: b", 400),
        (b"X: a\nY: b", 400),
        (b"X: a\x00b", 400),
        (b"X: a\x0bb", 400),
        (b"X: a\x7fb", 400),
        (b"X : a", 400),
        (b"X\t: a", 400),
        (b"X", 400),
        (b": a", 400),
        (b"X(: a", 400),
        (b"X\xe9: a", 400),
        (b"X\x00: a", 400),
        (b"Host: y", 400),
        (b"HOST: x", 400),
        (b"Authorization: a\r\nAuthorization: a", 400),
        (b"Content-Type: a\r\nContent-Type: b", 400),
        (b"Content-Length: 5\r\nContent-Length: 5", 400),
        (b"Content-Length: 5\r\nContent-Length: 6", 400),
        (b"Content-Length: 5, 5", 400),
        (b"Content-Length: 5 5", 400),
        (b"Content-Length:", 400),
        (b"Content-Length: +5", 400),
        (b"Content-Length: -5", 400),
        (b"Content-Length: 0x5", 400),
        (b"Content-Length: 5_0", 400),
        (b"Content-Length: 5.0", 400),
        (b"Content-Length: \xb2", 400),
        (b"Content-Length: 99999999999999999999", 400),
        (b"Content-Length : 5", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"Transfer-Encoding:\x0bchunked", 400),
        (b"Transfer-Encoding: identity", 400),
        (b"Transfer-Encoding: xchunked", 400),
        (b"Transfer-Encoding: chunked, gzip", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        (b"Transfer-Encoding:", 400),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: ,chunked", 501),
        (b"Transfer-Encoding: chunked, chunked", 400),
        (b"Expect: miracles", 417),
        (b"Expect:", 417),
        (b"Expect: 100-continue\r\nExpect: 100-continue", 400),
        (b"X: " + b"x" * 200, 431),
        (b"\r\n".join(b"X%d: a" % number for number in range(10)), 431),
        (b"\r\n".join([b"X: " + b"x" * 190] * 400), 431),
    ],
)
def test_headers_that_could_be_read_in_two_ways_are_refused(headers: bytes, status: int) -> None:
    assert status_of(GET + HOST + headers + b"\r\n\r\n") == status


def test_a_request_of_http_1_1_names_a_host() -> None:
    assert status_of(GET + b"\r\n") == 400
    assert parse(b"GET / HTTP/1.0\r\n\r\n").environ["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_http_1_0_has_no_chunks() -> None:
    assert status_of(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n") == 400


def test_a_name_with_an_underscore_is_nobodys_header() -> None:
    request = parse_headers(b"X_Forwarded_For: evil", b"Content_Length: 9", b"Host_: y")

    names = {name for name in request.environ if name.startswith(("HTTP_", "CONTENT_"))}
    assert names == {"HTTP_HOST"}
    assert request.length == 0


@pytest.mark.parametrize("coding", [b"chunked", b"CHUNKED"])
def test_a_body_in_chunks_has_no_length_until_it_has_come(coding: bytes) -> None:
    request = parse_headers(b"Transfer-Encoding: " + coding + b"\r\nTrailer: X")
    assert request.length is None

    request.give_body(io.BytesIO(b"abc"), 3)

    assert request.environ["CONTENT_LENGTH"] == "3"
    assert not {"HTTP_TRANSFER_ENCODING", "HTTP_TRAILER"} & set(request.environ)


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: CLOSE\r\n", False),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: te\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.1", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
@pytest.mark.parametrize("body", [b"", b"Content-Length: 3\r\n"])
def test_the_client_says_whether_the_connection_goes_on(
    version: bytes, connection: bytes, kept: bool, body: bytes
) -> None:
    request = parse(b"GET / HTTP/%b\r\n" % version + HOST + connection + body + b"\r\n")

    assert request.keep_alive is kept


def test_an_expectation_of_http_1_0_is_passed_over() -> None:
    expectation = HOST + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n"

    assert parse(GET + expectation).expects_continue
    assert not parse(b"GET / HTTP/1.0\r\n" + expectation).expects_continue


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 95, None),
        (b"GET /" + b"x" * 96, 414),
        (b"GET / HTTP/1.1\r\n" + b"x" * (LARGEST_HEAD - 16), None),
        (b"GET / HTTP/1.1\r\n" + b"x" * (LARGEST_HEAD - 15), 431),
    ],
)
def test_a_head_is_refused_before_it_has_ended(data: bytes, status: int | None) -> None:
    try:
        check_unfinished_head(data, LIMITS)
    except Refused as refused:
        assert refused.status == status  # noqa: PT017 (None stands for no exception)
    else:
        assert status is None


# Answers


class Wire:
    """Collects what an answer sends; dates are taken out."""

    def __init__(self, method: str = "GET", protocol: str = "HTTP/1.1") -> None:
        self.data = b""
        self.goes_on = True
        self.answer = Answer(
            send=self._take,
            method=method,
            protocol=protocol,
            keep_alive=True,
            may_go_on=lambda: self.goes_on,
        )

    def _take(self, data: bytes) -> None:
        self.data += re.sub(rb"Date: .* GMT\r\n", b"", data)


KEPT = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"
CHUNKED = KEPT + b"Transfer-Encoding: chunked\r\n\r\n"


def answer(
    headers: list[tuple[str, str]],
    parts: list[bytes],
    *,
    status: str = "200 OK",
    **options: Any,
) -> Wire:
    wire = Wire(**options)
    wire.answer.start(status, headers)
    wire.answer.write_all(parts)
    return wire


def with_length(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n" % length


def length(value: int) -> list[tuple[str, str]]:
    return [("Content-Length", str(value))]


def test_an_answer_has_one_frame() -> None:
    assert answer(length(4), [b"ab", b"", b"cd"]).data == with_length(4) + b"abcd"
    assert answer([], [b"ab", b"", b"c"]).data == CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert answer([], []).data == CHUNKED + b"0\r\n\r\n"
    assert answer(length(0), []).data == with_length(0)
    assert answer(length(100_000), [b"x" * 100_000]).data == with_length(100_000) + b"x" * 100_000


def test_an_answer_without_a_body_gets_none() -> None:
    assert answer(length(2), [b"ab"], method="HEAD").data == with_length(2)
    assert answer([], [b"ab"], method="HEAD").data == KEPT + b"\r\n"
    for status in ("204 No Content", "304 Not Modified"):
        wire = answer([], [b"ab"], status=status)
        head = KEPT.replace(b"200 OK", status.encode())
        assert (wire.data, wire.answer.keep_alive) == (head + b"\r\n", True)


def test_to_http_1_0_the_end_of_the_connection_ends_a_body_of_unknown_length() -> None:
    wire = answer([], [b"ab", b"c"], protocol="HTTP/1.0")

    assert wire.data == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    assert not wire.answer.keep_alive
    assert answer(length(1), [b"a"], protocol="HTTP/1.0").data == with_length(1) + b"a"


def test_more_than_was_announced_is_cut_off_and_less_ends_the_connection() -> None:
    more, less = answer(length(3), [b"ab", b"cd", b"ef"]), answer(length(3), [b"ab"])

    assert (more.data, more.answer.sent) == (with_length(3) + b"abc", 3)
    assert more.answer.keep_alive
    assert less.data == with_length(3) + b"ab"
    assert not less.answer.keep_alive


def test_whether_the_connection_goes_on_is_asked_when_the_head_is_written() -> None:
    wire = Wire()
    wire.answer.start("200 OK", length(1))
    wire.goes_on = False

    wire.answer.write_all([b"a"])

    assert b"Connection: close\r\n" in wire.data
    assert not wire.answer.keep_alive


def test_the_applications_own_date_stands() -> None:
    sent: list[bytes] = []
    own = Wire().answer
    own.send = sent.append
    own.start("200 OK", [("date", "yesterday")])
    own.write_all([])

    assert b"".join(sent).lower().count(b"date: ") == 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", [("X", "a\r\nY: b")]),
        ("200 OK", [("X", "a\nb")]),
        ("200 OK", [("X", "a\rb")]),
        ("200 OK", [("X\r\nY", "a")]),
        ("200 OK\r\nX: y", []),
        ("200 OK", [("X", "☃")]),
        ("200 OK", [("Connection", "close")]),
        ("200 OK", [("transfer-encoding", "chunked")]),
        ("200 OK", [("Content-Length", "many")]),
    ],
)
def test_a_head_that_says_something_else_is_not_sent(
    status: str, headers: list[tuple[str, str]]
) -> None:
    wire = Wire()

    def send() -> None:
        wire.answer.start(status, headers)
        wire.answer.write_all([b"a"])

    with pytest.raises(ValueError):  # noqa: PT011 (the encoder's own is one, too)
        send()
    assert (wire.data, wire.answer.head_sent) == (b"", False)


def test_an_answer_is_started_once_unless_it_fails() -> None:
    wire = Wire()
    with pytest.raises(RuntimeError):
        wire.answer.write(b"a")
    wire.answer.start("200 OK", length(9))
    with pytest.raises(RuntimeError):
        wire.answer.start("200 OK", [])

    wire.answer.start("500 Broken", [], (ValueError, ValueError("broken"), None))
    wire.answer.write(b"a")

    assert b"500 Broken" in wire.data
    assert b"Content-Length" not in wire.data
    with pytest.raises(ValueError, match="broken"):
        wire.answer.start("500 Broken", [], (ValueError, ValueError("broken"), None))


def test_a_refusal_takes_the_answers_place() -> None:
    refused = Refused(500, "Broken.")
    got, asked = Wire(), Wire(method="HEAD")
    for wire in (got, asked):
        wire.answer.refuse(refused)

    assert got.answer.status.startswith("500 ")
    assert got.data.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b'"detail": "Broken."' in got.data
    assert asked.data.endswith(b"Connection: close\r\n\r\n")
    assert b"Date: " in make_refusal(refused)
