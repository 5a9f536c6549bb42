"""Artifacts: what comes back is what went in, and nothing else comes in."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import config
from webapp.errors import InvalidInput
from webapp.ml.core.artifacts import digest
from webapp.ml.core.estimators import CATALOGUE, Estimator, build_estimator, resolve_params
from webapp.ml.core.formats import inspect_file
from webapp.ml.core.formats import skops as skops_files
from webapp.ml.core.signature import Signature

X, y = load_diabetes(return_X_y=True)
IRIS_X, IRIS_CODES = load_iris(return_X_y=True)
LABELS = np.array(["setosa", "versicolor", "virginica"])[IRIS_CODES]

SMALL: Mapping[str, Mapping[str, Any]] = {
    "random_forest": {"n_estimators": 3, "max_depth": 4},
    "random_forest_classifier": {"n_estimators": 3, "max_depth": 4},
    "hist_gradient_boosting": {"max_iter": 3},
    "hist_gradient_boosting_classifier": {"max_iter": 3},
    "logistic_regression": {"max_iter": 1000},
    "decision_tree": {"max_depth": 4},
    "decision_tree_classifier": {"max_depth": 4},
    "extra_trees": {"n_estimators": 3},
    "extra_trees_classifier": {"n_estimators": 3},
    "gradient_boosting": {"n_estimators": 3},
    "gradient_boosting_classifier": {"n_estimators": 3},
    "mlp": {"max_iter": 20, "hidden_layer_sizes": [8, 4]},
    "mlp_classifier": {"max_iter": 20, "hidden_layer_sizes": [8, 4]},
}

Schema = dict[str, Any]
LINEAR, FOREST, BOOSTING = "linear_regression", "random_forest", "hist_gradient_boosting"
STAGES, NEIGHBORS, SVM = (f"{n}_classifier" for n in ("gradient_boosting", "k_neighbors", "svm"))
TREE = ("estimators_", 0, "tree_")
NODES = (*TREE, "nodes")


def fit(row: Estimator, scale: bool = False, seed: int = 5, **given: object) -> Any:
    """Return a small model of a row of the catalogue, fitted on data of its task."""
    params = resolve_params(row, {**SMALL.get(row.name, {}), **given})
    model = build_estimator(row, params, random_state=seed, scale=scale)
    return model.fit(*rows_for(row))


def rows_for(row: Estimator) -> tuple[Any, Any]:
    return (X, y) if row.task == "regression" else (IRIS_X, LABELS)


@cache
def plain(name: str) -> bytes:
    """Return the file that plain skops makes of a small model, by its name in the catalogue."""
    data: bytes = skops.io.dumps(fit(CATALOGUE[name]))
    return data


def load(data: bytes) -> Any:
    return skops_files.loads(data)


def refuse(data: bytes) -> str:
    """Return the reason for which an upload is refused."""
    with pytest.raises(InvalidInput) as caught:
        inspect_file(None, data, None, {"max_features": 1000})
    assert isinstance(caught.value.faults, dict)
    (reason,) = caught.value.faults["artifact"]
    return str(reason)


def read_zip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def edit_schema(data: bytes, edit: Callable[[Schema], object]) -> bytes:
    """Return a skops file whose schema went through a function."""
    members = read_zip(data)
    schema = json.loads(members["schema.json"])
    edit(schema)
    return write_zip(members | {"schema.json": json.dumps(schema).encode()})


def find(node: Schema, *path: str | int) -> Schema:
    """Return a node inside another: an attribute of an object by name, an item by number."""
    for step in path:
        node = node["content"][step] if isinstance(step, int) else node["content"]["content"][step]
    return node


def json_node(value: object) -> Schema:
    part = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
    return part | {"content": json.dumps(value), "is_json": True}


def list_node(items: list[Any]) -> Schema:
    part = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"}
    return part | {"content": items}


def set_attribute(name: str, attribute: str, node: Schema) -> bytes:
    """Return a file with another node for an attribute of the estimator, new or known."""

    def change(schema: Schema) -> None:
        attributes = schema["content"]["content"]
        if attribute not in attributes:
            keys = schema["content"]["key_types"]["content"]
            keys.append(keys[0])
        attributes[attribute] = node

    return edit_schema(plain(name), change)


def edit_array(name: str, path: tuple[str | int, ...], edit: Callable[[Any], Any]) -> bytes:
    """Return a file with another array in the place of the one that a node names."""
    members = read_zip(plain(name))
    schema = json.loads(members["schema.json"])
    node, buffer = find(schema, *path), io.BytesIO()
    np.save(buffer, edit(np.load(io.BytesIO(members[node["file"]])).copy()))
    node["file"] = "edited.npy"
    return write_zip(
        members | {"edited.npy": buffer.getvalue(), "schema.json": json.dumps(schema).encode()}
    )


def assert_predicts_as(loaded: Any, model: Any, rows: Any) -> None:
    """Check that labels are equal, and numbers but for the processor's last digits."""
    for name in ("predict", "predict_proba"):
        if hasattr(model, name):
            found, expected = getattr(loaded, name)(rows), getattr(model, name)(rows)
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
            else:
                assert found.tolist() == expected.tolist()


