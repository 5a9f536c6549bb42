"""HTTP to WSGI and back without a socket: bytes in, an environ or a refusal; a response out."""

from __future__ import annotations

import io
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

GET = b"GET / HTTP/1.1\r\n"


def parse(*headers: bytes, line: bytes = GET) -> Request:
    return parse_head(line + HOST + b"".join(header + b"\r\n" for header in headers) + b"\r\n", {})


def test_a_request_becomes_an_environ() -> None:
    head = b"POST /a%20b/%C3%A9?q=%20#f HTTP/1.1\r\nhost: x:1\r\nContent-Type: text/csv\r\n"
    head += b"Content-Length: 12\r\nX-One:\t1 \r\nx-one: 2\r\nX-Latin: \xe9\r\n"
    head += b"X_Forwarded_For: evil\r\n\r\n"  # WSGI could not tell it from the one with dashes

    request = parse_head(head, {"SERVER_NAME": "localhost"})

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
    environ = parse(line=line + b"\r\n").environ

    found = environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]
    assert found == (path, query, host)


@pytest.mark.parametrize(("head", "status"), HEADS)
def test_a_head_that_could_be_read_in_two_ways_or_is_too_large_is_refused(
    head: bytes, status: int
) -> None:
    with pytest.raises(Refused) as caught:
        parse_head(head, {})

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("fits", "status"), [(b"x" * LONGEST_LINE, 414), (GET + b"x" * (LARGEST_HEAD - 16), 431)]
)
def test_a_head_that_is_too_large_is_refused_before_it_has_ended(fits: bytes, status: int) -> None:
    check_head_size(fits)

    with pytest.raises(Refused) as caught:
        check_head_size(fits + b"x")

    assert caught.value.status == status


def test_a_chunked_body_has_no_length_until_it_has_arrived() -> None:
    request = parse(b"Transfer-Encoding: CHUNKED", b"Trailer: X")
    assert request.length is None

    request.set_body(io.BytesIO(b"abc"), 3)

    assert request.environ["CONTENT_LENGTH"] == "3"
    assert not {"HTTP_TRANSFER_ENCODING", "HTTP_TRAILER"} & set(request.environ)


@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        (b"1.1", b"Expect: 100-Continue", True),
        (b"1.1", b"Connection: CLOSE", False),
        (b"1.1", b"Connection: keep-alive, close", False),
        (b"1.1", b"Connection: te\r\nConnection: close", False),
        (b"1.1", b"Connection: Upgrade\r\nUpgrade: h2c", True),
        (b"1.0", b"Expect: 100-Continue", False),
        (b"1.0", b"Connection: Keep-Alive", True),
        (b"1.0", b"Connection: keep-alive, close", False),
    ],
)
def test_the_client_says_how_the_connection_goes_on(
    version: bytes, header: bytes, kept: bool
) -> None:
    request = parse(header, b"Content-Length: 3", line=b"GET / HTTP/%b\r\n" % version)

    assert request.keep_alive is kept
    # HTTP/1.0 knows no expectations.
    assert request.expects_continue is (b"Expect" in header and version == b"1.1")


# Bodies

MOST = 3 * IN_MEMORY


def receive(*pieces: bytes, length: int | None) -> tuple[bytes | None, bytes]:
    """Return the body, None if it is not complete, and what is left behind it."""
    buffer = bytearray()
    body = Body(length=length, most=MOST)
    with body.file as file:
        is_complete = body.take(buffer)
        for piece in pieces:
            buffer += piece
            is_complete = is_complete or body.take(buffer)
        file.seek(0)
        found = file.read()
    assert len(found) == body.size
    return (found if is_complete else None), bytes(buffer)


@pytest.mark.parametrize(
    ("framed", "length", "body"),
    [
        (b"abcde", 5, b"abcde"),
        (b"0\r\n\r\n", None, b""),
        (b'3;x;y="a b"\r\nabc\r\n0002\r\nde\r\n000;z\r\nX: y\r\nZ: z\r\n\r\n', None, b"abcde"),
        (b"A\r\n%b\r\n0\r\n\r\n" % bytes(10), None, bytes(10)),
    ],
)
def test_a_body_is_the_same_however_it_is_cut_and_complete_at_its_end(
    framed: bytes, length: int | None, body: bytes
) -> None:
    for cut in range(len(framed)):
        assert receive(framed[:cut], length=length)[0] is None
        assert receive(framed[:cut], framed[cut:], length=length) == (body, b"")


def test_a_body_ends_where_the_next_request_begins() -> None:
    large, chunked = bytes(MOST), Body(length=None, most=MOST)

    assert receive(large[1:], b"\0" + GET, length=MOST) == (large, GET)
    with chunked.file:
        assert chunked.take(bytearray(b"1\r\na\r\n0\r\n\r\n" + GET))
    assert chunked.is_followed


