"""What is measured: a table of work, each with its contenders and its goals."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from pyarrow import ipc, parquet
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.metrics import r2_score
from werkzeug.test import create_environ, run_wsgi_app

from benchmarks.baselines import arithmetic
from benchmarks.competitors.common import sample
from benchmarks.contenders import N_ITEMS, Fleet
from benchmarks.exchange import Answer, Exchange, WrongAnswer
from benchmarks.runner import Comparison, InProcess, Kind, Load, Measurement, Single, Work
from tests.conftest import execute_on_server
from webapp.ml.core.scoring import compile_scorer, score

OURS = "this service"  # as it starts by default, with its request log and metrics
STRIPPED = "this service, no log, no metrics"
GTHREAD = "this service, gthread workers"
SHORT_LEASE = "this service, lease of 1 ms"
KEYS = "this service, API keys"
FASTAPI, LITSERVE, BENTOML, MLSERVER = "FastAPI", "LitServe", "BentoML", "MLServer"
ECHO, BARE, ARITHMETIC = "Flask echo", "bare WSGI", "arithmetic"
COMPILED, SKLEARN = "compiled scorer", "scikit-learn"
ITEM_CONNECTIONS = 8
ACCURACY = 1e-9  # relative

speed = partial(Comparison, kind=Kind.SPEED)
cost = partial(Comparison, kind=Kind.COST)


def check_same(found: Any, expected: Any) -> None:
    """Raise WrongAnswer unless values are equal, numbers to nine digits."""
    try:
        same = np.shape(found) == np.shape(expected) and (
            np.array_equal(found, expected)
            or np.allclose(found, expected, rtol=ACCURACY, atol=ACCURACY)
        )
    except (TypeError, ValueError):
        same = False
    if not same:
        raise WrongAnswer(f"{str(found)[:100]} instead of {str(expected)[:100]}")


def check_value(status: int, find: Callable[[Any], Any], expected: Any) -> Callable[..., None]:
    """Return a check of an answer's status, and of what ``find`` finds in its body."""

    def check(answer: Answer) -> None:
        try:
            assert answer.status == status
            found = find(answer.body)
        except (AssertionError, KeyError, IndexError, TypeError):
            text = str(answer.body)[:200]
            raise WrongAnswer(f"answered {answer.status}: {text}") from None
        check_same(found, expected)

    return check


