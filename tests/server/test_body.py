"""Bodies as they come: framing, limits, and where they wait."""

from __future__ import annotations

import errno
import random
from types import SimpleNamespace

import pytest

from webapp.server.body import IN_MEMORY, LONGEST_LINE, MOST_TRAILERS, Body
from webapp.server.protocol import Refused

MOST = 3 * IN_MEMORY
NEXT = b"GET / HTTP/1.1\r\n"
END = b"0\r\n\r\n"


def receive(pieces: list[bytes], *, length: int | None) -> tuple[bytes | None, bytes]:
    """Return the body, None where it is not complete, and what is left behind it."""
    buffer = bytearray()
    body = Body(buffer, length=length, most=MOST)
    with body.file as file:
        is_complete = body.take()
        for piece in pieces:
            buffer += piece
            is_complete = body.take()
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
        framed += size + numbers.choice([b"", b";a", b' ; a="b c";d']) + b"\r\n" + piece + b"\r\n"
    trailers = b"".join(b"X-%d: a\r\n" % number for number in range(numbers.randrange(3)))
    return framed + numbers.choice([b"0", b"000", b"0;x=y"]) + b"\r\n" + trailers + b"\r\n"


@pytest.mark.parametrize("seed", range(50))
def test_a_body_is_the_same_however_it_is_cut_and_ends_where_the_next_request_begins(
    seed: int,
) -> None:
    numbers = random.Random(seed)  # noqa: S311 (any will do)
    data = numbers.randbytes(numbers.choice([0, 1, 100, IN_MEMORY - 1, IN_MEMORY + 1, MOST]))
    plain, chunked = data + NEXT, in_chunks(data, numbers) + NEXT

    assert receive(in_pieces(plain, numbers), length=len(data)) == (data, NEXT)
    assert receive(in_pieces(chunked, numbers), length=None) == (data, NEXT)


def test_a_body_is_the_same_byte_by_byte() -> None:
    framed = b"3;x\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"
    assert receive([bytes([byte]) for byte in framed], length=None) == (b"abcde", b"")


@pytest.mark.parametrize("cut", range(len(b"3;x\r\nabc\r\n0\r\nX: y\r\n\r\n")))
def test_a_body_in_chunks_is_not_complete_before_its_end(cut: int) -> None:
    assert receive([b"3;x\r\nabc\r\n0\r\nX: y\r\n\r\n"[:cut]], length=None)[0] is None


@pytest.mark.parametrize(
    ("framed", "status"),
    [
        (b"\r\n", 400),
        (b"x\r\n", 400),
        (b"-1\r\n", 400),
        (b"+1\r\n", 400),
        (b"0x1\r\n", 400),
        (b"1_0\r\n", 400),
        (b" 1\r\na\r\n", 400),
        (b"1 \r\na\r\n", 400),
        (b"1\na\r\n" + END, 400),
        (b"1;\r\r\na\r\n", 400),
        (b"1;a\nb\r\na\r\n", 400),
        (b"1;\0\r\na\r\n", 400),
        (b"\xb9\r\na\r\n", 400),
        (b"f" * 17 + b"\r\n", 400),
        (b"1" * (LONGEST_LINE + 1), 400),
        (b"1;" + b"x" * LONGEST_LINE + b"\r\n", 400),
        (b"1\r\nab\r\n" + END, 400),
        (b"1\r\na" + END, 400),
        (b"1\r\na\n" + END, 400),
        (b"2\r\na\r\n" + END, 400),
        (b"0\r\n0\r\n\r\n", 400),
        (b"0\r\nX\r\n\r\n", 400),
        (b"0\r\nX : y\r\n\r\n", 400),
        (b"0\r\n X: y\r\n\r\n", 400),
        (b"0\r\nX: a\nY: b\r\n\r\n", 400),
        (b"0\r\n" + NEXT + b"\r\n", 400),
        (b"0\r\nX: " + b"y" * LONGEST_LINE + b"\r\n\r\n", 400),
        (b"0\r\n" + b"X: y\r\n" * (MOST_TRAILERS + 1) + b"\r\n", 431),
        (b"f" * 16 + b"\r\n", 413),
        (b"%x\r\n" % (MOST + 1), 413),
        (b"%x\r\n%b\r\n1\r\n" % (MOST, bytes(MOST)), 413),
    ],
)
def test_chunks_that_could_be_read_in_two_ways_or_are_too_many_are_refused(
    framed: bytes, status: int
) -> None:
    with pytest.raises(Refused) as caught:
        receive([framed], length=None)

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 507), (errno.ENOENT, 507), (errno.EMFILE, 503)]
)
def test_a_body_that_finds_no_room_is_refused(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Body(bytearray(b"abc"), length=3, most=3)

    def fail(_: bytes) -> int:
        raise OSError(number, "")

    body.file.close()
    monkeypatch.setattr(body, "file", SimpleNamespace(write=fail))

    with pytest.raises(Refused) as caught:
        body.take()

    assert caught.value.status == status