@pytest.mark.parametrize(
    ("framed", "status"),
    [
        *((chunk + b"0\r\n\r\n", 400) for chunk in CHUNKS),
        (b"8000\r\n%b\r\n" % bytes(0x8000) * 7, 413),
        (b"1;%b\r\na\r\n" % (b"x" * 999) * 3 * MOST, 413),  # extensions alone
    ],
)
def test_chunks_that_could_be_read_in_two_ways_or_are_too_many_are_refused(
    framed: bytes, status: int
) -> None:
    with pytest.raises(Refused) as caught:
        receive(
            *(framed[n : n + IN_MEMORY] for n in range(0, len(framed), IN_MEMORY)), length=None
        )

    assert caught.value.status == status


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


def make_response(
    sent: list[bytes], *, method: str = "GET", protocol: str = "HTTP/1.1"
) -> Response:
    environ = {"REQUEST_METHOD": method, "SERVER_PROTOCOL": protocol}
    request = Request(environ, length=0, keep_alive=True, expects_continue=False)
    return Response(request, send=sent.append)  # type: ignore[arg-type] # None is not slow


def respond(
    headers: list[tuple[str, str]], *parts: bytes, status: str = "200 OK", **options: Any
) -> tuple[bytes, bool]:
    """Return what is sent, without its date, and whether the connection goes on."""
    sent: list[bytes] = []
    response = make_response(sent, **options)
    response.start(status, headers)
    response.write_all(iter(parts))
    data, dates = re.subn(rb"Date: .* GMT\r\n", b"", b"".join(sent))
    assert dates == (headers != DATED)
    return data, response.keep_alive


KEPT = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
CHUNKED = KEPT + b"Transfer-Encoding: chunked\r\n\r\n"
FOUR, DATED = [("Content-Length", "4")], [("date", "now")]
OF_FOUR = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "options", "sent"),
    [
        (FOUR, {}, OF_FOUR + b"abcd"),
        ([], {}, CHUNKED + b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"),
        (FOUR, {"method": "HEAD"}, OF_FOUR),
        ([], {"method": "HEAD"}, KEPT + b"\r\n"),
        ([], {"status": "204 No"}, KEPT.replace(b"200 OK", b"204 No") + b"\r\n"),
        ([], {"status": "304 No"}, KEPT.replace(b"200 OK", b"304 No") + b"\r\n"),
        (FOUR, {"protocol": "HTTP/1.0"}, OF_FOUR + b"abcd"),
        ([], {"protocol": "HTTP/1.0"}, CLOSED + b"\r\nabcd"),  # the connection's end is the body's
        (DATED, {"method": "HEAD"}, KEPT[:17] + b"date: now\r\n" + KEPT[17:] + b"\r\n"),
    ],
)
def test_a_response_says_where_its_body_ends_if_it_may_have_one(
    headers: list[tuple[str, str]], options: dict[str, str], sent: bytes
) -> None:
    assert respond(headers, b"ab", b"", b"cd", **options) == (sent, not sent.startswith(CLOSED))


def test_a_body_that_is_not_as_long_as_announced_is_cut_off_or_ends_the_connection() -> None:
    assert respond(FOUR, b"ab", b"cde", b"f") == (OF_FOUR + b"abcd", True)
    assert respond(FOUR, b"ab") == (OF_FOUR + b"ab", False)
    assert respond(FOUR) == (OF_FOUR, False)
    assert respond([]) == (CHUNKED + b"0\r\n\r\n", True)


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
    sent: list[bytes] = []
    response = make_response(sent)
    response.start(status, headers)

    with pytest.raises(ValueError):  # noqa: PT011 (the encoder's own is one, too)
        response.write(b"a")
    assert (sent, response.head_sent) == ([], False)


def test_a_response_is_started_once_unless_it_fails() -> None:
    sent: list[bytes] = []
    response = make_response(sent)
    failure = (ValueError, ValueError("broken"), None)
    with pytest.raises(RuntimeError):
        response.write(b"a")
    response.start("200 OK", FOUR)
    with pytest.raises(RuntimeError):
        response.start("200 OK", [])

    response.start("500 Broken", [], failure)
    response.write(b"a")

    assert b"500 Broken" in sent[0]
    assert b"Content-Length" not in sent[0]
    with pytest.raises(ValueError, match="broken"):
        response.start("500 Broken", [], failure)


def test_a_refusal_is_a_problem_with_a_date_that_ends_the_connection() -> None:
    head, _, body = make_problem(Refused(503, "Broken.")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    for header in (b"application/problem+json", b"Date: ", b"Retry-After: ", b"Connection: close"):
        assert header in head
    assert b'"detail": "Broken."' in body
