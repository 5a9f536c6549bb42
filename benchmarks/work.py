"""What is measured: a table of work, each with its contenders and its goals."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, partial
from operator import itemgetter
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import ipc, parquet
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.metrics import r2_score
from werkzeug.test import create_environ, run_wsgi_app

from benchmarks.baselines import arithmetic
from benchmarks.competitors.common import sample
from benchmarks.contenders import N_ITEMS
from benchmarks.exchange import Exchange, check_same
from benchmarks.runner import Comparison, InProcess, Kind, Measurement, Served, Work
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
ITEM_CONNECTIONS = 8

speed = partial(Comparison, kind=Kind.SPEED)
cost = partial(Comparison, kind=Kind.COST)


def dump(value: Any) -> bytes:
    """Return a value with arrays as JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


# Predictions for one row

FEATURES = [1.0, 2.0, 3.0]
PREDICTION = 4.960877268071006  # of the sample data's model
V2_INPUT = {"name": "x", "shape": [1, 3], "datatype": "FP64", "data": FEATURES}
PREDICT, PREDICT_V2 = "/api/v1/ml/predict", "/v2/models/linear/infer"
FIND_RESULT: dict[str, Callable[[Any], Any]] = {
    PREDICT: itemgetter("prediction"),
    "/predict": lambda body: body if isinstance(body, float) else body["prediction"],
    PREDICT_V2: lambda body: body["outputs"][0]["data"][0],
    "/echo": itemgetter("features"),
}


@cache
def predict_one(path: str = PREDICT) -> Exchange:
    """Return a prediction for one row in the form of the service whose path it is; or its echo."""
    body = {"inputs": [V2_INPUT]} if path == PREDICT_V2 else {"features": FEATURES}
    expected = FEATURES if path == "/echo" else PREDICTION
    return Exchange("POST", path, 200, FIND_RESULT[path], expected, dump(body))


def prepare_wsgi(path: str, app: Any) -> Callable[[], Any]:
    """Return a call of a WSGI application that sends it one row."""
    exchange = predict_one(path)
    environ = create_environ(path, method="POST", content_type="application/json")
    environ["CONTENT_LENGTH"] = str(len(exchange.body))

    def call() -> tuple[Any, str, Any]:
        environ["wsgi.input"] = io.BytesIO(exchange.body)
        return run_wsgi_app(app, environ, buffered=True)

    chunks, status, _ = call()
    exchange.check(int(status[:3]), b"".join(chunks))
    return call


def make_prediction_work(connections: int) -> Work:
    """Return the work of predictions over some connections."""

    def load(service: str, path: str = PREDICT) -> Served:
        return Served(service, partial(predict_one, path), connections)

    return Work(
        f"predict-{connections}",
        f"predict 1 row, {connections} connection{'s' * (connections > 1)}",
        {
            **{name: load(service) for name, service in SERVED_ALIKE.items()},
            BENTOML: load("bentoml", "/predict"),
            MLSERVER: load("mlserver", PREDICT_V2),
            ECHO: load("echo", "/echo"),
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
        ECHO: InProcess(partial(prepare_wsgi, "/echo"), "echo in process"),
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


MEDIA_TYPES = {
    "JSON": "application/json",
    "Parquet": "application/vnd.apache.parquet",
    "Arrow": "application/vnd.apache.arrow.stream",
}


def write_rows(form: str, X: Any, y: Any) -> bytes:
    """Return rows in a form in which they are trained on."""
    if form == "JSON":
        return dump({"X": X, "y": y})
    write = parquet.write_table if form == "Parquet" else write_arrow
    write(make_table(X, y), buffer := io.BytesIO())
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
    contenders: dict[str, Measurement] = {
        OURS: Served("default", exchange, times=times),
        SHORT_LEASE: Served("short lease", exchange, times=times),
        **{other: Served("fastapi", exchange, times=times) for other in others},
        ARITHMETIC: InProcess(
            lambda _: partial(arithmetic.train, form, exchange().body), None, times
        ),
    }
    return Work(
        f"train-{form.lower()}",
        f"train {n_rows:,} × 10, {form}",
        contenders,
        (
            *(speed(OURS, other, goal=2.5) for other in others),
            cost(OURS, ARITHMETIC),
            cost(SHORT_LEASE, ARITHMETIC, goal=goal),
        ),
    )


# Items

ITEMS, MIDDLE = "/api/v1/items", N_ITEMS // 2
NEW_ITEM = {"name": "New item", "description": "Made to be counted."}
ITEM_EXCHANGES = {
    "create": Exchange("POST", ITEMS, 201, itemgetter("name"), NEW_ITEM["name"], dump(NEW_ITEM)),
    "read": Exchange("GET", f"{ITEMS}/{MIDDLE}", 200, itemgetter("name"), f"Item {MIDDLE}"),
    "list": Exchange(
        "GET",
        f"{ITEMS}?page=2&page_size=20",
        200,
        lambda body: [item["name"] for item in body],
        [f"Item {number}" for number in range(21, 41)],
    ),
}


def make_item_work(name: str, title: str) -> Work:
    """Return the work of an operation on items."""
    exchange = ITEM_EXCHANGES[name]
    return Work(
        f"items-{name}",
        f"{title}, {ITEM_CONNECTIONS} connections",
        {
            name: Served(service, lambda: exchange, ITEM_CONNECTIONS)
            for name, service in SERVED_ALIKE.items()
        },
        (
            speed(OURS, FASTAPI, goal=1.3),
            speed(OURS, FASTAPI_LOG),
            speed(STRIPPED, FASTAPI),
            speed(GTHREAD, FASTAPI),
        ),
        by_rate=True,
    )


# Trees


def prepare_trees(estimator: Any, compiled: bool, _: None) -> Callable[[], object]:
    """Return the prediction for one row by an ensemble, compiled or its own."""
    X, y = sample.make_rows()
    row = X[:1].copy()
    if not hasattr(estimator, "n_features_in_"):
        estimator.fit(X, y)
    scorer = compile_scorer(estimator)
    check_same(score(scorer, row).values, estimator.predict(row))
    return partial(score, scorer, row) if compiled else partial(estimator.predict, row)


def make_tree_work(name: str, title: str, estimator: Any, goal: float) -> Work:
    """Return the work of an ensemble of trees."""
    return Work(
        name,
        f"{title}, 1 row, in process",
        {
            COMPILED: InProcess(partial(prepare_trees, estimator, True)),
            SKLEARN: InProcess(partial(prepare_trees, estimator, False)),
        },
        (speed(COMPILED, SKLEARN, goal=goal),),
    )


FOREST = RandomForestRegressor(n_estimators=100, random_state=0)
BOOSTING = HistGradientBoostingRegressor(max_iter=100, random_state=0)

WORKS = (
    make_prediction_work(1),
    make_prediction_work(32),
    IN_PROCESS,
    BATCH,
    make_training_work("JSON", 100_000, 3, 1.6, FASTAPI),
    make_training_work("Parquet", 1_000_000, 1, 2.5),
    make_training_work("Arrow", 1_000_000, 1, 2.5),
    make_item_work("read", "read an item"),
    make_item_work("list", "list 20 items"),
    make_item_work("create", "create an item"),  # last: it makes the table larger
    make_tree_work("forest", "random forest, 100 trees", FOREST, goal=50),
    make_tree_work("boosting", "gradient boosting, 100 trees", BOOSTING, goal=8),
)
