"""How a listener is closed so that nobody is lost: newcomers are turned away first."""

from __future__ import annotations

import array
import socket
import struct
from contextlib import suppress

SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


# A socket filter (BPF; the kernel's Documentation/networking/filter.rst), on the TCP header.
_DROP_NEW_CONNECTIONS = array.array(
    "B",
    b"".join(
        [
            _instruction(0x30, 13),  # load the byte of the flags
            _instruction(0x54, 0x12),  # keep SYN and ACK
            _instruction(0x15, 0x02, if_false=1),  # is it SYN alone?
            _instruction(0x06, 0),  # drop it
            _instruction(0x06, 0xFFFF_FFFF),  # take it whole
        ]
    ),
)


def turn_away_newcomers(listener: socket.socket) -> None:
    """Let nobody else begin to connect, while who has begun ends doing so and can be accepted.

    Between the last look into the queue and the end of the listener someone would come in, and
    be reset. Now he asks again a second later, and is refused: nothing that he sent is lost.
    Where the kernel cannot do it, or on a unix socket, that gap stays.
    """
    if listener.family == socket.AF_UNIX:
        return
    address, length = _DROP_NEW_CONNECTIONS.buffer_info()
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", length // 8, address)
        )
