"""Work in several steps, each in a process of its own, as one task."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import replace
from typing import Any, TypeAlias

from webapp.jobs.processes import LOOK, ProcessLimits, Task, TaskExecutor, Work

Answer: TypeAlias = dict[str, Any]


class Steps(Task):
    """The steps of a job; cancelling it cancels them all.

    ``further(steps, answer)`` goes on from the answer of the ``first`` one: it submits others, and
    returns the answer of all. It runs in a thread of this process, and should only wait.
    """

    def __init__(
        self, executor: TaskExecutor, first: Task, further: Callable[[Steps, Answer], Answer]
    ) -> None:
        super().__init__()
        self._executor = executor
        self._tasks = [first]
        self.begin()
        values = (first, further)
        threading.Thread(target=self._see_to, args=values, name="steps", daemon=True).start()

    @property
    def at_once(self) -> int:
        """Return how many steps may run at once, as far as is known by now."""
        return self._executor.processes

    def submit(self, work: Work, /, *arguments: Any, limits: ProcessLimits) -> Task:
        """Return a further step, as the executor does."""
        # Work in steps is no small training, which need not wait for predictions.
        task = self._executor.submit(work, *arguments, limits=replace(limits, ease=0))
        self._tasks = [known for known in self._tasks if not known.done()] + [task]
        if self.is_stopped:
            task.cancel()
        return task

    def run_all(
        self,
        calls: Sequence[tuple[Any, ...]],
        *,
        limits: ProcessLimits,
        total: int,
        unit: str,
    ) -> list[Answer]:
        """Return the answers of several steps, in order; as many run at once as may.

        Each call is the work and its arguments. What they have ``done`` of about so many units
        becomes the progress of all. Raises what the first one raises that fails.
        """
        waiting, tasks, pending = deque(calls), list[Task](), set[Future[Answer]]()
        try:
            while waiting or pending:
                while waiting and len(pending) < self.at_once:
                    work, *arguments = waiting.popleft()
                    tasks.append(self.submit(work, *arguments, limits=limits))
                    pending.add(tasks[-1])
                ended, pending = wait(pending, LOOK, FIRST_COMPLETED)
                for task in ended:
                    task.result()
                done = sum(task.progress["done"] for task in tasks if task.progress)
                self.report(done, max(done, total), unit)
        finally:
            for task in tasks:
                task.cancel()
        return [task.result() for task in tasks]

    def report(self, done: int, total: int | None, unit: str) -> None:
        """Tell how far the work is."""
        self.progress = {"done": done, "total": total, "unit": unit}

    def cancel(self) -> bool:
        """End the work: the process of every step is killed, and none begins any more."""
        super().cancel()
        for task in self._tasks:
            task.cancel()
        return not self.done()

    def _see_to(self, first: Task, further: Callable[[Steps, Answer], Answer]) -> None:
        try:
            while wait([first], LOOK).not_done:
                self.progress = first.progress
            self.progress = first.progress
            answer = further(self, first.result())
            if self.is_stopped:
                raise CancelledError
        except BaseException as error:
            self.cancel()
            self.set_exception(error)
        else:
            self.set_result(answer)
