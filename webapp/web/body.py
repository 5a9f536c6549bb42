"""The body of a request as its sender had it: whole, unpacked, and no larger than allowed."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, NoReturn, Protocol, cast

from flask import abort
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.sansio.utils import get_content_length
from werkzeug.wsgi import LimitedStream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

PIECE = 64 * 1024  # bytes of a body that are read, or held packed, at a time
# What zlib calls the formats that HTTP calls gzip (RFC 1952) and deflate (RFC 1950).
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS}
_WINDOW_BITS |= {"deflate": zlib.MAX_WBITS}


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class MalformedBody(HTTPException):
    """The body cannot be read as what its headers say."""

    code = 400


def open_body(environ: WSGIEnvironment, limit: int) -> BinaryIO:
    """Return the unpacked body of a request, of at most ``limit`` bytes.

    The stream never ends early without a word: it raises 400 where the body is cut off or cannot
    be unpacked, and 413 where it goes on beyond the limit. A Content-Length beyond the limit is
    refused here (413), before anything is read; so are a body whose end nobody knows (411) and an
    encoding that cannot be unpacked (415).
    """
    encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() or "identity"
    if encoding != "identity" and encoding not in _WINDOW_BITS:
        abort(415, "The body must be sent plain, or with Content-Encoding: gzip or deflate.")
    source: _Source = environ["wsgi.input"]
    body: io.RawIOBase
    if transfer := environ.get("HTTP_TRANSFER_ENCODING"):
        if transfer.strip().lower() != "chunked" or not environ.get("wsgi.input_terminated"):
            abort(411, "The body must be sent with a Content-Length.")
        body = _Bounded(_Chunks(source), limit)
    else:
        length = content_length(environ) or 0
        if length > limit:
            _refuse_as_too_large(limit)
        body = LimitedStream(cast(BinaryIO, source), length)
    if encoding != "identity":
        return unpack(cast(BinaryIO, body), encoding, limit)
    return cast(BinaryIO, body)


def content_length(environ: WSGIEnvironment) -> int | None:
    """Return the length of a body in bytes, as it is sent; None where it is not given."""
    length: str | None = environ.get("CONTENT_LENGTH") or None
    return get_content_length(length, environ.get("HTTP_TRANSFER_ENCODING"))


def unpack(packed: BinaryIO, encoding: str, limit: int) -> BinaryIO:
    """Return what a stream holds in an encoding (gzip or deflate), of at most ``limit`` bytes.

    Takes a piece at a time, so that 1 MB which unpacks to 1 GB needs no more memory than any
    other. Reading raises 400 where the packed bytes are damaged, cut off or followed by others,
    and 413 beyond the limit.
    """
    return cast(BinaryIO, _Bounded(_Unpacked(packed, encoding), limit))


def _refuse_as_too_large(limit: int) -> NoReturn:
    abort(413, f"The body is larger than {limit:,} bytes (unpacked), the most that is taken here.")


class _Chunks:
    """A body in chunks, which the server puts together and ends."""

    def __init__(self, source: _Source) -> None:
        self._source = source

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        try:
            return self._source.read(size)
        except Exception as error:  # each server has errors of its own for chunks that are none
            raise ClientDisconnected("The body's chunks are malformed, or end early.") from error


class _Bounded(io.RawIOBase):
    """A stream that raises 413 instead of going on beyond a limit.

    Werkzeug's LimitedStream would end there as if the body did.
    """

    def __init__(self, source: _Source, limit: int) -> None:
        self._source = source
        self._limit = self._left = limit

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override] # as Werkzeug's
        """Fill a buffer with the next bytes; return how many."""
        data = self._source.read(min(len(buffer), self._left + 1)) if buffer else b""
        if len(data) > self._left:
            _refuse_as_too_large(self._limit)
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


class _Unpacked:
    """What a stream holds in gzip or deflate: exactly one, from the first byte to the last."""

    def __init__(self, packed: BinaryIO, encoding: str) -> None:
        self._packed = packed
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])

    def read(self, size: int, /) -> bytes:
        """Return 1 to ``size`` bytes, which is at least 1; none at the end."""
        try:
            data = self._unpacker.decompress(self._unpacker.unconsumed_tail, size)
            while not data and not self._unpacker.eof:
                piece = self._packed.read(PIECE)
                if not piece:
                    self._refuse("it ends early")
                data = self._unpacker.decompress(piece, size)
        except zlib.error:
            self._refuse("its bytes are damaged, or of another kind")
        if not data and (self._unpacker.unused_data or self._packed.read(1)):
            self._refuse("further bytes follow its end; pack everything in one go")
        return data

    def _refuse(self, reason: str) -> NoReturn:
        raise MalformedBody(f"What was sent as {self._encoding} cannot be unpacked: {reason}.")
