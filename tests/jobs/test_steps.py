"""Work in several steps is one task: it ends with the last step, and is cancelled as a whole."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest

from tests.jobs.test_processes import (
    DEADLINE,
    LIMITS,
    LONG,
    begun,
    count_running,
    die,
    double,
    is_alive,
    refuse,
    sleep,
    tell_and_sort,
    wait_until,
)
from webapp.errors import InvalidInput
from webapp.jobs.processes import LocalExecutor, ProcessFailed, Task
from webapp.jobs.steps import Steps


@pytest.fixture(scope="module")
def executor() -> LocalExecutor:
    return LocalExecutor("tests", 2)


def test_later_steps_go_on_from_the_answer_of_the_first(executor: LocalExecutor) -> None:
    def further(steps: Steps, answer: dict[str, Any]) -> dict[str, Any]:
        steps.report(1, 3, "steps")
        values = (answer["doubled"], 10)
        tasks = [steps.submit(double, value, limits=LIMITS) for value in values]
        return {"doubled": [task.result()["doubled"] for task in tasks]}

    steps = Steps(executor, executor.submit(double, 1, limits=LIMITS), further)

    assert steps.at_once == 2
    assert steps.result(DEADLINE) == {"doubled": [4, 20]}
    assert steps.progress == {"done": 1, "total": 3, "unit": "steps"}


def test_how_far_the_first_step_is_is_how_far_the_work_is(executor: LocalExecutor) -> None:
    steps = Steps(executor, executor.submit(tell_and_sort, limits=LONG), lambda *_: {})

    wait_until(lambda: steps.progress is not None)

    steps.cancel()
    with pytest.raises(CancelledError):
        steps.result(DEADLINE)


def test_work_that_is_cancelled_while_its_steps_wait_for_a_process_ends(
    executor: LocalExecutor,
) -> None:
    first_is_done, none_is_free = threading.Event(), threading.Event()

    def further(steps: Steps, _answer: dict[str, Any]) -> dict[str, Any]:
        first_is_done.set()
        assert none_is_free.wait(DEADLINE)
        steps.run_all([(double, 1)] * 2, limits=LONG, total=2, unit="doubles")
        raise AssertionError

    steps = Steps(executor, executor.submit(double, 1, limits=LIMITS), further)
    assert first_is_done.wait(DEADLINE)
    with begun(executor, sleep, 2) as others:
        wait_until(lambda: count_running(others) == 2)
        none_is_free.set()
        wait_until(lambda: (steps.progress or {}).get("unit") == "doubles")

        steps.cancel()
        with pytest.raises(CancelledError):
            steps.result(DEADLINE)


def test_a_first_step_that_fails_has_no_further_ones(executor: LocalExecutor) -> None:
    def further(_steps: Steps, _answer: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError

    with pytest.raises(InvalidInput):
        Steps(executor, executor.submit(refuse, limits=LIMITS), further).result(DEADLINE)


def test_where_a_step_fails_the_others_are_ended(executor: LocalExecutor) -> None:
    others: list[Task] = []

    def further(steps: Steps, _answer: dict[str, Any]) -> dict[str, Any]:
        others.append(steps.submit(sleep, limits=LONG))
        return steps.submit(die, limits=LIMITS).result()

    steps = Steps(executor, executor.submit(double, 1, limits=LIMITS), further)

    with pytest.raises(ProcessFailed):
        steps.result(DEADLINE)
    with pytest.raises(CancelledError):
        others[0].result(DEADLINE)


def test_several_steps_run_as_many_at_once_as_may_and_answer_in_order(
    executor: LocalExecutor,
) -> None:
    def further(steps: Steps, _answer: dict[str, Any]) -> dict[str, Any]:
        calls = [(double, value) for value in range(5)]
        answers = steps.run_all(calls, limits=LIMITS, total=5, unit="steps")
        return {"doubled": [answer["doubled"] for answer in answers]}

    steps = Steps(executor, executor.submit(double, 1, limits=LIMITS), further)

    assert steps.result(DEADLINE) == {"doubled": [0, 2, 4, 6, 8]}


def test_of_several_steps_the_first_that_fails_ends_the_others(executor: LocalExecutor) -> None:
    def further(steps: Steps, _answer: dict[str, Any]) -> dict[str, Any]:
        calls = [(tell_and_sort,), (refuse,), (double, 1)]
        steps.run_all(calls, limits=LONG, total=3, unit="steps")
        raise AssertionError

    steps = Steps(executor, executor.submit(double, 1, limits=LIMITS), further)

    with pytest.raises(InvalidInput):
        steps.result(DEADLINE)


def test_of_work_that_is_cancelled_no_process_is_left_and_none_begins(
    executor: LocalExecutor,
) -> None:
    tasks: list[Task] = []

    def further(steps: Steps, _answer: dict[str, Any]) -> dict[str, Any]:
        tasks.extend(steps.submit(tell_and_sort, limits=LONG) for _ in range(3))
        try:
            return tasks[0].result()
        finally:
            tasks.append(steps.submit(double, 1, limits=LIMITS))

    steps = Steps(executor, executor.submit(double, 1, limits=LIMITS), further)
    wait_until(lambda: sum(task.progress is not None for task in tasks) == 2)
    processes = [task.progress["done"] for task in tasks if task.progress is not None]

    assert steps.cancel()
    with pytest.raises(CancelledError):
        steps.result(DEADLINE)
    wait_until(lambda: not any(map(is_alive, processes)))
    for task in tasks:
        with pytest.raises(CancelledError):
            task.result(DEADLINE)
