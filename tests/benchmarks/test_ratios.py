"""What rounds come to: ratios within each round, their median and spread, and the goals."""

from __future__ import annotations

import pytest

from benchmarks.ratios import Comparison, Kind, Ratio, is_reached, summarise


def test_a_ratio_of_speed_is_taken_within_each_round() -> None:
    # The machine was slow in the second round, for both: that must not count.
    ratio = summarise([1.0, 10.0, 1.0], [2.0, 20.0, 3.0], Kind.SPEED)

    assert ratio == Ratio(median=2.0, least=2.0, most=3.0)


def test_a_ratio_of_cost_is_the_other_way_round() -> None:
    assert summarise([3.0, 2.0], [2.0, 2.0], Kind.COST) == Ratio(1.25, 1.0, 1.5)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0, 2.0], [1.0]), ([], [])])
def test_rounds_that_do_not_pair_up_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no rounds|shorter|longer"):
        summarise(ours, theirs, Kind.SPEED)


@pytest.mark.parametrize(
    ("kind", "median", "reached"),
    [
        (Kind.SPEED, 1.49, False),
        (Kind.SPEED, 1.5, True),
        (Kind.COST, 1.5, True),
        (Kind.COST, 1.51, False),
    ],
)
def test_a_goal_is_a_least_speed_or_a_largest_cost(
    kind: Kind, median: float, reached: bool
) -> None:
    comparison = Comparison("another", kind, goal=1.5)

    assert is_reached(Ratio(median, 0.1, 9.0), comparison) is reached


def test_without_a_goal_nothing_is_reached_or_missed() -> None:
    assert is_reached(Ratio(1, 1, 1), Comparison("another", Kind.SPEED)) is None
