"""Work in a process of its own ends within its limits, and nothing of it is unpickled."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from webapp.ml.core.isolation import MB, ProcessFailed, ProcessLimits, run_isolated

LIMITS = ProcessLimits(memory=300 * MB, seconds=2)


def double(value: int) -> dict[str, Any]:
    return {"doubled": 2 * value, "process": os.getpid()}


def sleep() -> None:
    time.sleep(60)


def spin() -> None:
    while True:
        pass


def take_memory() -> int:
    return len(bytes(400 * MB))


def die() -> None:
    os.abort()


def fail() -> None:
    raise KeyError


def answer_oddly() -> object:
    return object()


def test_the_answer_comes_from_another_process() -> None:
    first, second = (run_isolated(double, n, limits=LIMITS) for n in (1, 2))

    assert (first["doubled"], second["doubled"]) == (2, 4)
    assert len({os.getpid(), first["process"], second["process"]}) == 3


@pytest.mark.parametrize("work", [sleep, spin, take_memory, die, fail, answer_oddly])
def test_work_that_does_not_end_well_is_reported(work: Any) -> None:
    with pytest.raises(ProcessFailed):
        run_isolated(work, limits=LIMITS)
