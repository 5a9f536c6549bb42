"""Models of XGBoost, LightGBM and ONNX predict here what they predicted there, or are refused."""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
from flask import Flask
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, SVR, OneClassSVM
from werkzeug.test import TestResponse

from tests.conftest import app_on, migrate
from tests.ml.calls import ARROW, ML
from tests.tables import to_arrow
from webapp.ml.core import formats
from webapp.ml.core.formats import find_format
from webapp.ml.core.signature import Signature

RANDOM = np.random.RandomState(0)
N_ROWS = 200
X = RANDOM.randn(N_ROWS, 4)
WITH_GAPS = np.where(RANDOM.rand(*X.shape) < 0.1, np.nan, X)
Y = X[:, 0] + X[:, 1] ** 2
COUNTS = RANDOM.poisson(3, N_ROWS)
BITS = (Y > 1).astype(int)
CLASSES = RANDOM.randint(0, 4, N_ROWS)
TABLE = pd.DataFrame(WITH_GAPS, columns=list("abcd")).assign(
    size=pd.Categorical(RANDOM.choice(["small", "large", "huge"], N_ROWS)),
    doors=pd.Categorical(RANDOM.choice([3, 5], N_ROWS)),
)
Y_TABLE = Y + 3 * (TABLE["size"] == "large")
SIZES = (1, 2, 7, 100)
LIBRARIES = {"xgboost": xgboost, "lightgbm": lightgbm, "onnx": onnxruntime}
NUMBERS = itertools.count()


