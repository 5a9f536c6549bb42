"""Work in a child process ends within its limits, with its caller, and in its turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from webapp.errors import InvalidInput
from webapp.jobs.processes import MB, LocalExecutor, ProcessFailed, ProcessLimits, Task

LIMITS = ProcessLimits(memory=300 * MB, seconds=2)
LONG = ProcessLimits(seconds=60)
DEADLINE = 20.0  # seconds


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def double(report: Any, value: int) -> dict[str, Any]:
    report(1, 2, "steps")
    return {"doubled": 2 * value, "process": os.getpid(), "bytes": b"\0\1", "more": b""}


def count_to_a_thousand(report: Any) -> dict[str, Any]:
    for unit in ("trees", "folds"):
        for done in range(1001):
            report(done, 1000, unit)
    return {}


def tell_and_sort(report: Any) -> dict[str, Any]:
    import numpy as np

    report(os.getpid(), None, "process")
    while True:  # calls into compiled code that no signal of Python interrupts
        np.random.RandomState(0).random_sample(10_000_000).sort()


def wait_for_low_priority(report: Any) -> dict[str, Any]:
    report(0, None, "priorities")
    while (priority := os.getpriority(os.PRIO_PROCESS, 0)) == 0:
        time.sleep(0.01)
    return {"priority": priority}


def sleep(_report: Any) -> dict[str, Any]:
    time.sleep(60)
    return {}


def spin(_report: Any) -> dict[str, Any]:
    while True:
        pass


def take_memory(_report: Any) -> dict[str, Any]:
    return {"taken": len(bytes(400 * MB))}


def die(_report: Any) -> dict[str, Any]:
    os.abort()


def fail(_report: Any) -> dict[str, Any]:
    raise KeyError("a key")


def answer_oddly(_report: Any) -> dict[str, Any]:
    return {"odd": object()}


def refuse(_report: Any) -> dict[str, Any]:
    raise InvalidInput({"X": {"3": ["is odd"]}}, source="json")


@contextmanager
def begun(executor: LocalExecutor, work: Any, count: int) -> Iterator[list[Task]]:
    tasks = [executor.submit(work, limits=LONG) for _ in range(count)]
    try:
        yield tasks
    finally:  # a test that fails keeps no process from the next
        for task in tasks:
            task.cancel()


def count_running(tasks: list[Task]) -> int:
    return sum(task.running() for task in tasks)


@pytest.fixture(scope="module")
def executor() -> LocalExecutor:
    return LocalExecutor("tests", 2)


def test_the_answer_comes_from_another_process(executor: LocalExecutor) -> None:
    tasks = [executor.submit(double, number, limits=LIMITS) for number in (1, 2, 3)]
    answers = [task.result() for task in tasks]

    assert [answer["doubled"] for answer in answers] == [2, 4, 6]
    assert {(answer["bytes"], answer["more"]) for answer in answers} == {(b"\0\1", b"")}
    assert len({os.getpid(), *(answer["process"] for answer in answers)}) == 4
    assert tasks[0].progress == {"done": 1, "total": 2, "unit": "steps"}


def test_of_reports_one_upon_another_beginnings_and_ends_are_sent(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        Task,
        "progress",
        property(lambda _: sent[-1], lambda _, value: sent.append(value)),
        raising=False,  # an attribute of its objects
    )

    executor.submit(count_to_a_thousand, limits=LONG).result()

    reports = [(value["done"], value["unit"]) for value in sent if value is not None]
    assert reports[0] == (0, "trees")
    assert [r for r in reports if r[0] in (0, 1000)] == [
        *[(0, "trees"), (1000, "trees")],
        *[(0, "folds"), (1000, "folds")],
    ]
    assert len(reports) < 100


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        *[(sleep, "seconds"), (spin, "seconds"), (take_memory, "memory"), (die, "died")],
        *[(fail, "error"), (answer_oddly, "error")],
    ],
)
def test_work_that_does_not_end_well_says_why(
    executor: LocalExecutor, work: Any, reason: str
) -> None:
    with pytest.raises(ProcessFailed) as caught:
        executor.submit(work, limits=LIMITS).result()
    assert caught.value.reason == reason
    assert work is not fail or "KeyError: 'a key'" in str(caught.value)


def test_what_work_refuses_is_refused(executor: LocalExecutor) -> None:
    with pytest.raises(InvalidInput) as caught:
        executor.submit(refuse, limits=LIMITS).result()
    assert caught.value.faults == {"X": {"3": ["is odd"]}}
    assert caught.value.source == "json"


def test_no_more_run_at_once_than_may_and_the_others_wait_their_turn(
    executor: LocalExecutor,
) -> None:
    with begun(executor, sleep, 3) as tasks:
        wait_until(lambda: count_running(tasks) == 2)
        waiting = next(task for task in tasks if not task.running())

        next(task for task in tasks if task.running()).cancel()
        wait_until(waiting.running)
        assert count_running(tasks) == 2


def test_cancelled_work_is_gone_even_from_compiled_code(executor: LocalExecutor) -> None:
    task = executor.submit(tell_and_sort, limits=LONG)
    wait_until(lambda: task.progress is not None)
    assert task.progress is not None
    process = task.progress["done"]

    task.cancel()
    with pytest.raises(CancelledError):
        task.result(DEADLINE)
    wait_until(lambda: not is_alive(process))


def test_work_that_waits_for_a_process_can_be_cancelled(executor: LocalExecutor) -> None:
    with begun(executor, sleep, 2) as running:
        wait_until(lambda: count_running(running) == 2)
        waiting = executor.submit(double, 1, limits=LONG)

        waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.result(DEADLINE)
        assert wait([waiting], DEADLINE).done


def test_nothing_is_left_of_a_process_that_was_killed() -> None:
    script = (
        "from tests.jobs.test_processes import *\n"
        "task = LocalExecutor('tests', 1).submit(tell_and_sort, limits=LONG)\n"
        "wait_until(lambda: task.progress is not None)\n"
        "print(task.progress['done'], flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        child = int(caller.stdout.readline())
        assert is_alive(child)
        caller.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(child))


def test_a_fork_server_that_was_killed_is_started_again() -> None:
    executor = LocalExecutor("killed", 1)
    executor.submit(double, 1, limits=LIMITS).result()
    find = ["pgrep", "-P", str(os.getpid()), "-f", "serve.*/killed 1"]
    server = subprocess.run(find, stdout=subprocess.PIPE, check=True).stdout
    os.kill(int(server), signal.SIGKILL)

    assert executor.submit(double, 2, limits=LIMITS).result()["doubled"] == 4


@pytest.mark.parametrize("ease", [0, 0.1])
def test_work_has_a_lower_priority_after_a_while(executor: LocalExecutor, ease: float) -> None:
    limits = replace(LONG, ease=ease)

    answer = executor.submit(wait_for_low_priority, limits=limits).result(DEADLINE)

    assert answer["priority"] == 10