# What the catalogue makes


MODELS = [
    *((row, scale, {}) for row in CATALOGUE.values() for scale in (False, True)),
    *((CATALOGUE[BOOSTING], False, {"loss": x}) for x in ("poisson", "gamma", "absolute_error")),
    (CATALOGUE[BOOSTING], False, {"loss": "quantile", "quantile": 0.9}),
    (CATALOGUE[BOOSTING], False, {"early_stopping": True, "max_features": 0.5}),
    *((CATALOGUE["mlp"], False, {"solver": x}) for x in ("lbfgs", "sgd")),
    *(
        (CATALOGUE["gradient_boosting"], False, {"loss": x})
        for x in ("absolute_error", "huber", "quantile")
    ),
    (CATALOGUE[STAGES], False, {"n_iter_no_change": 2, "subsample": 0.5}),
    *((CATALOGUE[NEIGHBORS], False, x) for x in ({"p": 1}, {"weights": "distance"})),
    (CATALOGUE[NEIGHBORS], False, {"n_neighbors": 80}),
    *((CATALOGUE[SVM], False, {"kernel": x}) for x in ("linear", "poly", "sigmoid")),
]


@pytest.mark.parametrize(("row", "scale", "given"), MODELS)
def test_a_model_comes_back_as_it_was(row: Estimator, scale: bool, given: dict[str, Any]) -> None:
    model = fit(row, scale, **given)
    rows = rows_for(row)[0]

    data = skops_files.dumps(model)
    stored = load(data)
    by_skops = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    uploaded = [
        load(skops.io.dumps(model, compression=compression))
        for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]

    assert_predicts_as(by_skops, model, rows)
    for loaded in (stored, *uploaded):
        assert type(loaded) is type(model)
        assert loaded.get_params().keys() == model.get_params().keys()
        assert_predicts_as(loaded, model, rows)
        assert skops_files.dumps(loaded) == data


def test_a_forest_as_a_notebook_makes_it_loads_without_its_machinery() -> None:
    forest = RandomForestRegressor(3, n_jobs=2, random_state=np.random.RandomState(0)).fit(X, y)

    loaded = load(skops.io.dumps(forest))

    assert (loaded.n_jobs, loaded.random_state) == (None, None)


def test_feature_names_are_read_apart_so_that_arrays_can_be_predicted() -> None:
    table = pd.DataFrame(X, columns=load_diabetes().feature_names)

    for model in (Ridge(), make_pipeline(StandardScaler(), Ridge())):
        data = skops.io.dumps(model.fit(table, y))
        described = inspect_file(None, data, None, {"max_features": 10})
        loaded = skops_files.load(data, Signature.from_json(described["signature"]))
        assert described["feature_names"] == list(table.columns)
        assert loaded.scorer(X).values.shape == (len(X),)


def test_another_patch_of_the_same_scikit_learn_is_welcome() -> None:
    series = ".".join(sklearn.__version__.split(".")[:2])
    data = set_attribute("linear_regression", "_sklearn_version", json_node(f"{series}.99"))

    assert type(load(data)) is LinearRegression


