"""gunicorn's threaded worker, with a stop that answers everybody who has connected.

gunicorn's own takes no more connections once it is told to leave, but keeps the listener open
until its last request is answered. Who connects meanwhile waits in the listener's queue, request
and all, and is reset when the last worker closes it. Here, a worker of a server that stops takes
in who waits in the queue, and closes the listener at once: who comes later is refused, and knows
that nothing was done.
"""

from __future__ import annotations

import mmap
import select
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

LINGER = 0.25  # seconds: a handshake's last round trip, and a master's way to its stop


def _stay_closed(graceful: bool = False) -> None:
    """Do nothing to a connection that is closed."""


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
            if graceful and server.reexec_pid == server.master_pid == 0 and not server.systemd:
                sign[0] = 1
            stop(graceful)

        server.stop = tell_and_stop

    def handle(self, conn: Any) -> Any:
        """Answer a request; a connection that ends with it is closed here, in the pool's thread.

        gunicorn's own thread would wait up to two seconds for each client that is slow to hang
        up, and nobody else would be answered meanwhile.
        """
        result = super().handle(conn)
        if result is False:
            conn.close(graceful=True)
            # gunicorn closes again: a second time would fail, and count the connection twice.
            conn.close = _stay_closed
        return result

    def set_accept_enabled(self, enabled: bool) -> None:
        """Enable or disable accepting; the last time, take in who has connected already."""
        leaving = bool(not enabled and not self.alive and self.sockets)
        if leaving:
            self._linger()
        super().set_accept_enabled(enabled)
        if leaving and self._stop_sign is not None and self._stop_sign[0]:
            self._empty_queues()

    def _linger(self) -> None:
        """Go on accepting for a moment.

        What has begun to connect ends doing so. And where a supervisor signals master and
        workers alike, the master has time to say that the whole server stops.
        """
        super().set_accept_enabled(True)
        ends = time.monotonic() + LINGER
        while (remaining := ends - time.monotonic()) > 0:
            self.wait_for_and_dispatch_events(remaining)

    def _empty_queues(self) -> None:
        for listener in self.sockets:
            poller = select.poll()
            poller.register(listener, select.POLLIN)
            while poller.poll(0):
                self.accept(listener)
            listener.close()
        self.sockets = []
