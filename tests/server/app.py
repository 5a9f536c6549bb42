"""A WSGI application that behaves, and misbehaves, as a path says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]
BIG = 50 * 2**20  # bytes of a response


def app(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer as the path says."""
    path, query = environ["PATH_INFO"].strip("/"), environ["QUERY_STRING"]
    match path:
        case "chunks":
            start("200 OK", [])
            return [b"one", b"", b"two"]
        case "write":
            start("200 OK", [("Content-Length", "6")])(b"one")
            return [b"two"]
        case "less":
            start("200 OK", [("Content-Length", "9")])
            return [b"less"]
        case "more":
            start("200 OK", [("Content-Length", "4"), ("date", "now")])
            return [b"ab", b"cde", b"f"]
        case "status":
            start(f"{query} No", [])
            return [b"hidden"]
        case "raise-late":
            return _raise_late(start)
        case "raise":
            raise RuntimeError("early")
        case "exit":
            raise SystemExit
        case "sleep":
            time.sleep(float(query))
    status, body = {
        "": ("200 OK", lambda: b"hello"),
        "big": ("200 OK", lambda: bytes(BIG)),
        "count": ("200 OK", lambda: b"%d" % sum(map(len, _pieces(environ)))),
        "echo": ("200 OK", lambda: b"".join(_pieces(environ))),
        "health/ready": ("200 OK", lambda: b"ready"),
        "environ": ("200 OK", lambda: _strings(environ)),
        "refuse": ("413 Content Too Large", lambda: b"too much"),
        "sleep": ("200 OK", lambda: b"awake"),
    }.get(path, ("404 Not Found", lambda: b"nothing"))
    data = body()
    start(status, [("Content-Length", str(len(data)))])
    return [data]


def _pieces(environ: Environ) -> Iterator[bytes]:
    return iter(lambda: environ["wsgi.input"].read(65_536), b"")


def _strings(environ: Environ) -> bytes:
    return json.dumps({k: v for k, v in environ.items() if k.isupper()}).encode()


def _raise_late(start: Start) -> Iterator[bytes]:
    start("200 OK", [])
    yield b"one"
    raise RuntimeError("late")


def takes_body(environ: Environ) -> bool:
    """Return whether the large body of a request would be read."""
    return str(environ["PATH_INFO"]) != "/refuse"


app.takes_body = takes_body  # type: ignore[attr-defined]
