"""A load generator: processes that keep connections busy with one request again and again.

Run by `exchange.drive`, with the request on standard input. It reads of an answer no more than its
status and its length, to take little of the machine that the service runs on.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import selectors
import socket
import sys
import time

CHUNK = 1 << 18
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.I)


class AnswerReader:
    """Finds the end of each answer on a connection."""

    def __init__(self) -> None:
        self._received = b""
        self._missing: int | None = None  # bytes, once the length is known

    def take(self, data: bytes) -> bool | None:
        """Take in bytes; return whether the answer was good once it is whole, else None."""
        if self._missing is None:
            self._received += data
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            if not separator:
                return None
            length = _LENGTH.search(head)
            if length is None:
                return False
            self._missing = int(length[1]) - len(rest)
        else:
            self._missing -= len(data)
        if self._missing > 0:
            return None
        good = self._missing == 0 and self._received[9:10] == b"2"
        self._received, self._missing = b"", None
        return good


def keep_busy(
    address: tuple[str, int], request: bytes, n_connections: int, seconds: float
) -> tuple[int, int]:
    """Send a request on some connections for some seconds; return the answers and the errors."""
    selector = selectors.DefaultSelector()
    for _ in range(n_connections):
        connection = socket.create_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ, AnswerReader())
        connection.sendall(request)
    answers = errors = 0
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not errors:
        for key, _ in selector.select(left):
            data = key.fileobj.recv(CHUNK)
            good = key.data.take(data) if data else False
            if good:
                answers += 1
                key.fileobj.sendall(request)
            elif good is False:
                errors += 1
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    selector.close()
    return answers, errors


def main() -> None:
    """Print what all processes together have counted, as JSON."""
    host, port, connections, seconds, processes = sys.argv[1:]
    request, n_processes = sys.stdin.buffer.read(), int(processes)
    share, more = divmod(int(connections), n_processes)
    tasks = [
        ((host, int(port)), request, share + (number < more), float(seconds))
        for number in range(n_processes)
    ]
    with multiprocessing.Pool(n_processes) as pool:
        started = time.monotonic()
        results = pool.starmap(keep_busy, tasks, chunksize=1)
        took = time.monotonic() - started
    answers, errors = map(sum, zip(*results, strict=True))
    print(json.dumps({"answers": answers, "seconds": took, "errors": errors}))


if __name__ == "__main__":
    main()
