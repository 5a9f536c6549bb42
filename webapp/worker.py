"""gunicorn's threaded worker, with a stop that answers everybody who has connected.

gunicorn's own takes no more connections once it is told to leave, but keeps the listener open
until its last request is answered. Who connects meanwhile waits in the listener's queue, request
and all, and is reset when the last worker closes it. Here, a server that stops refuses newcomers
first, then empties the queue, and closes it only then.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import select
import socket
import struct
import sys
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

LINGER = 0.25  # seconds: for the last round trip of a handshake, and for a master to speak

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python does not name it
# Classic BPF on the TCP header: of the flags in byte 13, SYN (2) without ACK (16) is dropped.
_DROP_FIRST_PACKETS = (
    (0x30, 0, 0, 13),  # load the byte
    (0x54, 0, 0, 0x12),  # and with SYN | ACK
    (0x15, 0, 1, 0x02),  # unless it is SYN alone, skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


class DrainingWorker(ThreadWorker):
    """A worker that empties the listener's queue when the whole server stops.

    A worker is told to leave by the same signal when it is retired (a reload, fewer workers,
    ``max_requests``). The others go on with the listener then, and it must stay as it is.
    """

    sockets: list[Any]
    _stop_sign: mmap.mmap | None = None  # one byte, shared with the master

    @classmethod
    def watch(cls, server: Any) -> None:
        """Have the workers told when this master stops as a whole; gunicorn has no hook for it."""
        sign = cls._stop_sign = mmap.mmap(-1, 1)
        stop = server.stop

        def tell_and_stop(graceful: bool = True) -> None:
            # Others listen on after us: the master of an upgrade (SIGUSR2), or systemd.
            alone = server.reexec_pid == server.master_pid == 0 and not server.systemd
            if graceful and alone:
                for listener in server.LISTENERS:
                    refuse_newcomers(listener)
                sign[0] = 1
            stop(graceful)

        server.stop = tell_and_stop

    def set_accept_enabled(self, enabled: bool) -> None:
        """Enable or disable accepting; the last time, take in who has connected already."""
        leaving = not enabled and not self.alive and bool(self.sockets)
        stops = leaving and self._learn_whether_the_server_stops()
        super().set_accept_enabled(enabled)
        if stops:
            self._empty_queues()

    def _learn_whether_the_server_stops(self) -> bool:
        # A supervisor may signal master and workers alike: the master then gets a moment to say
        # what it does. Until then, everything goes on.
        sign, ends = self._stop_sign, time.monotonic() + LINGER
        while sign is not None and not sign[0] and (remaining := ends - time.monotonic()) > 0:
            super().set_accept_enabled(True)
            self.wait_for_and_dispatch_events(min(remaining, LINGER / 10))
        return sign is not None and sign[0] == 1

    def _empty_queues(self) -> None:
        """Take in who is connected, or about to be; then close the door."""
        poller = select.poll()
        listeners = {listener.fileno(): listener for listener in self.sockets}
        for listener in self.sockets:
            poller.register(listener, select.POLLIN)
        ends = time.monotonic() + LINGER
        while ready := poller.poll(max(ends - time.monotonic(), 0) * 1000):
            for descriptor, _ in ready:
                self.accept(listeners[descriptor])
        for listener in self.sockets:
            listener.close()
        self.sockets = []


def refuse_newcomers(listener: Any) -> None:
    """Let nobody begin to connect to a listening socket any more; who has begun may end.

    Closing it would reset who waits in its queue, and between the last look into the queue and
    the closing somebody could still come. A first packet that is dropped is sent again by the
    client's system after a second. By then the socket is closed, and the client refused; or the
    next server listens. Linux only: elsewhere, and for Unix sockets, nothing happens here.
    """
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return  # a Unix socket is unlinked by gunicorn before it tells the workers
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_FIRST_PACKETS)
    memory = ctypes.create_string_buffer(program, len(program))
    where = struct.pack("HP", len(_DROP_FIRST_PACKETS), ctypes.addressof(memory))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)