# The same bytes


def digest_all() -> list[str]:
    models = [fit(row, scale) for row in CATALOGUE.values() for scale in (False, True)]
    return [digest(skops_files.dumps(model)) for model in models]


@pytest.mark.slow
def test_training_in_another_process_gives_the_same_digests() -> None:
    code = f"from {__name__} import digest_all; print(*digest_all())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == digest_all()


def test_no_memory_of_the_process_is_left_between_the_fields_of_a_node() -> None:
    def stain_padding(nodes: Any) -> Any:
        raw = np.frombuffer(nodes.tobytes(), dtype=np.uint8).reshape(len(nodes), -1).copy()
        raw[:, 57:] = 0xAA
        return raw.reshape(-1).view(nodes.dtype)

    # numpy loads records without clearing what lies between their fields.
    stained = edit_array(FOREST, NODES, stain_padding)

    expected = skops_files.dumps(fit(CATALOGUE[FOREST]))
    assert skops_files.dumps(load(stained)) == expected


# What is refused

PICKLE = b"cos\nsystem\n(S'true'\ntR."  # one that would run a command
VERSION = f"and this is {sklearn.__version__}"
Make = Callable[[], bytes]


def schema_text(text: str) -> Make:
    return lambda: write_zip({"schema.json": text.encode()})


def patched(mark: bytes, offset: int, value: bytes) -> Make:
    """Return a maker of a file with other bytes at an offset from a mark."""

    def make() -> bytes:
        data = plain(LINEAR)
        start = data.index(mark) + offset
        return data[:start] + value + data[start + len(value) :]

    return make


ENTRY = partial(patched, b"PK\x01\x02")  # the first of the archive's directory


def node(name: str, *path: str | int, **changes: object) -> Make:
    """Return a maker of a file with other values in a node."""
    return lambda: edit_schema(plain(name), lambda schema: find(schema, *path).update(changes))


root = partial(node, LINEAR)


def fitted(*steps: Any) -> Make:
    model = steps[0] if len(steps) == 1 else make_pipeline(*steps)
    return lambda: skops.io.dumps(model.fit(X, y))


def two_refused() -> bytes:
    clusters = KMeans(2, random_state=0).fit(X)
    clusters.init = np.linalg.det
    data: bytes = skops.io.dumps(make_pipeline(FunctionTransformer(np.linalg.norm), clusters))
    return data


def words(pattern: Any) -> Make:
    """Return a maker of a file of a vectoriser with a pattern of words."""
    vectoriser = CountVectorizer().fit(["a few words"])
    vectoriser.token_pattern = pattern
    return lambda: skops.io.dumps(make_pipeline(vectoriser, MultinomialNB()))


SLOW = [
    *(
        r"(\w+)+!",
        r"(a|a)*b",
        r"\w+\w+!",
        r"\w*\w*",
        r"[a-z]+\b",
        r"\w+x",
        r"(?:\w+)",
        r"\w+(?=x)",
    ),
    *(r"(?x)a", r"\b\w+\b+", r"(\w)\1", r"\w{1,1000}", r"(?u)\b\w+ \w+\b", r"[a-z", "a" * 201),
]


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_of_words_that_may_be_slow_is_refused(pattern: str) -> None:
    assert "token_pattern of its CountVectorizer may take very long" in refuse(words(pattern)())


@pytest.mark.parametrize("pattern", [3, "[^]", "[z-a]"])
def test_a_pattern_of_words_that_is_none_is_refused(pattern: Any) -> None:
    assert "do not fit together" in refuse(words(pattern)())


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            r"(?u)\b\w\w+\b",
            r"\b\w+\b",
            r"\w+",
            r"\S+",
            r"[a-zA-Z]{3,}",
            r"\b[^\d\W]+\b",
            r"[^\s,]+",
        ),
        *(r"\b[a-z][a-z'’-]*\b", r"(?ui)\b\w{2,15}\b|[!?.]", r".", r"\b\w+", None),
    ],
)
def test_a_pattern_of_words_that_is_quick_is_taken(pattern: Any) -> None:
    model = load(words(pattern)())

    if pattern is not None:
        find = re.compile(model[0].token_pattern).findall
        for text in ("a" * 10**5, "a" * 10**5 + "D!", "a " * 10**4 + "é", "!?- " * 10**4):
            find(text)  # a test that never ends would be one that fails


