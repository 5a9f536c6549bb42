"""A load generator for machines without wrk: bare sockets, one loop per process.

It reads of an answer no more than it must to know that it has come: its status and its length.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CHUNK = 1 << 18
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.I)


@dataclass
class Connection:
    """A kept connection: what is to be sent of the request, and what has come of the answer."""

    socket: socket.socket
    to_send: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytes = b""
    missing: int | None = None  # bytes, once the length is known


def take(connection: Connection, data: bytes) -> bool | None:
    """Take in what has come; say whether the answer was well when it is whole, else None."""
    if connection.missing is not None:
        connection.missing -= len(data)
    else:
        connection.received += data
        head, separator, rest = connection.received.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = _LENGTH.search(head)
        if length is None:
            return False
        connection.missing = int(length[1]) - len(rest)
    if connection.missing > 0:
        return None
    well = connection.missing == 0 and connection.received[9:10] == b"2"
    connection.received, connection.missing = b"", None
    return well


def hammer(
    address: tuple[str, int], request: bytes, count: int, seconds: float
) -> tuple[int, int]:
    """Keep some connections busy for some seconds; return the answers and the errors."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        opened = socket.create_connection(address)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        selector.register(opened, selectors.EVENT_READ, connection := Connection(opened))
        _begin(selector, connection, request)
    answers = errors = 0
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0 and not errors:
        for key, event in selector.select(left):
            if event & selectors.EVENT_WRITE:
                _send(selector, key.data)
                continue
            data = key.data.socket.recv(CHUNK)
            well = take(key.data, data) if data else False
            if well is not None:
                answers += well
                errors += not well
                _begin(selector, key.data, request)
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    selector.close()
    return answers, errors


def _begin(selector: selectors.BaseSelector, connection: Connection, request: bytes) -> None:
    connection.to_send = memoryview(request)
    _send(selector, connection)


def _send(selector: selectors.BaseSelector, connection: Connection) -> None:
    waiting = selector.get_key(connection.socket).events & selectors.EVENT_WRITE
    try:
        sent = connection.socket.send(connection.to_send)
        connection.to_send = connection.to_send[sent:]
    except BlockingIOError:
        pass  # the event says when there is room again
    wanted = selectors.EVENT_WRITE if connection.to_send else 0
    if wanted != waiting:
        selector.modify(connection.socket, selectors.EVENT_READ | wanted, connection)


def build_request(url: str, method: str, path: str, content_type: str, body: bytes) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    if body:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def main() -> None:
    """Print what all processes together have counted, as JSON."""
    url, method, path, content_type, file, connections, seconds, processes = sys.argv[1:]
    parts = urlsplit(url)
    request = build_request(url, method, path, content_type, Path(file).read_bytes())
    address = (str(parts.hostname), int(parts.port or 80))
    share, more = divmod(int(connections), int(processes))
    counts = [share + (number < more) for number in range(int(processes))]
    tasks = [(address, request, count, float(seconds)) for count in counts]
    with multiprocessing.Pool(len(tasks)) as pool:
        started = time.monotonic()
        results = pool.starmap(hammer, tasks, chunksize=1)
        took = time.monotonic() - started
    answers, errors = map(sum, zip(*results, strict=True))
    print(json.dumps({"answers": answers, "seconds": took, "errors": errors}))


if __name__ == "__main__":
    main()
