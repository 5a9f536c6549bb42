"""HTTP to WSGI and back without a socket: bytes in, an environ or a refusal; a response out."""

from __future__ import annotations

import io
import random
import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.malformed import CHUNKS, HEADS, HOST
from webapp.server.connection import IN_MEMORY, Body
from webapp.server.protocol import (
    LARGEST_HEAD,
    LONGEST_LINE,
    Refused,
    Request,
    Response,
    check_head_size,
    make_problem,
    parse_head,
)

BASE = {"SERVER_NAME": "localhost"}
GET = b"GET / HTTP/1.1\r\n"


def parse_headers(*headers: bytes, line: bytes = GET) -> Request:
    return parse_head(line + HOST + b"".join(header + b"\r\n" for header in headers) + b"\r\n", {})


def test_a_request_becomes_an_environ() -> None:
    head = b"POST /a%20b/%C3%A9?q=%20#f HTTP/1.1\r\nhost: x:1\r\nContent-Type: text/csv\r\n"
    head += b"Content-Length: 12\r\nX-One:\t1 \r\nx-one: 2\r\nX-Latin: \xe9\r\n\r\n"

    request = parse_head(head, BASE)

    assert request.environ == {
        "SERVER_NAME": "localhost",
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
    assert (request.length, request.keep_alive, request.expects_continue) == (12, True, False)
    assert BASE == {"SERVER_NAME": "localhost"}


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
    environ = parse_headers(line=line + b"\r\n").environ

    found = environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]
    assert found == (path, query, host)


@pytest.mark.parametrize(("head", "status"), HEADS)
def test_a_head_that_could_be_read_in_two_ways_or_is_too_large_is_refused(
    head: bytes, status: int
) -> None:
    with pytest.raises(Refused) as caught:
        parse_head(head, BASE)

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * (LONGEST_LINE - 5), None),
        (b"GET /" + b"x" * (LONGEST_LINE - 4), 414),
        (b"GET / HTTP/1.1\r\n" + b"x" * (LARGEST_HEAD - 16), None),
        (b"GET / HTTP/1.1\r\n" + b"x" * (LARGEST_HEAD - 15), 431),
    ],
)
def test_a_head_is_refused_before_it_has_ended(data: bytes, status: int | None) -> None:
    found = None
    try:
        check_head_size(data)
    except Refused as refused:
        found = refused.status
    assert found == status


def test_a_name_with_an_underscore_is_nobodys_header() -> None:
    request = parse_headers(b"X_Forwarded_For: evil", b"Content_Length: 9", b"Host_: y")

    names = {name for name in request.environ if name.startswith(("HTTP_", "CONTENT_"))}
    assert names == {"HTTP_HOST"}
    assert request.length == 0


def test_a_chunked_body_has_no_length_until_it_has_arrived() -> None:
    request = parse_headers(b"Transfer-Encoding: CHUNKED", b"Trailer: X")
    assert request.length is None

    request.set_body(io.BytesIO(b"abc"), 3)

    assert request.environ["CONTENT_LENGTH"] == "3"
    assert not {"HTTP_TRANSFER_ENCODING", "HTTP_TRAILER"} & set(request.environ)


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"X: y", True),
        (b"1.1", b"Connection: CLOSE", False),
        (b"1.1", b"Connection: keep-alive, close", False),
        (b"1.1", b"Connection: te\r\nConnection: close", False),
        (b"1.1", b"Connection: closed", True),
        (b"1.1", b"Connection: Upgrade\r\nUpgrade: h2c", True),
        (b"1.0", b"X: y", False),
        (b"1.0", b"Connection: Keep-Alive", True),
        (b"1.0", b"Connection: keep-alive, close", False),
    ],
)
def test_the_client_says_whether_the_connection_goes_on(
    version: bytes, connection: bytes, kept: bool
) -> None:
    line = b"GET / HTTP/%b\r\n" % version

    assert parse_headers(connection, line=line).keep_alive is kept
    assert parse_headers(connection, b"Content-Length: 3", line=line).keep_alive is kept


def test_an_expectation_of_http_1_0_is_ignored() -> None:
    expectation = b"Expect: 100-Continue"

    assert parse_headers(expectation).expects_continue
    assert not parse_headers(expectation, line=b"GET / HTTP/1.0\r\n").expects_continue


# Bodies

