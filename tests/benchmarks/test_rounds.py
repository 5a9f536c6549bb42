"""Rounds: everybody's turn, in changing order; and a short run of the real service."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

import pytest

from benchmarks.floors import arithmetic
from benchmarks.load import WrongAnswer
from benchmarks.ratios import Comparison, Kind
from benchmarks.rivals.common import sample
from benchmarks.rounds import Plan, busy_process, measure_row
from benchmarks.rows import BARE, FORMS, OURS, Row, check_close, make_prediction_row
from benchmarks.services import Fleet, Unavailable


@dataclass
class FakeContender:
    """Takes the given seconds one after the other, and then fails."""

    name: str
    seconds: list[float]
    turns: list[str]
    error: Exception = field(default_factory=lambda: WrongAnswer("answered 500"))
    service: str | None = None

    def measure(self, fleet: Fleet, seconds: float) -> float:
        """Return the next of its seconds."""
        self.turns.append(self.name)
        if not self.seconds:
            raise self.error
        return self.seconds.pop(0)


def make_row(*contenders: FakeContender) -> Row:
    named = {contender.name: contender for contender in contenders}
    return Row("fake", "fake", named, (Comparison("B", Kind.SPEED, of="A"),))


def test_contenders_take_turns_and_each_round_begins_with_another() -> None:
    turns: list[str] = []
    row = make_row(
        FakeContender("A", [1.0, 2.0], turns),
        FakeContender("B", [2.0, 6.0], turns),
        FakeContender("C", [1.0, 1.0], turns),
    )

    with Fleet() as fleet:
        result = measure_row(row, fleet, Plan(rounds=2, seconds=0))

    assert turns == ["A", "B", "C", "B", "C", "A"]
    assert result.seconds == {"A": [1.0, 2.0], "B": [2.0, 6.0], "C": [1.0, 1.0]}
    assert [found.ratio.median for found in result.compare()] == [2.5]


@pytest.mark.parametrize(
    "error", [WrongAnswer("wrong"), Unavailable("not installed: x"), OSError()]
)
def test_who_fails_is_left_out_with_its_reason_and_the_others_go_on(error: Exception) -> None:
    turns: list[str] = []
    row = make_row(
        FakeContender("A", [1.0, 1.0, 1.0], turns), FakeContender("B", [2.0], turns, error)
    )

    with Fleet() as fleet:
        result = measure_row(row, fleet, Plan(rounds=3, seconds=0))

    assert result.seconds == {"A": [1.0, 1.0, 1.0]}
    assert result.failed == {"B": str(error) or "OSError"}
    assert turns.count("B") == 2
    assert list(result.compare()) == []


@pytest.mark.slow
def test_the_service_and_the_bare_server_are_measured_in_a_moment() -> None:
    row = make_prediction_row(2)
    row = replace(row, contenders={name: row.contenders[name] for name in (OURS, BARE)})

    with Fleet() as fleet:
        result = measure_row(row, fleet, Plan(rounds=1, seconds=1))
        processes = [fleet.folder / name for name in ("ours.log", "bare.log")]
        assert all(log.exists() for log in processes)

    assert result.failed == {}
    assert [found.comparison.against for found in result.compare()] == [BARE]
    assert all(0 < seconds[0] < 1 for seconds in result.seconds.values())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_arithmetic_of_a_training_solves_the_least_squares(form: object) -> None:
    X, y = sample.make_rows(50)
    fitted = sample.LinearRegression().fit(X[:40], y[:40])

    found = form.read_and_solve(form.write(X, y))

    check_close(found, [*fitted.coef_, fitted.intercept_])


def test_the_arithmetic_of_a_batch_predicts() -> None:
    answer = arithmetic.predict_json(b'{"instances":[[1,2],[3,4]]}', [10.0, 1.0], 0.5)

    assert answer == b'{"predictions":[12.5,34.5]}'


def test_the_load_beside_ends_with_its_block() -> None:
    with busy_process(sys.executable) as process:
        assert process.poll() is None
    assert process.returncode is not None
