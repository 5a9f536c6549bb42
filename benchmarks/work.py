"""What is measured: a row for each kind of request, with its contenders and its goals."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from pyarrow import ipc, parquet
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.metrics import r2_score

from benchmarks.floors import arithmetic
from benchmarks.load import Answer, Exchange, WrongAnswer
from benchmarks.ratios import Comparison, Kind
from benchmarks.rivals.common import sample
from benchmarks.services import N_ITEMS, SAMPLE_PREDICTION, Fleet, expect
from benchmarks.timing import Contender, InProcess, Load, Single
from tests.conftest import execute_on_server
from webapp.ml.core.scoring import compile_scorer, score

KEYS, METRICS = "this service, AUTH=on", "this service, METRICS=true"
OURS, SHORT_LEASE = "this service", "this service, lease of 1 ms"
COMPILED, SKLEARN = "compiled scorer", "scikit-learn"
FASTAPI, BARE, ARITHMETIC, ECHO = "FastAPI", "bare WSGI", "arithmetic", "Flask echo"
BATCH_ROWS, JSON_ROWS, TABLE_ROWS = 1_000, 100_000, 1_000_000
ITEM_CONNECTIONS = 8
ACCURACY = 1e-9  # relative


@dataclass(frozen=True)
class Row:
    """One kind of request; ``by_rate`` where answers overlap, so that a rate says more."""

    name: str
    title: str
    contenders: Mapping[str, Contender]
    comparisons: tuple[Comparison, ...]
    by_rate: bool = False


faster_than = partial(Comparison, kind=Kind.SPEED)
cost_of = partial(Comparison, kind=Kind.COST)


# Checks


def check_close(found: Any, expected: Any) -> None:
    """Raise WrongAnswer unless the numbers are the same to nine digits."""
    try:
        near = np.allclose(found, expected, rtol=ACCURACY, atol=ACCURACY)
    except (TypeError, ValueError):
        near = False
    if not near or np.shape(found) != np.shape(expected):
        raise WrongAnswer(f"{str(found)[:100]} instead of {str(expected)[:100]}")


def check_value(status: int, find: Callable[[Any], Any], expected: Any) -> Callable[..., None]:
    """Return a check of an answer's status, and of what ``find`` finds in its body."""

    def check(answer: Answer) -> None:
        expect(status)(answer)
        try:
            found = find(answer.body)
        except (KeyError, IndexError, TypeError):
            raise WrongAnswer(f"answered {str(answer.body)[:200]}") from None
        check_close(found, expected)

    return check


