"""Ports on 127.0.0.1 that stay with the test that chose them."""

from __future__ import annotations

import socket


def hold_port() -> socket.socket:
    """Bind a socket to a free port; nobody else is given the port until the socket is closed.

    The socket does not listen, so connections to the port are refused. On Linux, a server of ours
    can listen there all the same, and again after a restart: like this socket, PostgreSQL, Redis
    and gunicorn set SO_REUSEADDR, which lets two sockets share a port while one of them listens.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def listens(port: int) -> bool:
    """Return whether somebody accepts connections at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def port_of(held: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    port: int = held.getsockname()[1]
    return port
