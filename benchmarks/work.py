"""What is measured: a table of work, each with its contenders and its goals."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, partial
from operator import itemgetter
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import csv, ipc, parquet
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.metrics import r2_score
from werkzeug.test import create_environ, run_wsgi_app

from benchmarks import mixed
from benchmarks.baselines import arithmetic
from benchmarks.competitors.common import sample
from benchmarks.exchange import Exchange, check_same
from benchmarks.runner import Comparison, InProcess, Kind, Served, Work
from webapp.ml.core.scoring import compile_scorer, score

OURS = "this service"  # as it starts by default, with its request log and metrics
STRIPPED = "this service, no log, no metrics"
GTHREAD = "this service, gthread workers"
SHORT_LEASE = "this service, lease of 1 ms"
KEYS = "this service, API keys"
FASTAPI, BENTOML, MLSERVER = "FastAPI", "BentoML", "MLServer"
FASTAPI_LOG = "FastAPI, request log"  # as uvicorn starts by default
ECHO, ARITHMETIC = "Flask echo", "arithmetic"
COMPILED, SKLEARN = "compiled scorer", "scikit-learn"
SERVED_ALIKE = {OURS: "default", STRIPPED: "stripped", GTHREAD: "gthread"}
SERVED_ALIKE |= {FASTAPI: "fastapi", FASTAPI_LOG: "fastapi, log"}

speed = partial(Comparison, kind=Kind.SPEED)
cost = partial(Comparison, kind=Kind.COST)


def dump(value: Any) -> bytes:
    """Return a value with arrays as JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


# Predictions for one row

FEATURES = [1.0, 2.0, 3.0]
PREDICTION = 4.960877268071006  # of the sample data's model
ROW = dump({"features": FEATURES})
V2_INPUT = {"name": "x", "shape": [1, 3], "datatype": "FP64", "data": FEATURES}
PREDICT = Exchange("POST", "/api/v1/ml/predict", 200, itemgetter("prediction"), PREDICTION, ROW)
PREDICT_BENTOML = Exchange("POST", "/predict", 200, lambda body: body, PREDICTION, ROW)
PREDICT_V2 = Exchange(
    "POST",
    "/v2/models/linear/infer",
    200,
    lambda body: body["outputs"][0]["data"][0],
    PREDICTION,
    dump({"inputs": [V2_INPUT]}),
)
ECHO_ROW = Exchange("POST", "/echo", 200, itemgetter("features"), FEATURES, ROW)


def prepare_wsgi(exchange: Exchange, app: Any) -> Callable[[], Any]:
    """Return a call of a WSGI application that sends it one row."""
    environ = create_environ(exchange.path, method="POST", content_type="application/json")
    environ["CONTENT_LENGTH"] = str(len(exchange.body))

    def call() -> tuple[Any, str, Any]:
        environ["wsgi.input"] = io.BytesIO(exchange.body)
        return run_wsgi_app(app, environ, buffered=True)

    chunks, status, _ = call()
    exchange.check(int(status[:3]), b"".join(chunks))
    return call


def make_prediction_work(connections: int) -> Work:
    """Return the work of predictions over some connections."""

    def load(service: str, exchange: Exchange = PREDICT) -> Served:
        return Served(service, lambda: exchange, connections)

    return Work(
        f"predict-{connections}",
        f"predict 1 row, {connections} connection{'s' * (connections > 1)}",
        {
            **{name: load(service) for name, service in SERVED_ALIKE.items()},
            BENTOML: load("bentoml", PREDICT_BENTOML),
            MLSERVER: load("mlserver", PREDICT_V2),
            ECHO: load("echo", ECHO_ROW),
        },
        (
            speed(OURS, FASTAPI, goal=1.5),
            *(speed(OURS, other) for other in (FASTAPI_LOG, BENTOML, MLSERVER)),
            *(speed(other, FASTAPI) for other in (STRIPPED, GTHREAD)),
            *(cost(OURS, other) for other in (STRIPPED, ECHO)),
        ),
        by_rate=True,
    )


