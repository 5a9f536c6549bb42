"""HTTP to WSGI and back without a socket: bytes in, an environ or a refusal; a response out."""

from __future__ import annotations

import io
from unittest.mock import Mock

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
    assert parse(b"Expect: 100-Continue").expects_continue
    assert not parse(b"Expect: 100-continue", line=b"GET / HTTP/1.0\r\n").expects_continue


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
    # Of a chunked body nobody says where the next request begins.
    assert receive(framed + GET, length=length) == (body, GET if length else b"")


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
    pieces = [framed[n : n + IN_MEMORY] for n in range(0, len(framed), IN_MEMORY)]

    with pytest.raises(Refused) as caught:
        receive(*pieces, length=None)

    assert caught.value.status == status


@pytest.mark.parametrize(("length", "data"), [(3, b"abc"), (None, b"3\r\nabc\r\n")])
def test_a_body_for_which_the_disk_has_no_room_is_refused(length: int | None, data: bytes) -> None:
    body = Body(length=length, most=MOST)
    body.file.close()
    body.file = Mock(**{"write.side_effect": OSError("no space left on device")})

    with pytest.raises(Refused) as caught:
        body.take(bytearray(data))

    assert caught.value.status == 507


# Responses


def make_response(sent: list[bytes]) -> Response:
    environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"}
    request = Request(environ, length=0, keep_alive=True, expects_continue=False)
    return Response(request, send=sent.append)  # type: ignore[arg-type] # None is not slow


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
    response, failure = make_response(sent := []), (ValueError, ValueError("broken"), None)
    with pytest.raises(RuntimeError):
        response.write(b"a")
    response.start("200 OK", [("Content-Length", "4")])
    with pytest.raises(RuntimeError):
        response.start("200 OK", [])

    response.start("500 Broken", [], failure)
    response.write(b"a")

    assert sent[0].startswith(b"HTTP/1.1 500 Broken\r\nConnection: ")
    with pytest.raises(ValueError, match="broken"):
        response.start("500 Broken", [], failure)
