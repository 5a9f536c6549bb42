"""Rows of text, categories, dates and missing values, such as departures of flights."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache, partial
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from benchmarks.exchange import check_same
from webapp.ml.core.encoding import encode_rows
from webapp.ml.core.learning import Choices, read_dataset
from webapp.ml.core.pipelines import make_checked_scorer
from webapp.ml.core.preprocessing import make_frame
from webapp.ml.core.scoring import score
from webapp.ml.core.tables import FORMATS
from webapp.ml.core.tables.shapes import CsvDialect, Source
from webapp.ml.core.training import TrainedModel, TrainingSpec, train

FLIGHTS = 337_000
TARGET = "arr_delay"
Calls = tuple[Callable[[], object], Callable[[], object]]


@cache
def make_flights(n_rows: int) -> bytes:
    """Return flights as a Parquet file: a date, numbers with gaps, categories of 3 to 105."""
    random = np.random.RandomState(0)
    hour, distance = random.randint(0, 24, n_rows), random.randint(80, 5000, n_rows)
    delay = random.exponential(20, n_rows) - 10
    frame = pd.DataFrame({"hour": hour, "distance": distance, "dep_delay": delay})
    frame["air_time"] = distance / 8 + random.standard_normal(n_rows)
    for name, size in {"carrier": 16, "origin": 3, "dest": 105}.items():
        frame[name] = np.array([f"{name} {n}" for n in range(size)])[
            random.randint(0, size, n_rows)
        ]
    frame = frame.mask(random.random_sample(frame.shape) < 0.03)
    frame["day"] = np.datetime64("2013-01-01", "s") + 86_400 * random.randint(0, 365, n_rows)
    frame[TARGET] = delay + hour + 10 * random.standard_normal(n_rows)
    return frame.to_parquet()


def learn(n_rows: int, estimator: str) -> tuple[Any, TrainedModel]:
    """Return the dataset of flights, and a model of when they arrive."""
    file = io.BytesIO(make_flights(n_rows))
    dataset = read_dataset(Source(file, FORMATS["parquet"], CsvDialect()), Choices(TARGET))
    return dataset, train(dataset, TrainingSpec(estimator=estimator), clock=perf_counter)


def prepare_scoring(n_rows: int, estimator: str) -> Calls:
    """Return the prediction for rows of JSON, compiled, and for a data frame by the pipeline."""
    model = learn(5_000, estimator)[1]
    signature, pipeline = model.signature, model.estimator
    frame = pd.read_parquet(io.BytesIO(make_flights(5_000)))[list(signature.names)][:n_rows]
    rows = json.loads(frame.to_json(orient="values", date_format="iso"))
    scorer = make_checked_scorer(pipeline, signature)

    def predict() -> Any:
        return score(scorer, encode_rows(rows, signature).X).values

    prepared = make_frame(signature, encode_rows(rows, signature).X, None)
    check_same(predict(), pipeline.predict(prepared))
    return predict, partial(pipeline.predict, prepared)


def prepare_training(estimator: str) -> Calls:
    """Return a training from a Parquet file, and the pipeline's own fit on a ready data frame.

    That has categories as pandas reads them, and dates in parts, which the pipeline needs.
    """
    dataset, model = learn(FLIGHTS, estimator)
    fitted = np.random.RandomState(42).permutation(FLIGHTS)[model.n_test :]
    read = pd.read_parquet(io.BytesIO(make_flights(FLIGHTS))).iloc[fitted]
    frame = make_frame(dataset.signature, dataset.X[fitted], None)
    for name in frame.select_dtypes(object):
        frame[name] = read[name].array
    own = clone(model.estimator)
    check_same(
        model.estimator.predict(frame[:1000]),
        own.fit(frame, dataset.y[fitted]).predict(frame[:1000]),
    )
    return partial(learn, FLIGHTS, estimator), partial(clone(own).fit, frame, dataset.y[fitted])