IN_PROCESS = Work(
    "predict-wsgi",
    "predict 1 row, in process",
    {
        OURS: InProcess(partial(prepare_wsgi, PREDICT), "in process"),
        STRIPPED: InProcess(partial(prepare_wsgi, PREDICT), "in process, stripped"),
        KEYS: InProcess(partial(prepare_wsgi, PREDICT), "in process, keys"),
        ECHO: InProcess(partial(prepare_wsgi, ECHO_ROW), "echo in process"),
    },
    (cost(OURS, STRIPPED), cost(KEYS, OURS, goal=1.1), cost(STRIPPED, ECHO, goal=1.3)),
)


# Batches


@cache
def predict_batch() -> Exchange:
    """Return a prediction for a thousand rows by the model `wide`."""
    X, _ = sample.make_rows(1_000, seed=1)
    expected = sample.fit(*sample.make_rows())[0].predict(X)
    path, body = "/api/v1/ml/models/wide/predict/batch", dump({"instances": X})
    return Exchange("POST", path, 200, itemgetter("predictions"), expected, body)


def prepare_batch(_: None) -> Callable[[], object]:
    """Return the arithmetic of a batch."""
    model, exchange = sample.fit(*sample.make_rows())[0], predict_batch()
    call = partial(arithmetic.predict_json, exchange.body, model.coef_, model.intercept_)
    exchange.check(200, call())
    return call


BATCH = Work(
    "batch",
    "predict 1,000 × 10, JSON",
    {
        OURS: Served("default", predict_batch),
        FASTAPI: Served("fastapi", predict_batch),
        ARITHMETIC: InProcess(prepare_batch),
    },
    (speed(OURS, FASTAPI, goal=3), cost(OURS, ARITHMETIC, goal=2.5)),
)


# Trainings


def make_table(X: Any, y: Any) -> pa.Table:
    """Return rows as a table, with the target as its last column."""
    return pa.table({**{f"x{index}": column for index, column in enumerate(X.T)}, "y": y})


def write_arrow(table: pa.Table, file: Any) -> None:
    """Write a table as an Arrow stream, in record batches of a usual size."""
    with ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)


WRITERS = {"CSV": csv.write_csv, "Parquet": parquet.write_table, "Arrow": write_arrow}
MEDIA_TYPES = {
    "CSV": "text/csv",
    "JSON": "application/json",
    "Parquet": "application/vnd.apache.parquet",
    "Arrow": "application/vnd.apache.arrow.stream",
}


def write_rows(form: str, X: Any, y: Any) -> bytes:
    """Return rows in a form in which they are trained on."""
    if form == "JSON":
        return dump({"X": X, "y": y})
    WRITERS[form](make_table(X, y), buffer := io.BytesIO())
    return buffer.getvalue()


@cache
def train(form: str, n_rows: int) -> Exchange:
    """Return a training in a form."""
    X, y = sample.make_rows(n_rows)
    model, test_X, test_y = sample.fit(X, y)
    return Exchange(
        "POST",
        "/api/v1/ml/models/trained/train" + ("" if form == "JSON" else "?target=y"),
        201,
        lambda body: body["metrics"]["r2_score"],
        r2_score(test_y, model.predict(test_X)),
        write_rows(form, X, y),
        MEDIA_TYPES[form],
    )


def make_training_work(form: str, n_rows: int, times: int, goal: float, *others: str) -> Work:
    """Return the work of trainings in a form; the goal is the most over the arithmetic."""
    exchange = partial(train, form, n_rows)
    solve = InProcess(lambda _: partial(arithmetic.train, form, exchange().body), times=times)
    return Work(
        f"train-{form.lower()}",
        f"train {n_rows:,} × 10, {form}",
        {
            OURS: Served("default", exchange, times=times),
            SHORT_LEASE: Served("short lease", exchange, times=times),
            **{other: Served("fastapi", exchange, times=times) for other in others},
            ARITHMETIC: solve,
        },
        (
            *(speed(OURS, other, goal=2.5) for other in others),
            cost(OURS, ARITHMETIC),
            cost(SHORT_LEASE, ARITHMETIC, goal=goal),
        ),
    )


# Items