def unfitted(row: Estimator, scale: bool) -> Make:
    params = resolve_params(row, {})
    return lambda: skops.io.dumps(build_estimator(row, params, random_state=0, scale=scale))


def array(name: str, path: tuple[str | int, ...], edit: Callable[[Any], Any]) -> Make:
    return lambda: edit_array(name, path, edit)


def set_field(nodes: Any, name: str, value: float) -> Any:
    nodes[name][0] = value
    return nodes


def end_without_leaf(nodes: Any) -> Any:
    nodes["is_leaf"][-1] = 0
    return nodes


def beyond_unicode(labels: Any) -> Any:
    return (labels.view("<u4") + 2**21).view(labels.dtype)


def tree_argument(place: int, value: object) -> Make:
    def lie(schema: Schema) -> None:
        find(schema, *TREE)["__reduce__"]["args"]["content"][place] = json_node(value)

    return lambda: edit_schema(plain(FOREST), lie)


def nested(levels: int) -> bytes:
    node = json_node(1)
    for _ in range(levels):
        node = list_node([node])
    return set_attribute(LINEAR, "rank_", node)


def renamed_parameter() -> bytes:
    def change(schema: Schema) -> None:
        attributes = schema["content"]["content"]
        attributes["alphb"] = attributes.pop("alpha")

    return edit_schema(plain("ridge"), change)


def hidden_model() -> bytes:
    """Return boosting whose loss is another model, whose trees nobody has checked."""
    other = json.loads(read_zip(plain(f"{BOOSTING}_classifier"))["schema.json"])
    return set_attribute(f"{BOOSTING}_classifier", "_loss", other)


def other_part(name: str, attribute: str, other: str) -> bytes:
    """Return a file with another model, of arrays that are its own, for a part of a model."""
    members = read_zip(plain(other))
    part = json.loads(members.pop("schema.json"))
    return write_zip(read_zip(set_attribute(name, attribute, part)) | members)


def trees_of_classes() -> bytes:
    """Return boosting with trees that have a value for each class, where one is expected."""
    members = read_zip(plain("decision_tree_classifier"))
    tree = json.loads(members.pop("schema.json"))

    def change(schema: Schema) -> None:
        find(schema, "estimators_")["content"][0]["content"][0] = tree

    return write_zip(read_zip(edit_schema(plain(STAGES), change)) | members)


def repeated_array() -> bytes:
    members = read_zip(set_attribute(LINEAR, "rank_", json_node(0)))
    schema, buffer = json.loads(members["schema.json"]), io.BytesIO()
    np.save(buffer, np.zeros(10**6))
    array = find(schema, "coef_") | {"file": "large.npy"}
    find(schema, "rank_").update(list_node([array] * 140))
    members |= {"large.npy": buffer.getvalue(), "schema.json": json.dumps(schema).encode()}
    return write_zip(members, zipfile.ZIP_DEFLATED)


def header(text: str) -> Make:
    def make() -> bytes:
        members = read_zip(plain(LINEAR))
        name = find(json.loads(members["schema.json"]), "coef_")["file"]
        start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
        return write_zip(members | {name: start + bytes(80)})

    return make


