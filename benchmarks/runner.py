"""Measures a piece of work: its contenders take turns, and each round starts with another."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from subprocess import SubprocessError
from typing import Any

from benchmarks.contenders import Fleet, Unavailable
from benchmarks.exchange import Exchange, WrongAnswer
from benchmarks.load_generator import drive

WARM_UP = 1  # seconds
# With what a service that fails, whichever it is, can end a measurement.
FAILURES = (WrongAnswer, Unavailable, OSError, EOFError, SubprocessError)


class Kind(StrEnum):
    """What a ratio says: more is better of speed, less of cost."""

    SPEED = "times as fast"
    COST = "times the time"


@dataclass(frozen=True)
class Comparison:
    """One contender against another; the goal is the least ratio, or for costs the largest."""

    of: str
    against: str
    kind: Kind
    goal: float | None = None

    def compare(self, ours: list[float], theirs: list[float]) -> dict[str, Any]:
        """Return the ratio within each round of seconds: median, least and most; and the goal."""
        is_speed = self.kind is Kind.SPEED
        ratios = [b / a if is_speed else a / b for a, b in zip(ours, theirs, strict=True)]
        median, reached = statistics.median(ratios), None
        if self.goal is not None:
            reached = median >= self.goal if is_speed else median <= self.goal
        spread = {"median": median, "least": min(ratios), "most": max(ratios)}
        return asdict(self) | spread | {"reached": reached}


@dataclass(frozen=True)
class Served:
    """A request to a service: sent ``times`` alone, or as often as it is answered."""

    service: str
    make_exchange: Callable[[], Exchange]
    connections: int = 1
    times: int | None = None

    def measure(self, fleet: Fleet, seconds: int) -> float:
        """Return the median time until it is answered, or the time over the number of answers."""
        url, exchange = fleet.get(self.service), self.make_exchange()
        exchange.send(url)
        if self.times:
            return statistics.median(exchange.send(url) for _ in range(self.times))
        drive(url, exchange, connections=self.connections, seconds=WARM_UP)
        took = drive(url, exchange, connections=self.connections, seconds=seconds)
        exchange.send(url)
        return took


@dataclass(frozen=True)
class InProcess:
    """A call in this process, made ``times`` or for as long as is asked.

    ``prepare`` is given the service, if any, and returns the call once its result is checked.
    """

    prepare: Callable[[Any], Callable[[], object]]
    service: str | None = None
    times: int | None = None

    def measure(self, fleet: Fleet, seconds: int) -> float:
        """Return the median time of a call."""
        call = self.prepare(fleet.get(self.service) if self.service else None)
        end, took = time.perf_counter() + seconds, []
        while len(took) < self.times if self.times else time.perf_counter() < end:
            started = time.perf_counter()
            call()
            took.append(time.perf_counter() - started)
        return statistics.median(took)


@dataclass(frozen=True)
class Work:
    """A kind of request and how each contender answers it; ``by_rate`` if answers overlap."""

    name: str
    title: str
    contenders: Mapping[str, Served | InProcess]
    comparisons: tuple[Comparison, ...]
    by_rate: bool = False


def measure_work(work: Work, fleet: Fleet, *, rounds: int, seconds: int) -> dict[str, Any]:
    """Return as plain values the seconds per answer of each contender and what they come to.

    ``seconds`` is the time of each measurement that has no end of its own. A contender that fails
    is left out, with all that was measured of it.
    """
    took: dict[str, list[float]] = {name: [] for name in work.contenders}
    failed: dict[str, str] = {}
    names = list(work.contenders)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            if name in failed:
                continue
            try:
                took[name].append(work.contenders[name].measure(fleet, seconds))
                said = f"{took[name][-1] * 1e6:,.1f} µs"
            except FAILURES as error:
                failed[name] = said = str(error) or type(error).__name__
                del took[name]
            # Not to sys.stderr, which the log of an application in this process is written to.
            print(f"{work.name}, round {number + 1}: {name}: {said}", file=sys.__stderr__)
    return {
        "name": work.name,
        "title": work.title,
        "by_rate": work.by_rate,
        "seconds": took,
        "failed": failed,
        "comparisons": [
            comparison.compare(took[comparison.of], took[comparison.against])
            for comparison in work.comparisons
            if comparison.of in took and comparison.against in took
        ],
    }
