"""How one contender is timed: under load over HTTP, request by request, or in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.load import Exchange, drive, send
from benchmarks.services import Fleet

WARM_UP = 1.0  # seconds


class Contender(Protocol):
    """What is measured beside others."""

    @property
    def service(self) -> str | None:
        """The service that must run; None where there is none."""

    def measure(self, fleet: Fleet, seconds: float) -> float:
        """Return the seconds per answer, every answer having been found right beforehand."""


@dataclass(frozen=True)
class Load:
    """One request again and again over some connections, for as long as is asked.

    ``reset`` undoes what it did to the service.
    """

    service: str
    make_exchange: Callable[[], Exchange]
    connections: int = 1
    reset: Callable[[Fleet], None] | None = None

    def measure(self, fleet: Fleet, seconds: float) -> float:
        """Return the time over the number of answers."""
        url, exchange = fleet.get(self.service), self.make_exchange()
        send(url, exchange)
        drive(url, exchange, connections=self.connections, seconds=WARM_UP)
        took = drive(url, exchange, connections=self.connections, seconds=seconds)
        send(url, exchange)
        if self.reset is not None:
            self.reset(fleet)
        return took


@dataclass(frozen=True)
class Single:
    """A large request, sent a few times after a first one that does not count."""

    service: str
    make_exchange: Callable[[], Exchange]
    times: int = 1

    def measure(self, fleet: Fleet, seconds: float) -> float:
        """Return the median time until it is answered."""
        url, exchange = fleet.get(self.service), self.make_exchange()
        send(url, exchange)
        return statistics.median(send(url, exchange).seconds for _ in range(self.times))


@dataclass(frozen=True)
class InProcess:
    """A call in this process: ``prepare`` returns it, once its result has been found right.

    ``prepare`` is given the service, where there is one. A call that ``times`` counts is made so
    often; any other for as long as is asked.
    """

    prepare: Callable[[Any], Callable[[], object]]
    service: str | None = None
    times: int | None = None

    def measure(self, fleet: Fleet, seconds: float) -> float:
        """Return the median time of a call."""
        call = self.prepare(fleet.get(self.service) if self.service else None)
        if self.times is not None:
            return statistics.median(_time(call) for _ in range(self.times))
        ends = time.perf_counter() + seconds
        took = []
        while time.perf_counter() < ends:
            took.append(_time(call))
        return statistics.median(took)


def _time(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