COEFFICIENTS = ("coef_",)
VALUES = (*TREE, "values")
BOOSTED = ("_predictors", 0, 0, "nodes")
STAGE = ("estimators_", 0, 0, "tree_")
SCALER = StandardScaler()
# Fields of the root of a tree, and values that lead out of it.
BAD_NODES = {
    "left_child": (10**6, 0, -1),
    "right_child": (10**9, -5, -1),
    "feature": (10, -1, 2**40),
    "threshold": (np.nan,),
}
BAD_BOOSTED = {
    "left": (10**6, 0),
    "right": (2**32 - 1,),
    "feature_idx": (10, -1),
    "num_threshold": (np.nan,),
    "value": (np.inf,),
    "is_categorical": (1,),
}
BAD_SHAPES = {
    "too few": lambda values: values[:-1],
    "none": lambda values: values[:0],
    "as a matrix": lambda values: values.reshape(1, -1),
    "of four dimensions": lambda values: values.reshape(1, 1, 1, -1),
    **{
        f"as {kind}": (lambda values, kind=kind: np.arange(len(values)).astype(kind))
        for kind in ("f8", "U5", "complex", ">f8", "datetime64[s]")
    },
}
BAD_HEADERS = [
    f"{{'descr': {kind}, 'fortran_order': False, 'shape': ({length},), }}\n"
    for kind, length in [
        *(("'|O'", "10"), ("[('a', '|O')]", "10"), ("__import__('os')", "10")),
        *(("'<f8'", "10**3"), ("'<f8'", "999999999999999999"), ("'<f8'", "-10")),
    ]
]
BAD_ATTRIBUTES = (
    (LINEAR, "predict", "nothing", "name of a method"),
    (LINEAR, "get_params", 1, "name of a method"),
    (LINEAR, "coef_", None, "predict fails"),
    (LINEAR, "coef_", 1.0, "predict fails"),
    (LINEAR, "intercept_", float("nan"), "not finite"),
    (LINEAR, "intercept_", "1", "predict fails"),
    (LINEAR, "intercept_", "1" * 20_000, "string that is too long"),
    (LINEAR, "n_features_in_", 9, "predict fails"),
    *((LINEAR, "n_features_in_", n, "out of range") for n in (0, True, 10**15, None)),
    (FOREST, "n_features_in_", 11, "do not fit"),
    (FOREST, "n_outputs_", 10**9, "do not fit"),
    (FOREST, "n_estimators", "many", "predict fails"),
    *((SVM, "kernel", value, "do not fit") for value in ("precomputed", "no such", None)),
    *((SVM, name, True, "do not fit") for name in ("_sparse", "_effective_probability")),
    *((SVM, "_n_support", value, "do not fit") for value in (None, [7, 29, 24])),
    *((SVM, "n_features_in_", n, "do not fit") for n in (3, 5)),
    *((name, "_impl", "one_class", "name of a method") for name in ("svm", SVM)),
    (SVM, "degree", 2**40, "predict fails"),
    *((NEIGHBORS, "n_samples_fit_", n, "do not fit") for n in (149, 10**9, None)),
    *((NEIGHBORS, "metric", value, "do not fit") for value in ("precomputed", None, 1)),
    *((NEIGHBORS, "effective_metric_", value, "do not fit") for value in ("precomputed", None)),
    (NEIGHBORS, "_fit_method", "brute", "do not fit"),
    (NEIGHBORS, "outputs_2d_", True, "do not fit"),
    *((STAGES, "n_trees_per_iteration_", n, "do not fit") for n in (1, 10**9, True)),
    *((STAGES, name, None, "do not fit") for name in ("init_", "_loss")),
    (STAGES, "estimators_", None, ""),
    ("mlp_classifier", "_label_binarizer", None, "predict fails"),
    ("mlp", "n_layers_", 10**6, "predict fails"),
    ("mlp", "activation", "no such", "predict fails"),
    ("naive_bayes", "var_", None, "predict fails"),
    ("poisson", "_base_loss", None, "predict fails"),
    (FOREST, "estimators_", [], "predict fails"),
    (f"{FOREST}_classifier", "n_classes_", 10**9, "predict fails"),
    (BOOSTING, "_in_fit", True, "predict fails"),
    (BOOSTING, "n_trees_per_iteration_", 10**9, "do not fit"),
    (BOOSTING, "n_features_in_", 11, "do not fit"),
    *((BOOSTING, part, None, "do not fit") for part in ("_bin_mapper", "_loss")),
    (BOOSTING, "_preprocessor", 1, "do not fit"),
    ("logistic_regression", "classes_", "abc", "two labels"),
    *((LINEAR, "_sklearn_version", v, f"scikit-learn {v}, {VERSION}") for v in ("1.5.2", "2.0.0")),
    (LINEAR, "_sklearn_version", "<script>", f"scikit-learn unknown, {VERSION}"),
)
TREES = (
    (FOREST, NODES, BAD_NODES),
    (f"{FOREST}_classifier", NODES, BAD_NODES),
    (BOOSTING, BOOSTED, BAD_BOOSTED),
    (f"{BOOSTING}_classifier", BOOSTED, BAD_BOOSTED),
    ("decision_tree", ("tree_", "nodes"), BAD_NODES),
    ("extra_trees", NODES, BAD_NODES),
    ("gradient_boosting", (*STAGE, "nodes"), BAD_NODES),
)
BAD_ARRAYS = [
    *(
        (SVM, name, edit)
        for name in ("support_vectors_", "_dual_coef_", "_n_support")
        for edit in (
            lambda a: a[:-1],
            lambda a: a[..., :-1],
            lambda a: a[:0],
            lambda a: -a.astype(int),
            lambda a: a.astype("U5"),
            lambda a: a.reshape(1, 1, -1),
        )
    ),
    *(
        ("svm", name, edit)
        for name in ("support_", "_intercept_", "support_vectors_")
        for edit in (lambda a: a[:-1], lambda a: a[:0], lambda a: a.astype("U5"))
    ),
    *(("svm", name, lambda a: np.zeros(1)) for name in ("_probA", "_probB")),
    *(
        (NEIGHBORS, name, edit)
        for name in ("_y", "_fit_X")
        for edit in (
            lambda a: a[:-1],
            lambda a: a[:0],
            lambda a: a * np.nan,
            lambda a: a.astype("U5"),
            lambda a: a.reshape(1, -1),
        )
    ),
    *((NEIGHBORS, "_y", lambda y, by=by: y + by) for by in (-1, 1, 2**40)),
]
# Words of the reason → kinds of files → what makes one.
REFUSED: dict[str, dict[str, Make]] = {
    "not a skops file": {
        "pickle": lambda: PICKLE,
        "joblib": lambda: zlib.compress(PICKLE),  # as it writes with compress=True
        **{f"cut to {n}": (lambda n=n: plain(LINEAR)[:n]) for n in (0, 1, 30, 500, -1)},
        "no members": lambda: write_zip({}),
        **{f"schema {text!r}": schema_text(text) for text in ("", "no", "null", "[]", "{}")},
        "deep schema": schema_text("[" * 100_000),
        "damaged content": patched(b"NUMPY", 0, b"\xff" * 16),
        **{f"protocol {protocol!r}": root(protocol=protocol) for protocol in ("2", 10**6)},
        "content {}": root(content={}),
        "array that is no member": root("coef_", file="../../etc/passwd"),
        "depth of a tree": node(FOREST, *TREE, "max_depth", content="1" * 30),
        "more nodes than values": array(FOREST, NODES, lambda nodes: nodes.repeat(2)),
        "fewer values than nodes": array(FOREST, VALUES, lambda v: v[:-1]),
    },
    "another method": {
        "unknown compression": ENTRY(10, b"\x63\x00"),
        "encrypted": ENTRY(8, b"\x01"),
        "bzip2": lambda: write_zip(read_zip(plain(LINEAR)), zipfile.ZIP_BZIP2),
        "lzma": lambda: write_zip(read_zip(plain(LINEAR)), zipfile.ZIP_LZMA),
    },
    "bytes when unpacked": {"gigabyte": ENTRY(24, (2**30).to_bytes(4, "little"))},
    "too many members": {"directory": lambda: plain(LINEAR) + b"PK\x01\x02" * 140_000},
    "too many nodes": {"schema": schema_text("[" + "{}," * skops_files.MOST_NODES + "{}]")},
    "too many bytes or arrays": {"one array used often": repeated_array},
    "not a scikit-learn estimator": {
        "function": root(__module__="os", __class__="system", __loader__="FunctionNode"),
        **{
            f"value {type(value).__name__}": (lambda value=value: skops.io.dumps(value))
            for value in (3, "text", [1], {"coef_": 1.0}, np.zeros(3), print)
        },
    },
    "numpy.linalg.det at model.steps[1][1].init, numpy.linalg.norm at model.steps[0][1].func": {
        "all of them": two_refused,
    },
    "types that are not allowed: a type at model": {
        "name that is not shown": root(__class__="<b>secret</b>"),
    },
    "do not fit": {"parameter that is missing": renamed_parameter},
    "has not been fitted": {
        **{
            f"unfitted {row.name}, scaled {scale}": unfitted(row, scale)
            for row in CATALOGUE.values()
            for scale in (False, True)
        },
    },
    "nested too deeply": {"lists": partial(nested, 210)},
    "beyond Unicode": {"label": array("logistic_regression", ("classes_",), beyond_unicode)},
    "not of the type it names": {"scalar": root("coef_", __class__="int8")},
    "holds an array": {text[:70]: header(text) for text in (*BAD_HEADERS, "")},
    "": {
        "tree values that are no numbers": array(FOREST, VALUES, lambda v: v * np.nan),
        **{
            f"node count {n}": node(FOREST, *TREE, "node_count", content=json.dumps(n))
            for n in (0, 3, -1, None)
        },
        **{
            f"argument {place} of a tree is {value!r}": tree_argument(place, value)
            for place in (0, 2)
            for value in (0, -1, 3, 10**12, "1", None)
        },
        **{
            f"array {number}: {name}.{attribute}": array(name, (attribute,), edit)
            for number, (name, attribute, edit) in enumerate(BAD_ARRAYS)
        },
        "trees that are classifiers": trees_of_classes,
        "constant of another model": lambda: other_part(STAGES, "init_", LINEAR),
        "loss of another model": lambda: other_part(STAGES, "_loss", FOREST),
        "labels by another model": lambda: other_part("mlp_classifier", "_label_binarizer", SVM),
        "no leaf at the end": array(BOOSTING, BOOSTED, end_without_leaf),
        "infinite coefficients": array(LINEAR, COEFFICIENTS, lambda coef: coef * np.inf),
        **{
            f"{name}, {field} = {value}": array(
                name, path, partial(set_field, name=field, value=value)
            )
            for name, path, fields in TREES
            for field, values in fields.items()
            for value in values
        },
        **{
            f"{name}, array {kind}": array(name, path, edit)
            for name, path, _ in (*TREES, (LINEAR, COEFFICIENTS, None))
            for kind, edit in BAD_SHAPES.items()
            if name != LINEAR or kind not in ("as f8", "as a matrix")
        },
    },
}
KINDS = [
    *(
        pytest.param(make, words, id=f"{words}: {kind}")
        for words, kinds in REFUSED.items()
        for kind, make in kinds.items()
    ),
    *(
        pytest.param(
            partial(set_attribute, name, key, json_node(value)),
            words,
            id=f"{name}.{key} = {value!r:.20}",
        )
        for name, key, value, words in BAD_ATTRIBUTES
    ),
]


