"""The runner: contenders take turns, ratios are taken within rounds; and the work is right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from benchmarks.baselines import arithmetic
from benchmarks.competitors.common import sample
from benchmarks.contenders import Fleet, Unavailable
from benchmarks.exchange import WrongAnswer, check_same
from benchmarks.runner import Comparison, Kind, Work, measure_work
from benchmarks.work import ECHO, OURS, WORKS, prepare_batch, write_rows


@dataclass
class FakeMeasurement:
    """Takes the given seconds one after the other; fails where an error stands among them."""

    name: str
    seconds: list[float | Exception]
    turns: list[str]

    def measure(self, fleet: Fleet, seconds: int) -> float:
        """Return the next of its seconds."""
        self.turns.append(self.name)
        found = self.seconds.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def measure(*contenders: FakeMeasurement, rounds: int) -> dict:
    work = Work(
        "fake", "fake", {c.name: c for c in contenders}, (Comparison("A", "B", Kind.SPEED),)
    )
    with Fleet() as fleet:
        return measure_work(work, fleet, rounds=rounds, seconds=0)


def test_contenders_take_turns_and_each_round_starts_with_another() -> None:
    turns: list[str] = []
    result = measure(
        FakeMeasurement("A", [1.0, 2.0], turns),
        FakeMeasurement("B", [2.0, 6.0], turns),
        FakeMeasurement("C", [1.0, 1.0], turns),
        rounds=2,
    )

    assert turns == ["A", "B", "C", "B", "C", "A"]
    assert result["seconds"] == {"A": [1.0, 2.0], "B": [2.0, 6.0], "C": [1.0, 1.0]}
    assert [found["median"] for found in result["comparisons"]] == [2.5]


@pytest.mark.parametrize(
    "error", [WrongAnswer("wrong"), Unavailable("not installed: x"), OSError()]
)
def test_who_fails_is_left_out_with_its_reason_and_the_others_go_on(error: Exception) -> None:
    turns: list[str] = []
    result = measure(
        FakeMeasurement("A", [1.0, 1.0, 1.0], turns),
        FakeMeasurement("B", [2.0, error], turns),
        rounds=3,
    )

    assert result["seconds"] == {"A": [1.0, 1.0, 1.0]}
    assert result["failed"] == {"B": str(error) or "OSError"}
    assert turns.count("B") == 2
    assert result["comparisons"] == []


@pytest.mark.parametrize(
    ("kind", "goal", "ratios", "reached"),
    [
        # The machine was slow in the second round, for both: that must not count.
        (Kind.SPEED, 2.0, (2.0, 2.0, 3.0), True),
        (Kind.SPEED, 2.01, (2.0, 2.0, 3.0), False),
        (Kind.COST, 0.5, (0.5, 1 / 3, 0.5), True),
        (Kind.COST, 0.49, (0.5, 1 / 3, 0.5), False),
        (Kind.COST, None, (0.5, 1 / 3, 0.5), None),
    ],
)
def test_a_ratio_is_taken_within_each_round_and_its_median_held_against_the_goal(
    kind: Kind, goal: float | None, ratios: tuple[float, ...], reached: bool | None
) -> None:
    found = Comparison("A", "B", kind, goal).compare([1.0, 10.0, 1.0], [2.0, 20.0, 3.0])

    assert (found["median"], found["least"], found["most"]) == pytest.approx(ratios)
    assert found["reached"] is reached


@pytest.mark.slow
def test_the_service_as_it_starts_by_default_is_measured_beside_a_baseline() -> None:
    work = WORKS[0]
    work = replace(work, contenders={name: work.contenders[name] for name in (OURS, ECHO)})

    with Fleet() as fleet:
        result = measure_work(work, fleet, rounds=1, seconds=1)
        log = (fleet.folder / "default.log").read_text()

    assert result["failed"] == {}
    assert [found["against"] for found in result["comparisons"]] == [ECHO]
    assert "webapp.requests" in log


@pytest.mark.parametrize("form", ["JSON", "Parquet", "Arrow"])
def test_the_arithmetic_of_a_training_solves_the_least_squares(form: str) -> None:
    X, y = sample.make_rows(50)
    fitted = sample.LinearRegression().fit(X[:40], y[:40])

    found = arithmetic.train(form, write_rows(form, X, y))

    check_same(found, [*fitted.coef_, fitted.intercept_])


def test_the_arithmetic_of_a_batch_gives_what_the_service_must_answer() -> None:
    assert prepare_batch(None)().startswith(b'{"predictions":[')