def dump(value: Any) -> bytes:
    """Return a value with arrays as JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


# Predictions for one row

FEATURES = [1.0, 2.0, 3.0]
FIND_PREDICTION = {
    "/predict": lambda body: body if isinstance(body, float) else body["prediction"],
    "/api/v1/ml/predict": lambda body: body["prediction"],
    "/v2/models/linear/infer": lambda body: body["outputs"][0]["data"][0],
}
V2_INPUT = {"name": "x", "shape": [1, 3], "datatype": "FP64", "data": FEATURES}


@cache
def predict_one(path: str = "/api/v1/ml/predict") -> Exchange:
    """Return a prediction for one row, in the form of the service whose path it is."""
    body = {"inputs": [V2_INPUT]} if path.startswith("/v2") else {"features": FEATURES}
    check = check_value(200, FIND_PREDICTION[path], SAMPLE_PREDICTION)
    return Exchange("POST", path, check, dump(body))


@cache
def echo_one() -> Exchange:
    """Return the same row, sent to a Flask view that answers what it is sent."""
    check = check_value(200, lambda body: body["features"], FEATURES)
    return Exchange("POST", "/echo", check, dump({"features": FEATURES}))


def make_prediction_row(connections: int) -> Row:
    """Return the row of predictions over some connections."""
    load = partial(Load, connections=connections)
    native = partial(predict_one, "/predict")
    return Row(
        f"predict-{connections}",
        f"predict 1 row, {connections} connection{'s' * (connections > 1)}",
        {
            OURS: load("ours", predict_one),
            FASTAPI: load("fastapi", predict_one),
            "LitServe": load("litserve", native),
            "BentoML": load("bentoml", native),
            "MLServer": load("mlserver", partial(predict_one, "/v2/models/linear/infer")),
            ECHO: load("served echo", echo_one),
            BARE: load("bare", predict_one),
        },
        (
            faster_than(FASTAPI, goal=1.5),
            faster_than("LitServe"),
            faster_than("BentoML"),
            faster_than("MLServer"),
            cost_of(ECHO),
            cost_of(BARE),
        ),
        by_rate=True,
    )


def prepare_wsgi(path: str, find: Callable[[Any], Any], expected: Any, app: Any) -> Any:
    """Return a call of a WSGI application that sends it one row."""
    body = dump({"features": FEATURES})
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    statuses = []

    def start_response(status: str, headers: object, exc_info: object = None) -> None:
        statuses.append(status)

    def call() -> bytes:
        statuses.clear()
        answer = app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)
        text = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return text

    text = call()
    check_value(200, find, expected)(Answer(int(statuses[0][:3]), orjson.loads(text), 0))
    return call


def call_ours(service: str) -> InProcess:
    """Return the contender that has this service, built in this process, predict."""
    path = "/api/v1/ml/predict"
    return InProcess(
        partial(prepare_wsgi, path, FIND_PREDICTION[path], SAMPLE_PREDICTION), service
    )


IN_PROCESS = Row(
    "predict-wsgi",
    "predict 1 row, in process",
    {
        OURS: call_ours("ours in process"),
        ECHO: InProcess(partial(prepare_wsgi, "/echo", lambda b: b["features"], FEATURES), "echo"),
    },
    (cost_of(ECHO, goal=1.3),),
)
WITH_MORE = Row(
    "predict-more",
    "predict 1 row, in process",
    {
        KEYS: call_ours("ours with keys"),
        METRICS: call_ours("ours with metrics"),
        OURS: call_ours("ours, keys unread"),
    },
    (cost_of(OURS, goal=1.1, of=KEYS), cost_of(OURS, of=METRICS)),
)


# Batches


@cache
def wide_model() -> Any:
    """Return the model of ten features that every service has learnt."""
    return sample.fit(*sample.make_rows())[0]


@cache
def batch() -> Exchange:
    """Return a prediction for a thousand rows."""
    X, _ = sample.make_rows(BATCH_ROWS, seed=1)
    check = check_value(200, lambda body: body["predictions"], wide_model().predict(X))
    return Exchange("POST", "/api/v1/ml/models/wide/predict/batch", check, dump({"instances": X}))


def prepare_batch(_: None) -> Any:
    """Return the arithmetic of a batch."""
    model, body = wide_model(), batch().body
    call = partial(arithmetic.predict_json, body, model.coef_, model.intercept_)
    batch().check(Answer(200, orjson.loads(call()), 0))
    return call


BATCH = Row(
    "batch",
    "predict 1,000 × 10, JSON",
    {
        OURS: Load("ours", batch),
        FASTAPI: Load("fastapi", batch),
        ARITHMETIC: InProcess(prepare_batch),
    },
    (faster_than(FASTAPI, goal=3), cost_of(ARITHMETIC, goal=2.5)),
)


# Trainings


@dataclass(frozen=True)
class Form:
    """A form in which rows come to be learnt from, and its arithmetic."""

    title: str
    n_rows: int
    query: str
    content_type: str
    write: Callable[[Any, Any], bytes]
    read_and_solve: Callable[[bytes], Any]


def make_table(X: Any, y: Any) -> pa.Table:
    """Return rows as a table, with the target as its last column."""
    return pa.table({**{f"x{index}": X[:, index] for index in range(X.shape[1])}, "y": y})


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


FORMS = {
    "json": Form(
        "JSON",
        JSON_ROWS,
        "",
        "application/json",
        lambda X, y: dump({"X": X, "y": y}),
        arithmetic.train_json,
    ),
    "parquet": Form(
        "Parquet",
        TABLE_ROWS,
        "?target=y",
        "application/vnd.apache.parquet",
        write_parquet,
        arithmetic.train_parquet,
    ),
    "arrow": Form(
        "Arrow",
        TABLE_ROWS,
        "?target=y",
        "application/vnd.apache.arrow.stream",
        write_arrow,
        arithmetic.train_arrow,
    ),
}


@cache
def training(name: str) -> Exchange:
    """Return a training in a form."""
    form = FORMS[name]
    X, y = sample.make_rows(form.n_rows)
    model, test_X, test_y = sample.fit(X, y)
    expected = r2_score(test_y, model.predict(test_X))
    check = check_value(201, lambda body: body["metrics"]["r2_score"], expected)
    path = f"/api/v1/ml/models/trained/train{form.query}"
    return Exchange("POST", path, check, form.write(X, y), form.content_type)


def prepare_training(name: str, _: None) -> Any:
    """Return the arithmetic of a training."""
    form, body = FORMS[name], training(name).body
    X, y = sample.make_rows(form.n_rows)
    n_fit = int(len(X) * 0.8)
    ones = np.ones((n_fit, 1))
    expected = np.linalg.lstsq(np.hstack([X[:n_fit], ones]), y[:n_fit], rcond=None)[0]
    check_close(form.read_and_solve(body), expected)
    return partial(form.read_and_solve, body)


def make_training_row(name: str, times: int, goal: float, rivals: bool = False) -> Row:
    """Return the row of trainings in a form."""
    make = partial(training, name)
    contenders: dict[str, Contender] = {
        OURS: Single("ours", make, times),
        SHORT_LEASE: Single("ours, short lease", make, times),
        ARITHMETIC: InProcess(partial(prepare_training, name), times=times),
    }
    comparisons = [cost_of(ARITHMETIC, goal=goal, of=of) for of in (OURS, SHORT_LEASE)]
    if rivals:
        contenders[FASTAPI] = Single("fastapi", make, times)
        speed = [faster_than(FASTAPI, goal=2.5, of=of) for of in (OURS, SHORT_LEASE)]
        comparisons = [*speed, *comparisons]
    form = FORMS[name]
    title = f"train {form.n_rows:,} × 10, {form.title}"
    return Row(f"train-{name}", title, contenders, tuple(comparisons))


# Items


def check_item(status: int, name: str) -> Callable[[Answer], None]:
    """Return a check of an answer that holds an item."""

    def check(answer: Answer) -> None:
        expect(status)(answer)
        if not isinstance(answer.body, dict) or answer.body.get("name") != name:
            raise WrongAnswer(f"answered {str(answer.body)[:200]}")

    return check


def check_page(answer: Answer) -> None:
    """Raise WrongAnswer unless the answer is the second twenty items."""
    expect(200)(answer)
    names = [item.get("name") for item in answer.body if isinstance(item, dict)]
    if names != [f"Item {number}" for number in range(21, 41)]:
        raise WrongAnswer(f"answered {str(answer.body)[:200]}")


NEW_ITEM = {"name": "New item", "description": "Made to be counted."}
ITEM_EXCHANGES = {
    "create": Exchange("POST", "/api/v1/items", check_item(201, "New item"), dump(NEW_ITEM)),
    "read": Exchange(
        "GET", f"/api/v1/items/{N_ITEMS // 2}", check_item(200, f"Item {N_ITEMS // 2}")
    ),
    "list": Exchange("GET", "/api/v1/items?page=2&page_size=20", check_page),
}


def remove_new_items(service: str, fleet: Fleet) -> None:
    """Leave the items that every measurement begins with."""
    url = fleet.databases[service]
    execute_on_server(url, f"DELETE FROM item WHERE id > {N_ITEMS}")  # noqa: S608 (a constant)
    execute_on_server(url, "VACUUM ANALYZE item")


def make_item_row(name: str, title: str) -> Row:
    """Return the row of an operation on items."""
    exchange = ITEM_EXCHANGES[name]

    def load(service: str) -> Load:
        reset = partial(remove_new_items, service) if name == "create" else None
        return Load(f"{service}, items", lambda: exchange, ITEM_CONNECTIONS, reset)

    return Row(
        f"items-{name}",
        f"{title}, {ITEM_CONNECTIONS} connections",
        {OURS: load("ours"), FASTAPI: load("fastapi")},
        (faster_than(FASTAPI, goal=1.3),),
        by_rate=True,
    )


# Trees


def prepare_trees(estimator: Any, compiled: bool, _: None) -> Any:
    """Return the prediction for one row by an ensemble, compiled or its own."""
    X, y = sample.make_rows()
    row = X[:1].copy()
    if not hasattr(estimator, "n_features_in_"):
        estimator.fit(X, y)
    scorer = compile_scorer(estimator)
    check_close(score(scorer, row).values, estimator.predict(row))
    return partial(score, scorer, row) if compiled else partial(estimator.predict, row)


def make_tree_row(name: str, title: str, estimator: Any, goal: float) -> Row:
    """Return the row of an ensemble of trees."""
    return Row(
        name,
        f"{title}, 1 row, in process",
        {
            COMPILED: InProcess(partial(prepare_trees, estimator, True)),
            SKLEARN: InProcess(partial(prepare_trees, estimator, False)),
        },
        (faster_than(SKLEARN, goal=goal, of=COMPILED),),
    )


FOREST = RandomForestRegressor(n_estimators=100, random_state=0)
BOOSTING = HistGradientBoostingRegressor(max_iter=100, random_state=0)

ROWS = (
    make_prediction_row(1),
    make_prediction_row(32),
    IN_PROCESS,
    WITH_MORE,
    BATCH,
    make_training_row("json", times=3, goal=1.6, rivals=True),
    make_training_row("parquet", times=1, goal=1.5),
    make_training_row("arrow", times=1, goal=1.5),
    make_item_row("create", "create an item"),
    make_item_row("read", "read an item"),
    make_item_row("list", "list 20 items"),
    make_tree_row("forest", "random forest, 100 trees", FOREST, goal=50),
    make_tree_row("boosting", "gradient boosting, 100 trees", BOOSTING, goal=8),
)
