"""Measures a row: its contenders in turn, round by round, each round beginning with another."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg2
import requests
import sqlalchemy as sa

from benchmarks.load import WrongAnswer
from benchmarks.ratios import Comparison, Ratio, is_reached, summarise
from benchmarks.rows import Row
from benchmarks.services import Fleet, Unavailable

# What a service that fails, whoever it is, can end a measurement with.
FAILURES = (
    WrongAnswer,
    Unavailable,
    OSError,
    http.client.HTTPException,
    requests.RequestException,
    subprocess.SubprocessError,
    psycopg2.Error,
    sa.exc.SQLAlchemyError,
)


@dataclass(frozen=True)
class Plan:
    """How many rounds, and the seconds of each measurement that has no end of its own."""

    rounds: int = 5
    seconds: float = 3.0


@dataclass(frozen=True)
class Compared:
    """What the rounds say of one comparison."""

    comparison: Comparison
    ratio: Ratio
    reached: bool | None


@dataclass
class RowResult:
    """The seconds per answer of each contender, round by round; and who was not measured, why."""

    row: Row
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def compare(self) -> Iterator[Compared]:
        """Yield the row's comparisons whose both sides were measured."""
        for comparison in self.row.comparisons:
            ours, theirs = comparison.of, comparison.against
            if ours in self.seconds and theirs in self.seconds:
                ratio = summarise(self.seconds[ours], self.seconds[theirs], comparison.kind)
                yield Compared(comparison, ratio, is_reached(ratio, comparison))


def rotate(names: Sequence[str], number: int) -> list[str]:
    """Return the names in their order, beginning with another one in each round."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def measure_row(
    row: Row, fleet: Fleet, plan: Plan, tell: Callable[[str], object] = lambda text: None
) -> RowResult:
    """Measure a row. Who fails is left out from then on, with all that was measured of it.

    Only the services that the row needs run meanwhile.
    """
    result = RowResult(row)
    needed = (contender.service for contender in row.contenders.values())
    fleet.keep(frozenset(name for name in needed if name))
    seconds: dict[str, list[float]] = {name: [] for name in row.contenders}
    for number in range(plan.rounds):
        for name in rotate(list(row.contenders), number):
            if name in result.failed:
                continue
            try:
                took = row.contenders[name].measure(fleet, plan.seconds)
            except FAILURES as error:
                result.failed[name] = str(error) or type(error).__name__
                tell(f"{row.name}: {name} is left out: {result.failed[name]}")
                continue
            seconds[name].append(took)
            tell(f"{row.name}, round {number + 1}: {name} {took * 1e6:,.1f} µs")
    result.seconds = {n: took for n, took in seconds.items() if n not in result.failed}
    return result


SPIN = "import os, time\nends = time.monotonic() + 7200\nparent = os.getppid()\n"
SPIN += "while time.monotonic() < ends and os.getppid() == parent:\n    sum(range(1_000_000))\n"


@contextmanager
def busy_process(python: str) -> Iterator[subprocess.Popen[bytes]]:
    """Keep one core busy until the block ends, or its process is gone."""
    process = subprocess.Popen([python, "-c", SPIN])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)
