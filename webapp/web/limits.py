"""Rate limits: how many requests a caller may send, by API key, or by address without one."""

from __future__ import annotations

import logging
import math
import time
from functools import lru_cache
from ipaddress import IPv6Network
from typing import cast

from flask import Flask, Response, current_app, request
from limits import parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter

from webapp.errors import TooManyRequests
from webapp.web.request import current_identity

STORE_DEADLINE = 0.25  # seconds that a request waits for Redis
STORE_PAUSE = 5.0  # seconds without Redis after it has not answered

log = logging.getLogger(__name__)


class Counter:
    """Counts the requests of each caller, in windows that begin with the first one.

    Counts in the store at ``url``, which all workers may share. While the store does not answer,
    each worker counts for itself: a caller may then send more, and none is refused too early.
    """

    def __init__(self, limit: str, url: str) -> None:
        self._text = limit
        self._limit = parse(limit)
        timeouts = {"socket_connect_timeout": STORE_DEADLINE, "socket_timeout": STORE_DEADLINE}
        # A connection is opened with the first request.
        store = storage_from_string(url, wrap_exceptions=True, **timeouts)
        self._shared = FixedWindowRateLimiter(cast(Storage, store))
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._ask_again_at = 0.0  # on the clock of `time.monotonic`

    def count(self, caller: str) -> None:
        """Count a request; raises TooManyRequests beyond the limit."""
        if time.monotonic() >= self._ask_again_at:
            try:
                self._count_in(self._shared, caller)
                return
            except StorageError as error:
                self._ask_again_at = time.monotonic() + STORE_PAUSE
                cause = error.storage_error
                log.warning("Redis does not answer, each worker counts alone: %r", cause)
        self._count_in(self._own, caller)

    def _count_in(self, counts: FixedWindowRateLimiter, caller: str) -> None:
        if not counts.hit(self._limit, caller):
            seconds = counts.get_window_stats(self._limit, caller).reset_time - time.time()
            raise TooManyRequests(self._text, max(1, math.ceil(seconds)))


def init_app(app: Flask) -> None:
    """Limit the requests of every caller, if RATE_LIMIT is set.

    To be called after the guard's ``init_app``, which finds out who the caller is.
    """
    if app.config["RATE_LIMIT"] is None:
        return
    counter = Counter(app.config["RATE_LIMIT"], app.config["RATELIMIT_STORAGE_URI"])

    def count_request() -> None:
        if not (request.endpoint or "").startswith("health."):  # probes do not count
            counter.count(name_caller())

    def count_refused(response: Response) -> Response:
        """Count a request that the guard has refused before it could be counted."""
        if response.status_code not in (401, 403):
            return response
        try:
            counter.count(name_caller())
        except TooManyRequests as error:
            return current_app.make_response(current_app.handle_user_exception(error))
        return response

    app.before_request(count_request)
    app.after_request(count_refused)


def name_caller() -> str:
    """Return who is counted for this request: its API key, else its address."""
    identity = current_identity()
    if identity is not None:
        return f"key:{identity.key_id}"
    return f"address:{_network(request.remote_addr or '')}"


@lru_cache(maxsize=1024)
def _network(address: str) -> str:
    """Return an IPv4 address, or the /64 network of an IPv6 one: a client owns all of it."""
    try:
        return str(IPv6Network(f"{address}/64", strict=False))
    except ValueError:  # IPv4, or any text that a proxy has sent
        return address
