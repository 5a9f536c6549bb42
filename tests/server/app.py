"""A WSGI application that behaves, and misbehaves, as a path says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Start = Callable[..., Callable[[bytes], None]]
BIG = 50 * 2**20  # bytes of an answer


def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    """Answer by the function that the path names, without one with 404."""
    answer = ANSWERS.get(environ["PATH_INFO"].strip("/"))
    if answer is None:
        return _send(start, b"nothing", status="404 Not Found")
    return answer(environ, start)


def _send(start: Start, body: bytes, *, status: str = "200 OK") -> list[bytes]:
    start(status, [("Content-Length", str(len(body)))])
    return [body]


def _echo(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    return _send(start, environ["wsgi.input"].read())


def _count(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    count = 0
    while piece := environ["wsgi.input"].read(65_536):
        count += len(piece)
    return _send(start, b"%d" % count)


def _environ(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    return _send(start, json.dumps({k: v for k, v in environ.items() if k.isupper()}).encode())


def _sleep(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    time.sleep(float(environ["QUERY_STRING"]))
    return _send(start, b"awake")


def _chunks(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    start("200 OK", [])
    return [b"one", b"", b"two"]


def _write(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    write = start("200 OK", [("Content-Length", "6")])
    write(b"one")
    return [b"two"]


def _less(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "9")])
    return [b"less"]


def _raise_late(environ: dict[str, Any], start: Start) -> Iterator[bytes]:
    start("200 OK", [])
    yield b"one"
    raise RuntimeError("late")


def _raise(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    start("200 OK", [])
    raise RuntimeError("early")


def _split(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    start("200 OK", [("X", "a\r\nY: b")])
    return [b"split"]


def _exit(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    raise SystemExit


ANSWERS: dict[str, Callable[[dict[str, Any], Start], Iterable[bytes]]] = {
    "": lambda _, start: _send(start, b"hello"),
    "big": lambda _, start: _send(start, bytes(BIG)),
    "chunks": _chunks,
    "count": _count,
    "echo": _echo,
    "environ": _environ,
    "exit": _exit,
    "less": _less,
    "raise": _raise,
    "raise-late": _raise_late,
    "refuse": lambda _, start: _send(start, b"too much", status="413 Content Too Large"),
    "sleep": _sleep,
    "split": _split,
    "write": _write,
}


def takes_body(environ: dict[str, Any]) -> bool:
    """Say whether a large body of a request would be read."""
    return str(environ["PATH_INFO"]) != "/refuse"


app.takes_body = takes_body  # type: ignore[attr-defined]