@pytest.mark.parametrize(("make", "words"), KINDS)
def test_a_file_that_is_not_a_sound_model_is_refused(make: Make, words: str) -> None:
    reason = refuse(make())

    assert words in reason
    assert "secret" not in reason


def test_an_id_cannot_put_a_number_in_the_place_of_another() -> None:
    # skops takes the first node of an id for all others.
    def swap(schema: Schema) -> None:
        find(schema, *TREE, "max_depth").update(json_node(3) | {"__id__": 1})
        find(schema, *TREE, "node_count")["__id__"] = 1

    data = edit_schema(plain(FOREST), swap)

    assert load(data).estimators_[0].tree_.node_count > 3


def test_the_search_tree_of_neighbors_is_grown_again() -> None:
    # Nothing in it is checked: indices that lead out of its rows must not be followed.
    def mix_up(schema: Schema) -> None:
        state = find(schema, "_tree")["content"]["content"]
        state[1]["file"] = find(schema, "_y")["file"]  # codes of classes for indices of rows

    expected = fit(CATALOGUE[NEIGHBORS])

    loaded = load(edit_schema(plain(NEIGHBORS), mix_up))

    assert_predicts_as(loaded, expected, IRIS_X)
    assert skops_files.dumps(loaded) == skops_files.dumps(expected)
