"""Heads of requests that a server must refuse, with the status that ours gives."""

from __future__ import annotations

from webapp.server.protocol import LARGEST_HEAD, LONGEST_LINE, MOST_HEADERS

HOST = b"Host: x\r\n"
LINES = (
    *(b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1"),
    *(b"GET\t/ HTTP/1.1", b"GET / x HTTP/1.1", b"GET /", b"GET / HTTP/", b"GET  HTTP/1.1"),
    *(b"\nGET / HTTP/1.1", b"\rGET / HTTP/1.1", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\nX: y"),
    *(b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1"),
    *(b"GET / HTTP/0.9", b"GET / HTTP/1.10", b"GET / http/1.1", b"GET / HTTP/2.0"),
    *(b"OPTIONS / RTSP/1.0", b"SOURCE / ICE/1.0", b"PRI * HTTP/2.0"),
    *(b"get / HTTP/1.1", b"NOTHING / HTTP/1.1", b"CONNECT x:443 HTTP/1.1", b"CONNECT /x HTTP/1.1"),
    *(b"GET * HTTP/1.1", b"GET x HTTP/1.1", b"GET ftp://x/ HTTP/1.1", b"GET http:///x HTTP/1.1"),
    b"GET http://u@x/ HTTP/1.1",
)
LENGTHS = (b"", b"-5", b"+5", b"0x5", b"5_0", b"5.0", b"5, 5", b"5 5", b"\xb2", b"9" * 20)
HEADERS = (
    *(b"X: a\r\n b", b" X: a", b"X: a\rY: b", b"X: a\nY: b", b"X: a\x00b"),  # folded, split
    *(b"X : a", b"X\t: a", b"X", b": a", b"X(: a", b"X\xe9: a"),  # not a name and a colon
    *(b"Host: y", b"HOST: x", b"Authorization: a\r\nAuthorization: a"),  # given twice
    *(b"Content-Type: a\r\nContent-Type: b", b"Expect: 100-continue\r\nExpect: 100-continue"),
    *(b"Content-Length: " + length for length in LENGTHS),
    *(b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length : 5"),
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    *(b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding:"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, gzip"),
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
)


def with_header(header: bytes) -> bytes:
    """Return a head with one header of its own."""
    return b"POST / HTTP/1.1\r\n" + HOST + header + b"\r\n\r\n"


HEADS: list[tuple[bytes, int]] = [
    *((line + b"\r\n" + HOST + b"\r\n", 400) for line in LINES),
    *((with_header(header), 400) for header in HEADERS),
    (with_header(b"Transfer-Encoding: gzip, chunked"), 501),
    (with_header(b"Expect: miracles"), 417),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"GET /" + b"x" * LONGEST_LINE + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    (with_header(b"X: " + b"x" * LARGEST_HEAD), 431),
    (with_header(b"\r\n".join(b"X%d: a" % number for number in range(MOST_HEADERS))), 431),
]
CHUNKS = (
    *(b"x\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\na\r\n", b"1\na\r\n", b"f" * 17 + b"\r\n"),  # sizes
    *(b"1;\0\r\na\r\n", b"1;a\nb\r\na\r\n", b"1;\r\r\na\r\n"),  # extensions
    *(b"1\r\nab\r\n", b"1\r\na0\r\n", b"1\r\na\n0\r\n", b"2\r\na\r\n0\r\n"),  # data
    *(b"0\r\nX\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\n\n"),  # trailers
    b"0\r\nGET / HTTP/1.1\r\n\r\n",
)
