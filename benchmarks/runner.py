"""Measures a piece of work: its contenders take turns, and each round starts with another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from subprocess import SubprocessError
from typing import Any, TypeAlias

from sqlalchemy.exc import SQLAlchemyError

from benchmarks.contenders import Fleet, Unavailable
from benchmarks.exchange import Exchange, WrongAnswer, drive, send

WARM_UP = 1.0  # seconds
# With what a service that fails, whichever it is, can end a measurement.
FAILURES = (WrongAnswer, Unavailable, OSError, HTTPException, SubprocessError, SQLAlchemyError)


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
        pairs = zip(ours, theirs, strict=True)
        ratios = [b / a if self.kind is Kind.SPEED else a / b for a, b in pairs]
        median, reached = statistics.median(ratios), None
        if self.goal is not None:
            fast = self.kind is Kind.SPEED
            reached = median >= self.goal if fast else median <= self.goal
        return {
            "of": self.of,
            "against": self.against,
            "kind": self.kind.value,
            "goal": self.goal,
            "median": median,
            "least": min(ratios),
            "most": max(ratios),
            "reached": reached,
        }


@dataclass(frozen=True)
class Load:
    """One request again and again over some connections; ``reset`` undoes what it has done."""

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
    """A large request, sent some times after a first one that does not count."""

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
    """A call in this process, made ``times`` or for as long as is asked.

    ``prepare`` is given the service, if any, and returns the call once its result is checked.
    """

    prepare: Callable[[Any], Callable[[], object]]
    service: str | None = None
    times: int | None = None

    def measure(self, fleet: Fleet, seconds: float) -> float:
        """Return the median time of a call."""
        call = self.prepare(fleet.get(self.service) if self.service else None)
        end, took = time.perf_counter() + seconds, []
        while len(took) < self.times if self.times else time.perf_counter() < end:
            started = time.perf_counter()
            call()
            took.append(time.perf_counter() - started)
        return statistics.median(took)


Measurement: TypeAlias = Load | Single | InProcess
"""How a contender does a piece of work: ``measure`` returns the seconds per checked answer."""


@dataclass(frozen=True)
class Work:
    """A kind of request and its contenders; ``by_rate`` if answers overlap."""

    name: str
    title: str
    contenders: Mapping[str, Measurement]
    comparisons: tuple[Comparison, ...]
    by_rate: bool = False


@dataclass(frozen=True)
class Plan:
    """How many rounds, and the seconds of each measurement that has no end of its own."""

    rounds: int = 5
    seconds: float = 3.0


def measure_work(
    work: Work, fleet: Fleet, plan: Plan, show: Callable[[str], object] = lambda text: None
) -> dict[str, Any]:
    """Return as plain values the seconds per answer of each contender and what they come to.

    A contender that fails is left out, with all that was measured of it. Only the services that
    the work needs run meanwhile.
    """
    services = (contender.service for contender in work.contenders.values())
    fleet.keep(frozenset(name for name in services if name))
    seconds: dict[str, list[float]] = {name: [] for name in work.contenders}
    failed: dict[str, str] = {}
    names = list(work.contenders)
    for number in range(plan.rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            if name in failed:
                continue
            try:
                took = work.contenders[name].measure(fleet, plan.seconds)
            except FAILURES as error:
                failed[name] = str(error) or type(error).__name__
                seconds.pop(name)
                show(f"{work.name}: {name} is left out: {failed[name]}")
                continue
            seconds[name].append(took)
            show(f"{work.name}, round {number + 1}: {name} {took * 1e6:,.1f} µs")
    return {
        "name": work.name,
        "title": work.title,
        "by_rate": work.by_rate,
        "seconds": seconds,
        "failed": failed,
        "comparisons": [
            comparison.compare(seconds[comparison.of], seconds[comparison.against])
            for comparison in work.comparisons
            if comparison.of in seconds and comparison.against in seconds
        ],
    }
