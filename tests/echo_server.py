"""An HTTP server that answers what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(body)
        self.send_response(503 if self.path == "/away" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class EchoServer(ThreadingHTTPServer):
    """Answers 200 and the body, or 503 to ``/away``; ``received`` are the bodies."""

    daemon_threads = True
    received: list[bytes]

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client may hang up in the middle of an answer."""


@contextmanager
def running_echo_server() -> Iterator[tuple[str, list[bytes]]]:
    """Run a server until the block ends; yield its URL and the bodies it received."""
    with EchoServer(("127.0.0.1", 0), _Handler) as server:
        server.received = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server.received
        server.shutdown()
        thread.join()