@dataclass
class Case:
    """A fitted model: its file, rows to predict for, and what its own library predicts."""

    data: bytes
    rows: pd.DataFrame
    predicted: Any
    probabilities: Any = None
    tolerance: float = 1e-12


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """Return one application for many models: each takes a name of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shared') / 'webapp.db'}"
    migrate(url)
    with app_on(url) as app:
        yield app


def upload(app: Flask, data: bytes, **fields: Any) -> tuple[str, TestResponse]:
    """Upload a file under a name of its own; return its address and the answer."""
    url = f"{ML}/models/boosting-{next(NUMBERS)}"
    form = {"artifact": (io.BytesIO(data), "model"), "activate": "true", **fields}
    return url, app.test_client().post(f"{url}/versions", data=form)


def refuse(app: Flask, data: bytes, **fields: Any) -> str:
    """Upload a file that is refused; return why."""
    url, answer = upload(app, data, **fields)
    assert answer.status_code == 422, answer.text
    assert app.test_client().get(f"{url}/versions").status_code == 404
    return str(answer.json["errors"])


def assert_is_served(app: Flask, case: Case) -> dict[str, Any]:
    """Upload a model; hold the service's answers in JSON and Arrow against its library's own."""
    url, answer = upload(app, case.data)
    assert answer.status_code == 201, answer.text
    version: dict[str, Any] = answer.json["model"]
    library = LIBRARIES[version["format"]]
    assert version["libraries"][library.__name__] == library.__version__
    client = app.test_client()
    rows = case.rows.set_axis(version["feature_names"], axis=1)
    for size in SIZES:
        sent = rows[:size]
        body = json.dumps(
            {"instances": sent.astype(object).where(sent.notna(), None).to_numpy().tolist()}
        )
        by_json = client.post(f"{url}/predict/batch", data=body, content_type="application/json")
        assert by_json.status_code == 200, by_json.text
        table = pa.Table.from_pandas(sent, preserve_index=False)
        headers = {"Accept": ARROW}
        by_arrow = client.post(
            f"{url}/predict/batch", data=to_arrow(table), content_type=ARROW, headers=headers
        )
        assert by_arrow.status_code == 200, by_arrow.text
        columns = pa.ipc.open_stream(by_arrow.data).read_all()
        names = [name for name in columns.column_names if name.startswith("prediction")]
        several = np.ndim(case.predicted) == 2
        in_columns = np.stack([columns[name].to_pylist() for name in names], axis=1)
        for found in (by_json.json["predictions"], in_columns if several else in_columns[:, 0]):
            assert_equal(found, case.predicted[:size], case.tolerance)
        if case.probabilities is None:
            assert "probabilities" not in by_json.json
            continue
        expected = case.probabilities[:size]
        labels = list(map(str, version["classes"]))
        found = [by_json.json["probabilities"][label] for label in labels]
        assert_equal(np.transpose(found), expected, case.tolerance)
        found = [columns[f"probability:{label}"].to_pylist() for label in labels]
        assert_equal(np.transpose(found), expected, case.tolerance)
    return version


def assert_equal(found: Any, expected: Any, tolerance: float) -> None:
    expected = np.asarray(expected)
    if expected.dtype.kind in "OU":
        assert list(found) == expected.tolist()
    else:
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def make_rows(X: Any) -> pd.DataFrame:
    return X if isinstance(X, pd.DataFrame) else pd.DataFrame(X)


def case_of(model: Any, X: Any, data: bytes) -> Case:
    """Return the case of a fitted wrapper, which predicts its classes 0, 1, … by itself."""
    probabilities = model.predict_proba(X) if hasattr(model, "predict_proba") else None
    return Case(data, make_rows(X), model.predict(X), probabilities)


# XGBoost

FEW = {"n_estimators": 12, "max_depth": 3}
XGBOOST: dict[str, tuple[Any, Any, Any]] = {
    "regression": (xgboost.XGBRegressor(**FEW), X, Y),
    "missing values": (xgboost.XGBRegressor(**FEW), WITH_GAPS, Y),
    "categories": (
        xgboost.XGBRegressor(**FEW, enable_categorical=True, max_cat_to_onehot=1),
        TABLE,
        Y_TABLE,
    ),
    "two classes": (xgboost.XGBClassifier(**FEW), WITH_GAPS, BITS),
    "many classes": (xgboost.XGBClassifier(**FEW), X, CLASSES),
    "best round": (
        xgboost.XGBRegressor(n_estimators=60, learning_rate=1.0, early_stopping_rounds=3),
        X,
        Y,
    ),
    "forest": (xgboost.XGBRFClassifier(**FEW), X, BITS),
    "dart": (xgboost.XGBRegressor(**FEW, booster="dart", rate_drop=0.5), X, Y),
    "linear": (xgboost.XGBRegressor(n_estimators=12, booster="gblinear"), X, Y),
    "pruned": (xgboost.XGBRegressor(**FEW, tree_method="exact", gamma=30), X, Y),
    **{
        loss: (xgboost.XGBRegressor(**FEW, objective=loss), X, COUNTS + 1)
        for loss in ("count:poisson", "reg:tweedie", "reg:gamma", "reg:absoluteerror")
    },
    "two targets": (xgboost.XGBRegressor(**FEW), X, np.stack([Y, -Y], axis=1)),
    "quantiles": (
        xgboost.XGBRegressor(
            **FEW, objective="reg:quantileerror", quantile_alpha=np.array([0.1, 0.9])
        ),
        X,
        Y,
    ),
    "hinge": (xgboost.XGBClassifier(**FEW, objective="binary:hinge"), X, BITS),
}


def fit_xgboost(kind: str) -> tuple[Any, Any]:
    model, rows, target = XGBOOST[kind]
    watched = {"eval_set": [(X[::2], RANDOM.randn(N_ROWS // 2))]} if kind == "best round" else {}
    return model.fit(rows, target, **watched, verbose=False), rows


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("kind", XGBOOST)
def test_a_model_of_xgboost_predicts_what_it_predicted_there(
    shared_app: Flask, tmp_path: Any, kind: str, suffix: str
) -> None:
    model, rows = fit_xgboost(kind)
    path = tmp_path / f"model.{suffix}"
    model.save_model(path)

    version = assert_is_served(shared_app, case_of(model, rows, path.read_bytes()))

    assert (version["format"], version["estimator"]) == ("xgboost", "xgboost")
    assert version["params"]["objective"] == model.objective


def test_a_booster_predicts_with_all_rounds_and_a_softmax_gives_labels(shared_app: Flask) -> None:
    data = xgboost.DMatrix(X, CLASSES)
    booster = xgboost.train(
        {"objective": "multi:softmax", "num_class": 4, "max_depth": 3},
        data,
        num_boost_round=30,
        evals=[(data, "seen")],
        early_stopping_rounds=1,
        verbose_eval=False,
    )
    expected = booster.predict(data).astype(int)

    assert_is_served(shared_app, Case(bytes(booster.save_raw("json")), make_rows(X), expected))


# LightGBM

LEAVES = {"n_estimators": 12, "num_leaves": 6, "verbose": -1, "n_jobs": 1}
BAGGED = {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1}
LIGHTGBM: dict[str, tuple[Any, Any, Any]] = {
    "regression": (lightgbm.LGBMRegressor(**LEAVES), X, Y),
    "missing values": (lightgbm.LGBMRegressor(**LEAVES), WITH_GAPS, Y),
    "categories": (
        lightgbm.LGBMRegressor(**LEAVES, min_data_per_group=5, cat_smooth=1, max_cat_to_onehot=1),
        TABLE,
        Y_TABLE,
    ),
    "two classes": (lightgbm.LGBMClassifier(**LEAVES), WITH_GAPS, BITS),
    "many classes": (lightgbm.LGBMClassifier(**LEAVES), X, CLASSES),
    "one against all": (lightgbm.LGBMClassifier(**LEAVES, objective="multiclassova"), X, CLASSES),
    "forest": (lightgbm.LGBMClassifier(**LEAVES, **BAGGED), X, BITS),
    "dart": (lightgbm.LGBMRegressor(**LEAVES, boosting_type="dart"), X, Y),
    "root": (lightgbm.LGBMRegressor(**LEAVES, reg_sqrt=True), X, Y),
    "constant": (lightgbm.LGBMRegressor(**LEAVES), X, np.ones(N_ROWS)),
    **{
        loss: (lightgbm.LGBMRegressor(**LEAVES, objective=loss), X, COUNTS + 1)
        for loss in ("poisson", "tweedie", "gamma", "quantile", "huber", "mape", "regression_l1")
    },
}


@pytest.mark.parametrize("kind", LIGHTGBM)
def test_a_model_of_lightgbm_predicts_what_it_predicted_there(
    shared_app: Flask, kind: str
) -> None:
    model, rows, target = LIGHTGBM[kind]
    model.fit(rows, target)
    case = case_of(model, rows, model.booster_.model_to_string().encode())

    version = assert_is_served(shared_app, case)

    assert (version["format"], version["estimator"]) == ("lightgbm", "lightgbm")
    if rows is TABLE:
        kinds = {column["name"]: column["kind"] for column in version["signature"]["columns"]}
        assert kinds == {
            **dict.fromkeys("abcd", "number"),
            "size": "category",
            "doors": "category",
        }


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_category_that_training_did_not_have_is_a_missing_value_and_named(
    shared_app: Flask, library: str
) -> None:
    kinds: Any = XGBOOST if library == "xgboost" else LIGHTGBM
    model, rows, target = kinds["categories"]
    model.fit(rows, target)
    data = (
        bytes(model.get_booster().save_raw("json"))
        if library == "xgboost"
        else model.booster_.model_to_string().encode()
    )
    url, _ = upload(shared_app, data)
    row = {"a": 1, "b": 0, "c": None, "d": 2, "doors": 3}

    answers = [
        shared_app.test_client()
        .post(f"{url}/predict", json={"features": {**row, "size": size}})
        .json
        for size in ("tiny", None)
    ]

    assert answers[0]["unseen"] == {"size": "tiny"}
    assert answers[0]["prediction"] == answers[1]["prediction"]


# ONNX


def to_onnx(model: Any, rows: Any, **options: Any) -> bytes:
    """Return a fitted model as skl2onnx makes it, which warns of itself."""
    skl2onnx = pytest.importorskip("skl2onnx")
    return bytes(skl2onnx.to_onnx(model, rows[:1], **options).SerializeToString())


SINGLE = X.astype(np.float32)
WORDS = np.array(["few", "some", "many", "all"])[CLASSES]
MIXED = pd.DataFrame(SINGLE, columns=list("abcd")).assign(
    size=RANDOM.choice(["small", "large"], N_ROWS), doors=RANDOM.randint(2, 6, N_ROWS)
)
NUMERIC = make_pipeline(SimpleImputer(), StandardScaler())
NO_MAP = {"options": {"zipmap": False}}
ONNX: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "linear": (LinearRegression(), X, Y, {}),
    "two targets": (LinearRegression(), X, np.stack([Y, X[:, 0]], axis=1), {}),
    "linear in float32": (LinearRegression(), SINGLE, Y, {}),
    "poisson": (PoissonRegressor(), X, COUNTS, {}),
    "scaled": (make_pipeline(StandardScaler(), PCA(2), Ridge()), X, Y, {}),
    "stacked": (StackingRegressor([("a", LinearRegression()), ("b", Ridge())]), X, Y, {}),
    "neighbours": (KNeighborsRegressor(), X, Y, {}),
    "network": (MLPRegressor(max_iter=5), X, Y, {}),
    "forest": (RandomForestRegressor(5), SINGLE, Y, {}),
    "extra trees": (ExtraTreesRegressor(5), SINGLE, Y, {}),
    "boosting": (GradientBoostingRegressor(n_estimators=5), SINGLE, Y, {}),
    "support vectors": (SVR(), SINGLE, Y, {}),
    "classes by map": (LogisticRegression(), SINGLE, CLASSES, {}),
    "words by map": (LogisticRegression(), SINGLE, WORDS, {}),
    "classes": (LogisticRegression(), X, WORDS, NO_MAP),
    "two classes": (MLPClassifier(max_iter=5), X, BITS, NO_MAP),
    "bayes": (GaussianNB(), X, WORDS, NO_MAP),
    "classes of neighbours": (KNeighborsClassifier(), X, WORDS, NO_MAP),
    "classes of a forest": (RandomForestClassifier(5), SINGLE, WORDS, NO_MAP),
    "classes of boosting": (GradientBoostingClassifier(n_estimators=5), SINGLE, BITS, NO_MAP),
    "classes of stumps": (AdaBoostClassifier(n_estimators=5), SINGLE, BITS, {}),
    "calibrated": (CalibratedClassifierCV(LogisticRegression()), SINGLE, WORDS, NO_MAP),
    "labels only": (SVC(), SINGLE, WORDS, NO_MAP),
    "mixed table": (
        make_pipeline(
            make_column_transformer(
                (NUMERIC, list("abcd")),
                (OneHotEncoder(handle_unknown="ignore"), ["size"]),
                ("passthrough", ["doors"]),
            ),
            LogisticRegression(),
        ),
        MIXED,
        WORDS,
        NO_MAP,
    ),
    "mixed table of a forest": (
        make_pipeline(
            make_column_transformer((OrdinalEncoder(), ["size"]), remainder="passthrough"),
            RandomForestRegressor(5),
        ),
        MIXED,
        Y,
        {},
    ),
}


@pytest.mark.filterwarnings("ignore")  # skl2onnx warns of itself
@pytest.mark.parametrize("kind", ONNX)
def test_a_model_of_onnx_predicts_what_it_predicted_there(shared_app: Flask, kind: str) -> None:
    model, rows, target, options = ONNX[kind]
    model.fit(rows, target)
    case = case_of(model, rows, to_onnx(model, rows, **options))
    case.tolerance = 1e-12 if isinstance(rows, np.ndarray) and rows.dtype == float else 1e-6

    version = assert_is_served(shared_app, case)

    assert (version["format"], version["estimator"]) == ("onnx", "onnx")
    if rows is MIXED:
        kinds = {column["name"]: column["kind"] for column in version["signature"]["columns"]}
        assert kinds == {**dict.fromkeys([*"abcd", "doors"], "number"), "size": "text"}
        assert version["signature"]["columns"][0]["missing"] is (kind == "mixed table")


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_onnx_is_not_explained(shared_app: Flask) -> None:
    url, _ = upload(shared_app, to_onnx(LinearRegression().fit(X, Y), X))

    body = {"features": X[0].tolist(), "explain": True}
    answer = shared_app.test_client().post(f"{url}/predict", json=body)

    assert answer.status_code == 422
    assert "XGBoost and LightGBM can be explained" in str(answer.json["errors"]["json"]["explain"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [IsolationForest(n_estimators=5), OneClassSVM()], ids=str)
def test_an_outlier_detector_of_onnx_answers_labels_and_scores(
    shared_app: Flask, model: Any
) -> None:
    model.fit(SINGLE)
    opsets = {"": 18, "ai.onnx.ml": 3}
    url, answer = upload(shared_app, to_onnx(model, SINGLE, target_opset=opsets))
    rows = {"instances": SINGLE[:7].tolist()}

    found = shared_app.test_client().post(f"{url}/predict/batch", json=rows).json

    assert answer.json["model"]["task"] == "outliers"
    assert found["predictions"] == model.predict(SINGLE[:7]).tolist()
    np.testing.assert_allclose(found["score"], model.decision_function(SINGLE[:7]), atol=1e-5)


def make_graph(nodes: list[Any], *, shape: Any = ("n", 2), kind: int = 1, **parts: Any) -> Any:
    """Return a model of an input X and an output Y, both tables of numbers by default."""
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "graph", [make("X", kind, shape)], [make("Y", 1, None)], **parts
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(
    kind: str, *inputs: str, domain: str = "", outputs: Any = ("Y",), **attributes: Any
) -> Any:
    return onnx.helper.make_node(kind, inputs, outputs, domain=domain, **attributes)


def make_constant(name: str, values: Any, kind: int = onnx.TensorProto.FLOAT) -> Any:
    return onnx.helper.make_tensor(name, kind, np.shape(values), np.ravel(values))


def make_external() -> Any:
    weights = make_constant("W", [[1.0], [2.0]])
    weights.ClearField("float_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    return make_graph([node("MatMul", "X", "W")], initializer=[weights])


def make_training() -> Any:
    model = make_graph([node("Identity", "X")])
    model.training_info.add()
    return model


def make_function() -> Any:
    model = make_graph([node("Twice", "X", domain="ours")])
    function = model.functions.add(name="Twice", domain="ours", input=["a"], output=["b"])
    function.node.append(node("Twice", "a", domain="ours", outputs=["b"]))
    return model


def with_opset(version: int) -> Any:
    model = make_graph([node("Identity", "X")])
    model.opset_import[0].version = version
    return model


def make_loop() -> Any:
    body = onnx.helper.make_graph([], "body", [], [])
    return make_graph([node("Loop", "X", body=body)])


def make_branch() -> Any:
    """Return a model whose size is made of what is sent inside of a branch."""
    sizes = onnx.helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, None)
    nodes = [
        node("Cast", "X", to=onnx.TensorProto.INT64, outputs=["long"]),
        node("Reshape", "long", "flat", outputs=["sizes"]),
    ]
    branch = onnx.helper.make_graph(nodes, "branch", [], [sizes])
    return make_graph(
        [
            node("If", "yes", then_branch=branch, else_branch=branch, outputs=["chosen"]),
            node("ConstantOfShape", "chosen"),
        ],
        initializer=[
            make_constant("yes", True, onnx.TensorProto.BOOL),
            make_constant("flat", [-1], onnx.TensorProto.INT64),
        ],
    )


REFUSED_ONNX: dict[str, tuple[Callable[[], Any], str]] = {
    "operators of others": (
        lambda: make_graph(
            [
                node("Gelu", "X", domain="com.microsoft", outputs=["a"]),
                node("Mine", "a", domain="us"),
            ]
        ),
        "operators that are not allowed: com.microsoft.Gelu, us.Mine",
    ),
    "a loop": (make_loop, "not allowed: Loop"),
    "chance": (lambda: make_graph([node("RandomNormalLike", "X")]), "RandomNormalLike"),
    "data elsewhere": (make_external, "another file"),
    "a graph for training": (make_training, "training"),
    "functions": (make_function, "functions of its own"),
    "a later opset": (lambda: with_opset(99), "Opset 99 is under development"),
    "a size that is sent": (
        lambda: make_graph(
            [
                node("Cast", "X", to=onnx.TensorProto.INT64, outputs=["long"]),
                node("Reshape", "long", "flat", outputs=["sizes"]),
                node("ConstantOfShape", "sizes"),
            ],
            initializer=[make_constant("flat", [-1], onnx.TensorProto.INT64)],
        ),
        "ConstantOfShape makes arrays of a size that a value says",
    ),
    "a size out of a branch": (make_branch, "ConstantOfShape makes arrays of a size"),
    "a cube": (lambda: make_graph([node("Identity", "X")], shape=("n", 2, 2)), "has the shape"),
    "rows by tens": (lambda: make_graph([node("Identity", "X")], shape=(10, 2)), "has the shape"),
    "half numbers": (
        lambda: make_graph([node("Cast", "X", to=1)], kind=onnx.TensorProto.FLOAT16),
        "tensor(float16)",
    ),
    "one number for all rows": (
        lambda: make_graph([node("ReduceSum", "X", keepdims=0)]),
        "does not give a value for each row",
    ),
    "types that do not fit": (
        lambda: make_graph(
            [node("MatMul", "X", "W")],
            initializer=[make_constant("W", [[1], [2]], onnx.TensorProto.INT64)],
        ),
        "onnxruntime",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_ONNX)
def test_what_is_dangerous_or_unknown_in_onnx_is_refused_by_name(
    shared_app: Flask, kind: str
) -> None:
    make, reason = REFUSED_ONNX[kind]

    assert reason in refuse(shared_app, make().SerializeToString())


@pytest.mark.parametrize("shape", [("n", None), (1, 2), (1, None)], ids=str)
def test_a_model_may_leave_the_number_of_features_open_and_take_rows_one_by_one(
    shared_app: Flask, shape: Any
) -> None:
    weights = make_constant("W", [[1.0], [2.0]])
    data = make_graph([node("MatMul", "X", "W")], shape=shape, initializer=[weights])

    if shape[1] is None:
        assert "feature_names" in refuse(shared_app, data.SerializeToString())
    url, answer = upload(shared_app, data.SerializeToString(), feature_names=["height", "width"])

    assert answer.status_code == 201, answer.text
    rows = [{"height": 1, "width": 2}, {"height": 0, "width": 0.5}]
    found = shared_app.test_client().post(f"{url}/predict/batch", json={"instances": rows})
    assert found.json["predictions"] == [5, 1]


def test_whole_numbers_are_asked_for_where_a_model_takes_them(shared_app: Flask) -> None:
    data = make_graph([node("Cast", "X", to=1)], kind=onnx.TensorProto.INT64, shape=("n", 1))
    url, _ = upload(shared_app, data.SerializeToString())
    client = shared_app.test_client()

    found = client.post(f"{url}/predict/batch", json={"instances": [[1], [-3]]})
    refused = client.post(f"{url}/predict/batch", json={"instances": [[1], [1.5]]})

    assert found.json["predictions"] == [1, -3]
    assert refused.status_code == 422
    assert "no whole number" in refused.json["errors"]["json"]["instances"]["1"][0]


# All


def dump(model: Any) -> Any:
    """Return a model of XGBoost as the values of its JSON."""
    return json.loads(bytes(model.get_booster().save_raw("json")))


def change_tree(key: str, place: int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        document["learner"]["gradient_booster"]["model"]["trees"][0][key][place] = value

    return change


def change_model(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


LEARNER = ("learner", "learner_model_param")
MODEL_PATH = ("learner", "gradient_booster", "model")
BAD_XGBOOST: dict[str, tuple[Callable[[Any], None], str]] = {
    **{
        f"{key}[{place}] = {value}": (change_tree(key, place, value), "out of range")
        for key, place, value in (
            *(("left_children", 0, value) for value in (0, -2, 1000, 2**30)),
            *(("right_children", 0, value) for value in (0, -1, 1000)),
            *(("split_indices", 0, value) for value in (4, -1, 2**20)),
            *(("parents", 1, value) for value in (-1, 1000)),
            ("split_type", 0, 1),
            ("left_children", -1, 3),
        )
    },
    "beyond 32 bits": (change_tree("left_children", 0, 2**40), "not an XGBoost model"),
    "output of a tree": (change_model(*MODEL_PATH, "tree_info", 0, value=9), "out of range"),
    "several outputs a leaf": (
        change_model(*MODEL_PATH, "trees", 0, "tree_param", "size_leaf_vector", value="3"),
        "several outputs",
    ),
    "no trees": (change_model(*MODEL_PATH, "trees", value=[]), "out of range"),
    **{
        f"{value} features": (change_model(*LEARNER, "num_feature", value=value), "out of range")
        for value in ("0", "2147483646")
    },
    "number of classes": (change_model(*LEARNER, "num_class", value="3"), "classes"),
    "ranking": (change_model("learner", "objective", "name", value="rank:ndcg"), "rank:ndcg"),
    "later version": (change_model("version", value=[99, 1, 0]), "XGBoost 99.1.0"),
    "names": (change_model("learner", "feature_names", value=["a"] * 4), "repeats a"),
}


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("kind", BAD_XGBOOST)
def test_a_crafted_model_of_xgboost_is_refused_before_the_library_gets_it(
    shared_app: Flask, kind: str, suffix: str
) -> None:
    change, reason = BAD_XGBOOST[kind]
    document = dump(xgboost.XGBRegressor(**FEW).fit(X, Y))
    change(document)

    data = json.dumps(document).encode() if suffix == "json" else to_ubjson(document)

    assert reason in refuse(shared_app, data)


def to_ubjson(value: Any) -> bytes:
    """Return JSON values as UBJSON without typed arrays."""
    if isinstance(value, str):
        return b"S" + to_ubjson(len(value.encode())) + value.encode()
    if isinstance(value, float):
        return b"d" + np.array(value, ">f4").tobytes()
    if isinstance(value, int):
        return b"L" + value.to_bytes(8, "big", signed=True)
    if isinstance(value, list):
        return b"[" + b"".join(map(to_ubjson, value)) + b"]"
    pairs = (to_ubjson(key)[1:] + to_ubjson(item) for key, item in value.items())
    return b"{" + b"".join(pairs) + b"}"


BAD_LIGHTGBM: dict[str, tuple[str, str, str]] = {
    "child": (r"left_child=\S+", "left_child=1000", "out of range"),
    "child behind": (r"right_child=\S+", "right_child=0", "out of range"),
    "leaf": (r"left_child=\S+", "left_child=-1000", "out of range"),
    "feature": (r"split_feature=\S+", "split_feature=1000", "out of range"),
    "missing field": (r"threshold=.*", "", "not a LightGBM model"),
    "too few": (r"leaf_value=\S+ ", "leaf_value=", "out of range"),
    "no category": (r"decision_type=\S+", "decision_type=1", "out of range"),
    "leaves": (r"num_leaves=\d+", "num_leaves=2000000000", "out of range"),
    "no number": (r"threshold=\S+", "threshold=low", "not a LightGBM model"),
    "linear": (r"is_linear=0", "is_linear=1", "linear models"),
    "ranking": (r"objective=regression", "objective=lambdarank", "lambdarank"),
    "own objective": (r"objective=regression\n", "", "custom"),
    "classes": (r"num_class=1", "num_class=3", "classes"),
    "features": (r"max_feature_idx=3", "max_feature_idx=99999999999", "features"),
    "end": (r"end of trees", "", "not a LightGBM model"),
}


@pytest.mark.parametrize("kind", BAD_LIGHTGBM)
def test_a_crafted_model_of_lightgbm_is_refused_before_the_library_gets_it(
    shared_app: Flask, kind: str
) -> None:
    pattern, replacement, reason = BAD_LIGHTGBM[kind]
    text = lightgbm.LGBMRegressor(**LEAVES).fit(X, Y).booster_.model_to_string()
    changed = re.sub(pattern, replacement, text, count=1)
    assert changed != text

    assert reason in refuse(shared_app, changed.encode())


SHORT = {
    "xgboost": lambda: bytes(
        xgboost.XGBRegressor(n_estimators=2).fit(X, Y).get_booster().save_raw("json")
    ),
    "xgboost in ubjson": lambda: bytes(
        xgboost.XGBRegressor(n_estimators=2).fit(X, Y).get_booster().save_raw("ubj")
    ),
    "lightgbm": lambda: (
        lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=1)
        .fit(X, Y)
        .booster_.model_to_string()
        .encode()
    ),
    "onnx": lambda: make_graph([node("Identity", "X")]).SerializeToString(),
}


@pytest.mark.parametrize("kind", SHORT)
def test_a_file_that_is_cut_short_or_changed_by_chance_is_served_or_refused_in_words(
    shared_app: Flask, kind: str
) -> None:
    random, data = np.random.RandomState(0), SHORT[kind]()
    for number in range(20):
        changed = bytearray(data)
        if number % 2:
            del changed[random.randint(1, len(data)) :]
        else:
            changed[random.randint(len(data))] = random.randint(256)
        _, answer = upload(shared_app, bytes(changed))
        assert answer.status_code in (201, 422), answer.text
        assert answer.status_code == 201 or answer.json["errors"]["form"]


DEEP = {
    "json": b'{"learner":' + b"[" * 10**6,
    "objects": b'{"learner":' * 10**5,
    "ubjson": b"{L\0\0\0\0\0\0\0\7learner" * 10**5,
    "size of an array": b"{L\0\0\0\0\0\0\0\7learner[$d#L\x7f" + b"\xff" * 7,
    "size of a list": b"{L\0\0\0\0\0\0\0\7learner[#L\x7f" + b"\xff" * 7,
    "size of a key": b"{L\x7f" + b"\xff" * 7 + b"learner",
}


@pytest.mark.parametrize("kind", DEEP)
def test_depths_and_sizes_that_a_file_only_claims_are_refused(
    shared_app: Flask, kind: str
) -> None:
    assert "not an XGBoost model" in refuse(shared_app, DEEP[kind])


@pytest.mark.parametrize("kind", SHORT)
def test_without_its_library_a_model_is_refused_with_the_file_to_install(
    shared_app: Flask, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SHORT[kind]()
    for name in ("xgboost", "lightgbm", "onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)

    assert "pip install -r requirements/boosting.txt" in refuse(shared_app, data)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "onnx"])
def test_a_file_of_another_format_than_it_is_said_to_be_is_refused(
    shared_app: Flask, name: str
) -> None:
    others = [b"", b"\x08\n", b"{}", *(make() for kind, make in SHORT.items() if name not in kind)]

    for data in others:
        assert "cannot be loaded" in refuse(shared_app, data, format=name)


@pytest.mark.parametrize("kind", SHORT)
def test_what_was_uploaded_can_be_downloaded_by_its_kind_of_name(
    shared_app: Flask, kind: str
) -> None:
    data = SHORT[kind]()
    url, answer = upload(shared_app, data)

    found = shared_app.test_client().get(f"{url}/versions/1/artifact")

    assert found.data == data
    suffix = formats.FORMATS[answer.json["model"]["format"]].suffix
    assert f'1{suffix}"' in found.headers["Content-Disposition"]


@pytest.mark.parametrize("kind", SHORT)
def test_predictions_at_the_same_time_are_those_of_one_after_the_other(kind: str) -> None:
    data = SHORT[kind]()
    found = find_format(data)
    described = found.describe(data, max_features=10)
    scorer = found.load(data, Signature.from_json(described["signature"]), None).scorer
    blocks = [RANDOM.randn(50, len(described["feature_names"])) for _ in range(40)]
    expected = [scorer(block).values for block in blocks]

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda block: scorer(block).values, blocks))

    assert all(map(np.array_equal, together, expected))


def test_your_model_names_every_objective() -> None:
    page = (Path(__file__).parents[2] / "docs" / "your-model.md").read_text()
    served = [*formats.xgboost.REGRESSIONS, *formats.xgboost.BINARY, *formats.xgboost.MULTIPLE]
    served += [*formats.lightgbm.REGRESSIONS, *formats.lightgbm.MULTIPLE, "binary"]

    assert not [name for name in served if f"`{name}`" not in page]
    assert f"{formats.onnx.BLOCK_ROWS:,} at a time" in page


@pytest.mark.parametrize("kind", SHORT)
def test_a_sample_holds_a_model_to_what_is_expected(shared_app: Flask, kind: str) -> None:
    data, sample = SHORT[kind](), json.dumps(X[:3, : 2 if kind == "onnx" else 4].tolist())
    url, _ = upload(shared_app, data)
    found = shared_app.test_client().post(
        f"{url}/predict/batch", json={"instances": json.loads(sample)}
    )
    expected = found.json["predictions"]

    _, stored = upload(shared_app, data, sample=sample, expected=json.dumps(expected))
    refused = refuse(shared_app, data, sample=sample, expected=json.dumps(expected[::-1]))

    assert stored.json["metrics"]["self_check"]["rows"] == 3, stored.text
    assert "row 0 of sample" in refused


@pytest.mark.parametrize("kind", SHORT)
def test_a_signature_names_the_columns_and_has_to_fit(shared_app: Flask, kind: str) -> None:
    width = 2 if kind == "onnx" else 4
    columns: list[Any] = [{"name": f"c{place}", "kind": "number"} for place in range(width)]
    columns[0] |= {"kind": "category", "categories": ["low", "high"]}

    url, answer = upload(shared_app, SHORT[kind](), signature=json.dumps({"columns": columns}))
    fewer = refuse(shared_app, SHORT[kind](), signature=json.dumps({"columns": columns[1:]}))

    assert answer.json["model"]["signature"]["columns"][0]["categories"] == ["low", "high"]
    assert "does not fit" in fewer
    rows = {"instances": [["high", *([0] * (width - 1))]]}
    by_name = shared_app.test_client().post(f"{url}/predict/batch", json=rows)
    url, _ = upload(shared_app, SHORT[kind]())
    rows["instances"][0][0] = 1
    by_code = shared_app.test_client().post(f"{url}/predict/batch", json=rows)
    assert by_name.json["predictions"] == by_code.json["predictions"]