ITEMS = "/api/v1/items"
NEW_ITEM = {"name": "New item", "description": "Made to be counted."}
CREATE = Exchange("POST", ITEMS, 201, itemgetter("name"), NEW_ITEM["name"], dump(NEW_ITEM))
READ = Exchange("GET", f"{ITEMS}/500", 200, itemgetter("name"), "Item 500")
LIST = Exchange(
    "GET",
    f"{ITEMS}?page=2&page_size=20",
    200,
    lambda body: [item["name"] for item in body],
    [f"Item {number}" for number in range(21, 41)],
)


def make_item_work(name: str, title: str, exchange: Exchange) -> Work:
    """Return the work of an operation on items."""
    return Work(
        f"items-{name}",
        f"{title}, 8 connections",
        {name: Served(service, lambda: exchange, 8) for name, service in SERVED_ALIKE.items()},
        (
            speed(OURS, FASTAPI, goal=1.3),
            speed(OURS, FASTAPI_LOG),
            *(speed(other, FASTAPI) for other in (STRIPPED, GTHREAD)),
        ),
        by_rate=True,
    )


# In this process: each ``prepare`` returns the calls of both contenders


def prepare_scoring(estimator: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the prediction of one row of ten features, compiled and the estimator's own."""
    X, y = sample.make_rows()
    fitted, row = estimator.fit(X, y), X[:1].copy()
    scorer = compile_scorer(fitted)
    check_same(score(scorer, row).values, fitted.predict(row))
    return partial(score, scorer, row), partial(fitted.predict, row)


def make_process_work(
    name: str, title: str, compare: Any, goal: float, prepare: Any, *arguments: Any
) -> Work:
    """Return the work of two contenders; a cost takes a second and is measured once a round."""
    both = cache(partial(prepare, *arguments))
    comparison = compare(goal=goal)
    contenders = {
        contender: InProcess(
            lambda _, number=number: both()[number],  # type: ignore[misc]
            times=1 if comparison.kind is Kind.COST else None,
        )
        for number, contender in enumerate((comparison.of, comparison.against))
    }
    return Work(name, f"{title}, in process", contenders, (comparison,))


COMPILE, TRAIN = partial(speed, COMPILED, SKLEARN), partial(cost, OURS, SKLEARN)
FOREST = RandomForestRegressor(n_estimators=100, random_state=0)
BOOSTING = HistGradientBoostingRegressor(max_iter=100, random_state=0)
TREES, MIXED = "gradient boosting, 100 trees", "hist_gradient_boosting"
ONE, MANY = (COMPILE, 30, mixed.prepare_scoring, 1), (COMPILE, 3, mixed.prepare_scoring, 1_000)
FLIGHTS = (TRAIN, 1.3, mixed.prepare_training)

WORKS = (
    make_prediction_work(1),
    make_prediction_work(32),
    IN_PROCESS,
    BATCH,
    make_training_work("JSON", 100_000, 3, 1.6, FASTAPI),
    make_training_work("Parquet", 1_000_000, 1, 2.5),
    make_training_work("Arrow", 1_000_000, 1, 2.5),
    make_item_work("read", "read an item", READ),
    make_item_work("list", "list 20 items", LIST),
    make_item_work("create", "create an item", CREATE),
    make_process_work(
        "forest", "random forest, 100 trees, 1 row", COMPILE, 50, prepare_scoring, FOREST
    ),
    make_process_work("boosting", f"{TREES}, 1 row", COMPILE, 8, prepare_scoring, BOOSTING),
    make_process_work("mixed-linear-1", "1 mixed row, ridge", *ONE, "ridge"),
    make_process_work("mixed-linear-1000", "1,000 mixed rows, ridge", *MANY, "ridge"),
    make_process_work("mixed-boosting-1", f"1 mixed row, {TREES}", *ONE, MIXED),
    make_process_work("mixed-boosting-1000", f"1,000 mixed rows, {TREES}", *MANY, MIXED),
    make_process_work(
        "mixed-train-linear", "train 337,000 mixed rows, linear", *FLIGHTS, "linear_regression"
    ),
    make_process_work(
        "mixed-train-boosting", f"train 337,000 mixed rows, {TREES}", *FLIGHTS, MIXED
    ),
)
