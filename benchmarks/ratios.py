"""Which figures are compared, what is aimed at, and what the rounds say about it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a ratio counts: more is better of the one, less of the other."""

    SPEED = "times as fast"
    COST = "times the time"


@dataclass(frozen=True)
class Comparison:
    """One contender of a row against another; the goal is at least, or at most, for its kind."""

    against: str
    kind: Kind
    goal: float | None = None
    of: str = "this service"


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, the least and the largest."""

    median: float
    least: float
    most: float


def summarise(ours: Sequence[float], theirs: Sequence[float], kind: Kind) -> Ratio:
    """Return the ratio of our seconds and theirs, taken within each round.

    Raises ValueError where the rounds do not pair up.
    """
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [b / a if kind is Kind.SPEED else a / b for a, b in pairs]
    if not ratios:
        raise ValueError("no rounds")
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def is_reached(ratio: Ratio, comparison: Comparison) -> bool | None:
    """Say whether the median reaches the goal; None where there is none."""
    if comparison.goal is None:
        return None
    if comparison.kind is Kind.SPEED:
        return ratio.median >= comparison.goal
    return ratio.median <= comparison.goal
