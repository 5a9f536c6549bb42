"""A request's body while it comes: framing (RFC 9112, 6 and 7.1), limits, and where it waits."""

from __future__ import annotations

import errno
import re
from collections.abc import Generator
from tempfile import SpooledTemporaryFile

from webapp.server.protocol import Refused

IN_MEMORY = 65_536  # bytes of a body; a larger one waits in a temporary file
LONGEST_LINE = 1024  # bytes of a chunk's line with its extensions, or of a trailer
MOST_TRAILERS = 100
# A size, and extensions, which nobody here knows and which are therefore ignored (7.1.1).
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class Body:
    """A body that is moved from a connection's buffer into ``file``; ``size`` bytes have come.

    ``length`` is what was announced in bytes; None of a body in chunks, which may have ``most``.
    """

    def __init__(self, buffer: bytearray, *, length: int | None, most: int) -> None:
        # Closed by the connection once the request is answered.
        self.file = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self.size = 0
        self._buffer = buffer
        self._steps = self._take_chunks(most) if length is None else self._take(length)

    def take(self) -> bool:
        """Take what the buffer has; say whether the body is complete. Raises Refused."""
        try:
            return next(self._steps, True)
        except OSError as error:  # the folder for temporary files is full, or cannot be used
            status = 503 if error.errno in (errno.EMFILE, errno.ENFILE) else 507
            raise Refused(status, "The server has no room for the body at the moment.") from error

    def _take(self, length: int) -> Generator[bool, None, None]:
        """Take so many bytes; yield where more must come."""
        while length:
            piece = self._buffer[:length]
            del self._buffer[: len(piece)]
            self.file.write(piece)
            self.size += len(piece)
            length -= len(piece)
            if length:
                yield False

    def _take_chunks(self, most: int) -> Generator[bool, None, None]:
        while length := self._read_size((yield from self._take_line()), most):
            yield from self._take(length)
            if (yield from self._take_line()) != b"":
                raise Refused(400, "A chunk of the body is longer than its size says.")
        for _ in range(MOST_TRAILERS):  # headers behind the body: dropped, as 6.5.1 allows
            if not (line := (yield from self._take_line())):
                return
            if not _TRAILER.fullmatch(line):
                raise Refused(400, "A trailer of the body is not a name, a colon and a value.")
        raise Refused(431, f"The body has more than {MOST_TRAILERS} trailers.")

    def _read_size(self, line: bytearray, most: int) -> int:
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise Refused(400, "A chunk of the body does not begin with its size.")
        size = int(found[1], 16)
        if self.size + size > most:
            raise Refused(413, f"The body is longer than {most} bytes.")
        return size

    def _take_line(self) -> Generator[bool, None, bytearray]:
        """Take a line, without its end."""
        while (end := self._buffer.find(b"\r\n", 0, LONGEST_LINE + 2)) < 0:
            if len(self._buffer) > LONGEST_LINE:
                raise Refused(400, f"A line of the body's framing has over {LONGEST_LINE} bytes.")
            yield False
        line = self._buffer[:end]
        del self._buffer[: end + 2]
        return line