MOST = 3 * IN_MEMORY
NEXT = b"GET / HTTP/1.1\r\n"


def receive(pieces: list[bytes], *, length: int | None) -> tuple[bytes | None, bytes]:
    """Return the body, None if it is not complete, and what is left behind it."""
    buffer = bytearray()
    body = Body(length=length, most=MOST)
    with body.file as file:
        is_complete = body.take(buffer)
        for number, piece in enumerate(pieces):
            buffer += piece
            is_complete = body.take(buffer)
            if is_complete:
                buffer += b"".join(pieces[number + 1 :])
                break
        file.seek(0)
        found = file.read()
    assert len(found) == body.size
    return (found if is_complete else None), bytes(buffer)


def in_pieces(data: bytes, numbers: random.Random) -> list[bytes]:
    """Cut bytes at some places."""
    cuts = sorted(numbers.randrange(len(data) + 1) for _ in range(numbers.randrange(9)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def in_chunks(data: bytes, numbers: random.Random) -> bytes:
    """Return bytes in chunks as a client may send them."""
    framed = b""
    for piece in filter(None, in_pieces(data, numbers)):
        size = numbers.choice([b"%x", b"%X", b"%012x"]) % len(piece)
        framed += size + numbers.choice([b"", b";a", b';a="b c"']) + b"\r\n" + piece + b"\r\n"
    trailers = b"".join(b"X-%d: a\r\n" % number for number in range(numbers.randrange(3)))
    return framed + numbers.choice([b"0", b"000", b"0;x=y"]) + b"\r\n" + trailers + b"\r\n"


@pytest.mark.parametrize("seed", range(20))
def test_a_body_is_the_same_however_it_is_cut_and_ends_where_the_next_request_begins(
    seed: int,
) -> None:
    numbers = random.Random(seed)  # noqa: S311 (any will do)
    data = numbers.randbytes(numbers.choice([0, 1, 100, IN_MEMORY - 1, IN_MEMORY + 1, MOST]))

    assert receive(in_pieces(data + NEXT, numbers), length=len(data)) == (data, NEXT)
    assert receive(in_pieces(in_chunks(data, numbers), numbers), length=None) == (data, b"")


def test_a_chunked_body_is_complete_at_its_end_and_not_before() -> None:
    framed = b"3;x\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"

    for end in range(len(framed)):
        assert receive([framed[:end]], length=None)[0] is None
    assert receive([framed[n : n + 1] for n in range(len(framed))], length=None) == (b"abcde", b"")


def test_a_request_behind_a_chunked_body_is_noticed() -> None:
    body = Body(length=None, most=MOST)

    with body.file:
        assert body.take(bytearray(b"1\r\na\r\n0\r\n\r\n" + NEXT))

    assert body.is_followed


@pytest.mark.parametrize("framed", CHUNKS)
def test_chunks_that_could_be_read_in_two_ways_are_refused(framed: bytes) -> None:
    with pytest.raises(Refused) as caught:
        receive([framed + b"0\r\n\r\n"], length=None)

    assert caught.value.status == 400


@pytest.mark.parametrize(
    "piece", [b"8000\r\n%b\r\n" % bytes(0x8000), b"1;%b\r\na\r\n" % (b"x" * 999)]
)
def test_chunks_that_hold_too_much_or_mostly_extensions_are_refused(piece: bytes) -> None:
    with pytest.raises(Refused) as caught:
        receive([piece] * (3 * MOST // len(piece)), length=None)

    assert caught.value.status == 413


@pytest.mark.parametrize(("length", "data"), [(3, b"abc"), (None, b"3\r\nabc\r\n")])
def test_a_body_for_which_the_disk_has_no_room_is_refused(
    length: int | None, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: bytes) -> int:
        raise OSError("no space left on device")

    body = Body(length=length, most=MOST)
    body.file.close()
    monkeypatch.setattr(body, "file", SimpleNamespace(write=fail))

    with pytest.raises(Refused) as caught:
        body.take(bytearray(data))

    assert caught.value.status == 507


# Responses


class Wire:
    """Collects what a response sends."""

    def __init__(self, method: str = "GET", protocol: str = "HTTP/1.1") -> None:
        self.raw = b""
        environ = {"REQUEST_METHOD": method, "SERVER_PROTOCOL": protocol}
        request = Request(environ, length=0, keep_alive=True, expects_continue=False)
        self.response = Response(request, self._take)

    def _take(self, data: bytes) -> bool:
        self.raw += data
        return False

    @property
    def data(self) -> bytes:
        """Return it without the date."""
        return re.sub(rb"Date: .* GMT\r\n", b"", self.raw)


KEPT = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"
CHUNKED = KEPT + b"Transfer-Encoding: chunked\r\n\r\n"


def respond(
    headers: list[tuple[str, str]], parts: list[bytes], *, status: str = "200 OK", **options: Any
) -> Wire:
    wire = Wire(**options)
    wire.response.start(status, headers)
    wire.response.write_all(iter(parts))
    return wire


def with_length(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n" % length


def length(value: int) -> list[tuple[str, str]]:
    return [("Content-Length", str(value))]


def test_a_response_says_where_its_body_ends() -> None:
    assert respond(length(4), [b"ab", b"", b"cd"]).data == with_length(4) + b"abcd"
    assert respond([], [b"ab", b"", b"c"]).data == CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert respond([], []).data == CHUNKED + b"0\r\n\r\n"
    assert respond(length(0), []).data == with_length(0)


def test_a_response_that_may_have_no_body_gets_none() -> None:
    assert respond(length(2), [b"ab"], method="HEAD").data == with_length(2)
    assert respond([], [b"ab"], method="HEAD").data == KEPT + b"\r\n"
    for status in ("204 No Content", "304 Not Modified"):
        wire = respond([], [b"ab"], status=status)
        head = KEPT.replace(b"200 OK", status.encode())
        assert (wire.data, wire.response.keep_alive) == (head + b"\r\n", True)


def test_to_http_1_0_the_end_of_the_connection_ends_a_body_of_unknown_length() -> None:
    wire = respond([], [b"ab", b"c"], protocol="HTTP/1.0")

    assert wire.data == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    assert not wire.response.keep_alive
    assert respond(length(1), [b"a"], protocol="HTTP/1.0").data == with_length(1) + b"a"


def test_more_than_was_announced_is_cut_off_and_less_ends_the_connection() -> None:
    more, less = respond(length(3), [b"ab", b"cd", b"ef"]), respond(length(3), [b"ab"])

    assert (more.data, more.response.keep_alive) == (with_length(3) + b"abc", True)
    assert (less.data, less.response.keep_alive) == (with_length(3) + b"ab", False)


def test_the_applications_own_date_stands() -> None:
    assert b"yesterday" in respond([("date", "yesterday")], []).raw
    assert b"GMT" not in respond([("date", "yesterday")], []).raw
    assert b"GMT" in respond([], []).raw


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", [("X", "a\r\nY: b")]),
        ("200 OK", [("X\nY", "a")]),
        ("200 OK\rX: y", []),
        ("200 OK", [("X", "☃")]),
        ("200 OK", [("Connection", "close")]),
        ("200 OK", [("transfer-encoding", "chunked")]),
        ("200 OK", [("Content-Length", "many")]),
    ],
)
def test_a_head_that_would_say_something_else_is_not_sent(
    status: str, headers: list[tuple[str, str]]
) -> None:
    wire = Wire()
    wire.response.start(status, headers)

    with pytest.raises(ValueError):  # noqa: PT011 (the encoder's own is one, too)
        wire.response.write_all(iter([b"a"]))
    assert (wire.data, wire.response.head_sent) == (b"", False)


def test_a_response_is_started_once_unless_it_fails() -> None:
    wire = Wire()
    with pytest.raises(RuntimeError):
        wire.response.write(b"a")
    wire.response.start("200 OK", length(9))
    with pytest.raises(RuntimeError):
        wire.response.start("200 OK", [])

    wire.response.start("500 Broken", [], (ValueError, ValueError("broken"), None))
    wire.response.write(b"a")

    assert b"500 Broken" in wire.data
    assert b"Content-Length" not in wire.data
    with pytest.raises(ValueError, match="broken"):
        wire.response.start("500 Broken", [], (ValueError, ValueError("broken"), None))


def test_a_refusal_is_a_problem_with_a_date_that_ends_the_connection() -> None:
    head, _, body = make_problem(Refused(503, "Broken.")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    for header in (b"application/problem+json", b"Date: ", b"Retry-After: ", b"Connection: close"):
        assert header in head
    assert b'"detail": "Broken."' in body