def dump(value: Any) -> bytes:
    """Return a value with arrays as JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


# Predictions for one row

FEATURES = [1.0, 2.0, 3.0]
PREDICTION = 4.960877268071006  # of the sample data's model
V2_INPUT = {"name": "x", "shape": [1, 3], "datatype": "FP64", "data": FEATURES}
PREDICT, PREDICT_V2 = "/api/v1/ml/predict", "/v2/models/linear/infer"
FIND_RESULT: dict[str, Callable[[Any], Any]] = {
    PREDICT: lambda body: body["prediction"],
    "/predict": lambda body: body if isinstance(body, float) else body["prediction"],
    PREDICT_V2: lambda body: body["outputs"][0]["data"][0],
    "/echo": lambda body: body["features"],
}


@cache
def predict_one(path: str = PREDICT) -> Exchange:
    """Return a prediction for one row in the form of the service whose path it is; or its echo."""
    body = {"inputs": [V2_INPUT]} if path == PREDICT_V2 else {"features": FEATURES}
    expected = FEATURES if path == "/echo" else PREDICTION
    return Exchange("POST", path, check_value(200, FIND_RESULT[path], expected), dump(body))


def prepare_wsgi(path: str, app: Any) -> Callable[[], Any]:
    """Return a call of a WSGI application that sends it one row."""
    exchange = predict_one(path)
    environ = create_environ(path, method="POST", content_type="application/json")
    environ["CONTENT_LENGTH"] = str(len(exchange.body))

    def call() -> tuple[Any, str, Any]:
        environ["wsgi.input"] = io.BytesIO(exchange.body)
        return run_wsgi_app(app, environ, buffered=True)

    chunks, status, _ = call()
    exchange.check(Answer(int(status[:3]), orjson.loads(b"".join(chunks)), 0))
    return call


def make_prediction_work(connections: int) -> Work:
    """Return the work of predictions over some connections."""

    def load(service: str, path: str = PREDICT) -> Load:
        return Load(service, partial(predict_one, path), connections)

    return Work(
        f"predict-{connections}",
        f"predict 1 row, {connections} connection{'s' * (connections > 1)}",
        {
            OURS: load("default"),
            STRIPPED: load("stripped"),
            GTHREAD: load("gthread"),
            FASTAPI: load("fastapi"),
            LITSERVE: load("litserve", "/predict"),
            BENTOML: load("bentoml", "/predict"),
            MLSERVER: load("mlserver", PREDICT_V2),
            ECHO: load("echo", "/echo"),
            BARE: load("bare"),
        },
        (
            speed(OURS, FASTAPI, goal=1.5),
            *(speed(OURS, other) for other in (LITSERVE, BENTOML, MLSERVER)),
            *(speed(other, FASTAPI) for other in (STRIPPED, GTHREAD)),
            *(cost(OURS, other) for other in (STRIPPED, ECHO, BARE)),
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
def train_wide_model() -> Any:
    """Return the model of ten features that every service has learnt."""
    return sample.fit(*sample.make_rows())[0]


@cache
def predict_batch() -> Exchange:
    """Return a prediction for a thousand rows."""
    X, _ = sample.make_rows(1_000, seed=1)
    check = check_value(200, lambda body: body["predictions"], train_wide_model().predict(X))
    return Exchange("POST", "/api/v1/ml/models/wide/predict/batch", check, dump({"instances": X}))


def prepare_batch(_: None) -> Callable[[], object]:
    """Return the arithmetic of a batch."""
    model, exchange = train_wide_model(), predict_batch()
    call = partial(arithmetic.predict_json, exchange.body, model.coef_, model.intercept_)
    exchange.check(Answer(200, orjson.loads(call()), 0))
    return call


BATCH = Work(
    "batch",
    "predict 1,000 × 10, JSON",
    {
        OURS: Load("default", predict_batch),
        FASTAPI: Load("fastapi", predict_batch),
        ARITHMETIC: InProcess(prepare_batch),
    },
    (speed(OURS, FASTAPI, goal=3), cost(OURS, ARITHMETIC, goal=2.5)),
)


# Trainings


def make_table(X: Any, y: Any) -> pa.Table:
    """Return rows as a table, with the target as its last column."""
    return pa.table({**{f"x{index}": column for index, column in enumerate(X.T)}, "y": y})


def write_parquet(X: Any, y: Any) -> bytes:
    """Return rows as Parquet."""
    buffer = io.BytesIO()
    parquet.write_table(make_table(X, y), buffer)
    return buffer.getvalue()


def write_arrow(X: Any, y: Any) -> bytes:
    """Return rows as an Arrow stream, in record batches of a usual size."""
    table, buffer = make_table(X, y), io.BytesIO()
    with ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)
    return buffer.getvalue()


class Form(NamedTuple):
    """A form in which rows come to be learnt from, and its arithmetic."""

    title: str
    n_rows: int
    content_type: str
    write: Callable[[Any, Any], bytes]
    read_and_solve: Callable[[bytes], Any]


ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
FORMS = {
    "json": Form(
        "JSON",
        100_000,
        "application/json",
        lambda X, y: dump({"X": X, "y": y}),
        arithmetic.train_json,
    ),
    "parquet": Form("Parquet", 10**6, PARQUET, write_parquet, arithmetic.train_parquet),
    "arrow": Form("Arrow", 10**6, ARROW, write_arrow, arithmetic.train_arrow),
}


@cache
def train(name: str) -> Exchange:
    """Return a training in a form."""
    form = FORMS[name]
    X, y = sample.make_rows(form.n_rows)
    model, test_X, test_y = sample.fit(X, y)
    expected = r2_score(test_y, model.predict(test_X))
    check = check_value(201, lambda body: body["metrics"]["r2_score"], expected)
    path = "/api/v1/ml/models/trained/train" + ("" if name == "json" else "?target=y")
    return Exchange("POST", path, check, form.write(X, y), form.content_type)


def prepare_training(name: str, _: None) -> Callable[[], object]:
    """Return the arithmetic of a training."""
    form, body = FORMS[name], train(name).body
    X, y = sample.make_rows(form.n_rows)
    n_fit = int(len(X) * 0.8)
    system = np.column_stack([X[:n_fit], np.ones(n_fit)])
    check_same(form.read_and_solve(body), np.linalg.lstsq(system, y[:n_fit], rcond=None)[0])
    return partial(form.read_and_solve, body)


def make_training_work(name: str, times: int, goal: float, *others: str) -> Work:
    """Return the work of trainings in a form; the goal is the most over the arithmetic."""
    form, exchange = FORMS[name], partial(train, name)
    contenders: dict[str, Measurement] = {
        OURS: Single("default", exchange, times),
        SHORT_LEASE: Single("short lease", exchange, times),
        **{other: Single("fastapi", exchange, times) for other in others},
        ARITHMETIC: InProcess(partial(prepare_training, name), times=times),
    }
    return Work(
        f"train-{name}",
        f"train {form.n_rows:,} × 10, {form.title}",
        contenders,
        (
            *(speed(OURS, other, goal=2.5) for other in others),
            cost(OURS, ARITHMETIC),
            cost(SHORT_LEASE, ARITHMETIC, goal=goal),
        ),
    )


# Items

NEW_ITEM = {"name": "New item", "description": "Made to be counted."}
ITEM_EXCHANGES = {
    "create": Exchange(
        "POST",
        "/api/v1/items",
        check_value(201, lambda body: body["name"], "New item"),
        dump(NEW_ITEM),
    ),
    "read": Exchange(
        "GET",
        f"/api/v1/items/{N_ITEMS // 2}",
        check_value(200, lambda body: body["name"], f"Item {N_ITEMS // 2}"),
    ),
    "list": Exchange(
        "GET",
        "/api/v1/items?page=2&page_size=20",
        check_value(
            200,
            lambda body: [item["name"] for item in body],
            [f"Item {number}" for number in range(21, 41)],
        ),
    ),
}


def remove_new_items(service: str, fleet: Fleet) -> None:
    """Leave the items that every measurement begins with."""
    url = fleet.databases[service]
    execute_on_server(url, f"DELETE FROM item WHERE id > {N_ITEMS}")  # noqa: S608 (a constant)
    execute_on_server(url, "VACUUM ANALYZE item")


def make_item_work(name: str, title: str) -> Work:
    """Return the work of an operation on items."""

    def load(service: str) -> Load:
        reset = partial(remove_new_items, service) if name == "create" else None
        return Load(service, lambda: ITEM_EXCHANGES[name], ITEM_CONNECTIONS, reset)

    return Work(
        f"items-{name}",
        f"{title}, {ITEM_CONNECTIONS} connections",
        {
            OURS: load("default"),
            STRIPPED: load("stripped"),
            GTHREAD: load("gthread"),
            FASTAPI: load("fastapi"),
        },
        (speed(OURS, FASTAPI, goal=1.3), speed(STRIPPED, FASTAPI), speed(GTHREAD, FASTAPI)),
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
    make_training_work("json", 3, 1.6, FASTAPI),
    make_training_work("parquet", 1, 2.5),
    make_training_work("arrow", 1, 2.5),
    make_item_work("create", "create an item"),
    make_item_work("read", "read an item"),
    make_item_work("list", "list 20 items"),
    make_tree_work("forest", "random forest, 100 trees", FOREST, goal=50),
    make_tree_work("boosting", "gradient boosting, 100 trees", BOOSTING, goal=8),
)
