"""The memory that trainings take, each in a process of its own: JSON cases in, bytes out.

A case is an estimator, rows, columns, classes, parameters and options of the training. The
processes are forked from one that has imported everything, and has fitted nothing: a fit by
OpenMP does not survive a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import warnings
from typing import Any

import numpy as np
import psutil

from webapp.ml.core import artifacts, training
from webapp.ml.core.datasets import Dataset, default_feature_names
from webapp.ml.core.estimators import CATALOGUE, load_class
from webapp.ml.core.training import TrainingSpec

KB = 1024 if sys.platform == "linux" else 1  # of ru_maxrss


def make_rows(n_rows: int, n_columns: int, n_classes: int) -> Dataset:
    """Return rows whose target has much noise: trees grow as large as they can."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_columns))
    y = X[:, 0] + rng.standard_normal(n_rows) if n_classes == 1 else np.arange(n_rows) % n_classes
    return Dataset(X, y, default_feature_names(n_columns))


def measure(
    estimator: str,
    n_rows: int,
    n_columns: int,
    n_classes: int,
    params: dict[str, Any],
    options: dict[str, Any],
) -> int:
    """Return the bytes that a training and its artifact take, at most, beside the rows."""
    warnings.simplefilter("ignore")
    dataset = make_rows(n_rows, n_columns, n_classes)
    before = psutil.Process().memory_info().rss
    spec = TrainingSpec(estimator=estimator, params=params, **options)
    trained = training.train(dataset, spec, clock=time.perf_counter)
    artifacts.dumps(trained.estimator)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB - before


def measure_apart(case: list[Any]) -> int:
    """Return what `measure` returns, from a child process; 0 where that failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(measure(*case)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text or 0)


if __name__ == "__main__":
    for entry in CATALOGUE.values():
        load_class(entry)
    for name in ("sklearn.pipeline", "sklearn.model_selection", "sklearn.metrics", "skops.io"):
        importlib.import_module(name)
    print(json.dumps([measure_apart(case) for case in json.load(sys.stdin)]))
