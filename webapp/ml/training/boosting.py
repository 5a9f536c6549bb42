"""Boosting through ``xgboost.dask`` and LightGBM's Dask estimators, on workers of its own.

Neither can be stopped, and LightGBM waits for ever for a worker that has gone away: in Dask's own
workers, a training that was cancelled would hold their threads. So a job has a scheduler and
workers for itself, each in a process that can be killed as that of any step: one *leads*, and is
the first worker, too; others *help*, as many as the cluster has room for at once.

Nobody waits for a place that another training holds: whoever leads begins with those who are
there, if need be alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.jobs.processes import LOOK, MB, Place, ProcessLimits, Report, Task
from webapp.jobs.steps import Steps
from webapp.ml.core.boosting import (
    BoostingPlan,
    Loaded,
    PartFacts,
    clean_artifact,
    combine_parts,
    encode_target,
    library_params,
    load_part,
    make_version,
    plan_boosting,
)
from webapp.ml.core.sources import Unfit, call_part
from webapp.ml.core.streaming import cut
from webapp.ml.core.training import TrainingSpec
from webapp.ml.training.work import SourceTraining

JOIN = 10.0  # seconds in which those who help must be there: the first work on a worker takes some
LOST = 1.0  # seconds in which the scheduler knows that a worker is gone
ALONE = 5.0  # seconds in which one who helps must reach the one who leads
SCHEME = "://"
# Dask has about twenty threads; each takes 72 MB of address space: its stack, and a heap.
OWN_MEMORY = 24 * 72 * MB
NO_MEMORY = ("start new thread", "bad_alloc", "bad allocation", "Cannot allocate memory")

_reports: list[Report] = []  # of the process that leads: iterations are told there


def train(
    steps: Steps, training: SourceTraining, n_parts: int, limits: ProcessLimits
) -> dict[str, Any]:
    """Return what ``work.fit_source`` does of others: one step leads, and further ones help it.

    Those are at most one less than there are parts. Raises what any of these steps raises.
    """
    limits = replace(limits, memory=limits.memory + OWN_MEMORY)
    n_helpers = max(0, min(n_parts, steps.at_once) - 1)
    leader = steps.submit(lead, training, n_helpers, Place(), limits=limits)
    helpers: list[Task] = []
    while not leader.done():
        wait([leader], LOOK)
        told = leader.progress
        if told is None:
            continue
        if SCHEME not in told["unit"]:
            steps.report(**told)
            for helper in helpers:
                if not helper.running():  # it has found no room in time
                    helper.cancel()
        elif not helpers:
            helpers = [
                steps.submit(help_training, told["unit"], Place(), limits=limits)
                for _ in range(n_helpers)
            ]
        for helper in helpers:
            if helper.done() and not (helper.is_stopped or leader.done()):
                helper.result()  # raises why it has ended, while others wait for it
    try:
        return leader.result()
    finally:
        for helper in helpers:
            helper.cancel()


def lead(report: Report, training: SourceTraining, n_helpers: int, place: Place) -> dict[str, Any]:
    """Train a booster, with so many to help at most; raises InvalidInput."""
    logging.disable()  # Dask's of connections that end with the training: a fault is the job's
    source, files, spec = training.open()
    plan = plan_boosting(source, files.choices, spec)
    _reports[:] = [report]
    try:
        with _open_cluster(report, n_helpers, place) as client:
            loaded, artifacts, seconds = _Training(plan, spec, client, place, report).run()
    except Exception as error:
        if any(words in str(error) for words in NO_MEMORY):
            raise MemoryError from None
        raise
    trained, described = make_version(plan, spec, loaded, artifacts, seconds)
    answer = training.answer(trained, spec, artifacts[-1])
    answer["version"] |= {name: described[name] for name in ("format", "libraries")}
    return answer


@contextmanager
def _open_cluster(report: Report, n_helpers: int, place: Place) -> Iterator[Any]:
    """Start a scheduler, and a worker in this process; yield a client as soon as others joined."""
    import dask
    from distributed import Client, LocalCluster

    # The parts stay where they are.
    dask.config.set({"distributed.scheduler.work-stealing": False})
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            host=place.host,
            dashboard_address=None,
            memory_limit=0,
            protocol="tcp" if place.tls is None else "tls",
            security=_make_security(place),
        ) as cluster,
        Client(cluster) as client,
    ):
        if n_helpers:
            report(0, None, cluster.scheduler_address)
            with suppress(TimeoutError):
                client.wait_for_workers(1 + n_helpers, JOIN)
        with _ending_with(cluster.scheduler, set(client.nthreads())):
            yield client


@contextmanager
def _ending_with(scheduler: Any, workers: set[str]) -> Iterator[None]:
    """Let this process die with any of its workers, so that the job is taken up again.

    A library may wait for ever for the others; where it does not, its own error comes later.
    """
    from distributed.diagnostics.plugin import SchedulerPlugin

    class Watch(SchedulerPlugin):
        def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:
            if worker in workers:
                os._exit(1)

    scheduler.add_plugin(Watch(), name="watch")
    try:
        yield
    except BaseException:
        time.sleep(LOST)
        raise
    finally:
        workers.clear()


def _make_security(place: Place) -> Any:
    if place.tls is None:
        return None
    from distributed import Security

    authority, certificate, key = place.tls
    roles = ("scheduler", "worker", "client")
    files = {f"tls_{role}_cert": certificate for role in roles}
    files |= {f"tls_{role}_key": key for role in roles}
    return Security(tls_ca_file=authority, require_encryption=True, **files)


def help_training(report: Report, address: str, place: Place) -> dict[str, Any]:
    """Be a worker of the training whose scheduler is at an address, until that ends."""
    from distributed import Worker

    logging.disable()  # as in ``lead``

    async def work() -> None:
        async with Worker(
            address,
            nthreads=1,
            host=place.host,
            security=_make_security(place),
            memory_limit=0,
            death_timeout=ALONE,
            dashboard=False,
        ) as worker:
            report(1, 1, "worker")
            await worker.finished()

    asyncio.run(work())
    return {}


@dataclass(frozen=True)
class _Training:
    """A training on the workers of a client."""

    plan: BoostingPlan
    spec: TrainingSpec
    client: Any
    place: Place
    report: Report

    def run(self) -> tuple[Loaded, list[bytes], float]:
        """Return what was loaded, the files of the models, and the seconds of the last fit."""
        workers = sorted(self.client.nthreads())
        groups = cut([part.size for part in self.plan.parts], len(workers))
        chosen = [
            worker
            for worker, (start, end) in zip(workers, groups, strict=False)
            for _ in range(start, end)
        ]
        parts, facts = self._load(chosen)
        loaded = combine_parts(self.plan, facts)
        pieces = [
            (
                self._submit(getattr, part, "X", worker=worker),
                self._submit(encode_target, part, codes, worker=worker),
                known.reduced.fitted.n_rows,
            )
            for part, codes, worker, known in zip(parts, loaded.codes, chosen, facts, strict=True)
            if known.reduced.fitted.n_rows
        ]
        parts.clear()  # what is not fitted can go
        started, kept = time.perf_counter(), loaded.kept
        artifacts = [self._fit(pieces, loaded)] if kept.n_test else []
        if self.spec.refit or not artifacts:
            if n_further := kept.held_out.shape[1]:
                rows = np.ascontiguousarray(kept.held_out[:-1].T), kept.held_out[-1]
                X, y = self.client.scatter(rows, workers=workers[:1], hash=False)
                pieces.append((X, y, n_further))
            started = time.perf_counter()
            artifacts.append(self._fit(pieces, loaded))
        return loaded, artifacts, time.perf_counter() - started

    def _submit(self, function: Any, *arguments: Any, worker: str) -> Any:
        return self.client.submit(
            function, *arguments, workers=[worker], allow_other_workers=False, pure=False
        )

    def _load(self, chosen: Sequence[str]) -> tuple[list[Any], list[PartFacts]]:
        from distributed import as_completed

        total, load = len(chosen), partial(load_part, replace(self.plan, parts=()))
        self.report(0, total, "files")
        parts, told = list[Any](), list[Any]()
        for part, worker in zip(self.plan.parts, chosen, strict=True):
            loaded = self._submit(call_part, load, part, worker=worker)
            parts.append(loaded)
            told.append(self._submit(getattr, loaded, "facts", loaded, worker=worker))
        for done, _ in enumerate(as_completed(told), start=1):
            self.report(done, total, "files")
        facts = self.client.gather(told)
        for found in facts:
            if isinstance(found, Unfit):  # it has no facts
                raise InvalidInput({"source": found.faults})
        return parts, facts

    def _fit(self, pieces: Sequence[tuple[Any, Any, int]], loaded: Loaded) -> bytes:
        """Return the file of the model that is fitted to pieces: X, y and number of rows."""
        from dask import array

        width, rounds = len(self.plan.options.names), self.plan.params["n_estimators"]
        X = array.concatenate(
            [array.from_delayed(x, (count, width), "f8") for x, _, count in pieces]
        )
        y = array.concatenate([array.from_delayed(y, (count,), "f8") for _, y, count in pieces])
        params = library_params(self.plan, len(loaded.classes or ()), self.spec.random_state)
        self.report(0, rounds, "iterations")
        fit = _fit_xgboost if self.plan.entry.library == "xgboost" else _fit_lightgbm
        artifact = fit(self.client, self.place, X, y, params, rounds)
        return clean_artifact(self.plan.entry.library, artifact)


def _fit_xgboost(
    client: Any, place: Place, X: Any, y: Any, params: Mapping[str, Any], rounds: int
) -> bytes:
    import xgboost
    import xgboost.dask
    from xgboost.collective import Config

    class Told(xgboost.callback.TrainingCallback):
        """Tells how many iterations are done."""

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            _tell_iteration(epoch, rounds)
            return False

    with xgboost.config_context(verbosity=0):
        found = xgboost.dask.train(
            client,
            dict(params),
            xgboost.dask.DaskQuantileDMatrix(client, X, y, max_bin=params["max_bin"]),
            num_boost_round=rounds,
            callbacks=[Told()],
            coll_cfg=Config(tracker_host_ip=place.host),
        )
    return bytes(found["booster"].save_raw("ubj"))


def _fit_lightgbm(
    client: Any, _place: Place, X: Any, y: Any, params: Mapping[str, Any], rounds: int
) -> bytes:
    import lightgbm

    def tell(state: Any) -> None:
        _tell_iteration(state.iteration, rounds)

    # The classifier would take the labels that each worker has for all that there are.
    model = lightgbm.DaskLGBMRegressor(client=client, n_estimators=rounds, **params)
    model.fit(X, y, callbacks=[tell])
    text: str = model.booster_.model_to_string()
    return text.encode()


def _tell_iteration(iteration: int, rounds: int) -> None:
    for report in _reports:
        report(iteration + 1, rounds, "iterations")
