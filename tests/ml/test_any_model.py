"""Any scikit-learn model that is uploaded predicts here what it predicted where it was fitted."""

from __future__ import annotations

import io
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from flask import Flask
from flask.testing import FlaskClient
from scipy.stats import loguniform
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import AffinityPropagation, BisectingKMeans, KMeans, MeanShift
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.covariance import EllipticEnvelope
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (needed to import it)
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
)
from sklearn.feature_selection import RFE, SelectKBest, f_regression
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    BayesianRidge,
    HuberRegressor,
    LogisticRegression,
    RANSACRegressor,
    Ridge,
    SGDClassifier,
    SGDOneClassSVM,
    TweedieRegressor,
)
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    LocalOutlierFactor,
    NearestCentroid,
    RadiusNeighborsRegressor,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.semi_supervised import LabelPropagation
from sklearn.svm import SVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier
from werkzeug.test import TestResponse

from tests.conftest import app_on, migrate
from tests.faults import on_sqlite
from tests.ml.calls import ML
from webapp.ml.blueprint import ARROW
from webapp.ml.core.formats.fitted import is_own_pipeline
from webapp.ml.core.formats.skops import loads

RANDOM = np.random.RandomState(0)
X = np.abs(RANDOM.randn(120, 4))
Y = X @ [1.0, 2.0, 3.0, 0.5] + 0.1 * RANDOM.randn(120)
LABELS = np.array(["low", "middle", "high"])[(Y > 4).astype(int) + (Y > 6)]
BITS = (np.median(Y) < Y).astype(int)
PAIRS, WORD_PAIRS = np.stack([Y, -Y], axis=1), np.stack([LABELS, LABELS[::-1]], axis=1)
WITH_GAPS = np.where(RANDOM.rand(*X.shape) < 0.1, np.nan, X)
TEXTS = [f"a {'good' if bit else 'bad'} film, number {n}" for n, bit in enumerate(BITS)]
FRAME = pd.DataFrame(
    {
        "age": WITH_GAPS[:, 0],
        "size": X[:, 1],
        "zip": np.arange(120) % 7,
        "sex": np.where(X[:, 2] > 0.7, "male", "female"),
        "note": TEXTS,
    }
)
SIZES = (1, 2, 7, 100)
NUMBERS = itertools.count()


@dataclass
class Kind:
    """A model to fit, with its rows and target; None where it has none."""

    model: Any
    rows: Any = None
    target: Any = None
    task: str = "regression"


def regressions(*models: Any, rows: Any = X, target: Any = Y) -> list[Kind]:
    return [Kind(model, rows, target) for model in models]


def classifications(*models: Any, rows: Any = X, target: Any = LABELS) -> list[Kind]:
    return [Kind(model, rows, target, "classification") for model in models]


TREE, LOGISTIC = DecisionTreeRegressor(max_depth=3), LogisticRegression(max_iter=1000)
TWO = [("a", Ridge()), ("b", TREE)]
TWO_CLASSIFIERS = [("a", LOGISTIC), ("b", DecisionTreeClassifier(max_depth=3))]
IMPUTED = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
ONE_HOT = make_pipeline(
    SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
)
COLUMNS = ColumnTransformer(
    [("numbers", IMPUTED, ["age", "size"]), ("words", ONE_HOT, ["sex", "zip"])]
)
CODES = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
NUMERIC = make_column_selector(dtype_include="number")
KINDS = [
    # Regressors, alone and after transformers
    *regressions(BayesianRidge(), HuberRegressor(), TweedieRegressor(), NuSVR(), KernelRidge()),
    *regressions(KNeighborsRegressor(), KNeighborsRegressor(algorithm="ball_tree", p=1)),
    *regressions(RadiusNeighborsRegressor(9.0), RANSACRegressor(random_state=0), PLSRegression()),
    *regressions(GaussianProcessRegressor(RBF() + WhiteKernel(), alpha=0.1), TREE),
    *regressions(
        RandomForestRegressor(3), ExtraTreesRegressor(3), AdaBoostRegressor(TREE, n_estimators=3)
    ),
    *regressions(GradientBoostingRegressor(n_estimators=3), BaggingRegressor(Ridge())),
    *regressions(GradientBoostingRegressor(n_estimators=3, init="zero")),
    *regressions(HistGradientBoostingRegressor(max_iter=3), rows=WITH_GAPS),
    *regressions(TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)),
    *regressions(VotingRegressor(TWO), StackingRegressor(TWO)),
    *regressions(GridSearchCV(Ridge(), {"alpha": [0.1, 1]}, scoring="r2")),
    *regressions(RandomizedSearchCV(Ridge(), {"alpha": loguniform(0.1, 1)}, n_iter=2)),
    *(
        kind
        for step in (
            *(
                PolynomialFeatures((2, 3)),
                PolynomialFeatures(3, interaction_only=True),
                PCA(2),
                KBinsDiscretizer(3),
                QuantileTransformer(n_quantiles=9),
            ),
            *(
                PowerTransformer(),
                SplineTransformer(),
                Nystroem(n_components=5),
                RandomTreesEmbedding(3),
            ),
            *(SelectKBest(f_regression, k=2), FunctionTransformer(np.log1p)),
        )
        for kind in regressions(make_pipeline(step, Ridge()))
    ),
    *(
        kind
        for step in (KNNImputer(), IterativeImputer(max_iter=2, random_state=0), SimpleImputer())
        for kind in regressions(make_pipeline(step, Ridge()), rows=WITH_GAPS)
    ),
    # Classifiers
    *classifications(SGDClassifier(), SVC(), KNeighborsClassifier(algorithm="brute")),
    *classifications(
        NearestCentroid(), GaussianNB(), MultinomialNB(), GaussianProcessClassifier()
    ),
    *classifications(LinearDiscriminantAnalysis(), QuadraticDiscriminantAnalysis(reg_param=0.1)),
    *classifications(RandomForestClassifier(3), ExtraTreesClassifier(3), ExtraTreeClassifier()),
    *classifications(
        GradientBoostingClassifier(n_estimators=3), AdaBoostClassifier(n_estimators=3)
    ),
    *classifications(
        HistGradientBoostingClassifier(max_iter=3), BaggingClassifier(n_estimators=3)
    ),
    *classifications(MLPClassifier([4], solver="lbfgs"), LabelPropagation(gamma=1)),
    *classifications(CalibratedClassifierCV(LOGISTIC), VotingClassifier(TWO_CLASSIFIERS)),
    *classifications(CalibratedClassifierCV(GaussianNB(), method="isotonic")),
    *classifications(VotingClassifier(TWO_CLASSIFIERS, voting="soft")),
    *classifications(StackingClassifier(TWO_CLASSIFIERS), OneVsRestClassifier(LOGISTIC)),
    *classifications(OneVsOneClassifier(LOGISTIC), OutputCodeClassifier(LOGISTIC, random_state=0)),
    *classifications(make_pipeline(RFE(LOGISTIC, n_features_to_select=2), LOGISTIC)),
    *classifications(FixedThresholdClassifier(LOGISTIC, threshold=0.3), target=BITS),
    *classifications(TunedThresholdClassifierCV(LOGISTIC), target=BITS > 0),
    # Several outputs
    *regressions(Ridge(), RandomForestRegressor(3), MultiOutputRegressor(Ridge()), target=PAIRS),
    *regressions(RegressorChain(Ridge()), KNeighborsRegressor(), target=PAIRS),
    *classifications(RandomForestClassifier(3), KNeighborsClassifier(), target=WORD_PAIRS),
    *classifications(MultiOutputClassifier(LOGISTIC), target=WORD_PAIRS),
    *classifications(OneVsRestClassifier(LOGISTIC), target=np.stack([BITS, 1 - BITS], axis=1)),
    # Clusters and outliers
    *(
        Kind(model, X, None, "clustering")
        for model in (
            *(KMeans(3, random_state=0), MeanShift(), AffinityPropagation(random_state=0)),
            *(make_pipeline(StandardScaler(), KMeans(3)), GaussianMixture(2, random_state=0)),
            BisectingKMeans(5, random_state=0),
        )
    ),
    *(
        Kind(model, X, None, "outliers")
        for model in (
            *(IsolationForest(n_estimators=5), LocalOutlierFactor(novelty=True), OneClassSVM()),
            *(EllipticEnvelope(random_state=0), SGDOneClassSVM()),
            make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, max_features=2)),
        )
    ),
    # Texts
    *classifications(
        make_pipeline(TfidfVectorizer(), LOGISTIC),
        make_pipeline(TfidfVectorizer(), SVC()),
        make_pipeline(CountVectorizer(ngram_range=(1, 2)), TfidfTransformer(), MultinomialNB()),
        make_pipeline(HashingVectorizer(n_features=1000), SGDClassifier(loss="log_loss")),
        make_pipeline(
            FeatureUnion(
                [("words", TfidfVectorizer()), ("letters", CountVectorizer(analyzer="char"))]
            ),
            TruncatedSVD(5, random_state=0),
            RandomForestClassifier(3),
        ),
        rows=TEXTS,
        target=BITS,
    ),
    # Frames
    *regressions(
        make_pipeline(COLUMNS, Ridge()),
        make_pipeline(COLUMNS, HistGradientBoostingRegressor(max_iter=3)),
        GridSearchCV(make_pipeline(COLUMNS, Ridge()), {"ridge__alpha": [0.1, 1]}),
        VotingRegressor(
            [("a", make_pipeline(COLUMNS, Ridge())), ("b", make_pipeline(COLUMNS, TREE))]
        ),
        make_pipeline(
            ColumnTransformer([("codes", CODES, ["sex"]), ("numbers", "passthrough", NUMERIC)]),
            HistGradientBoostingRegressor(max_iter=3),
        ),
        make_pipeline(
            ColumnTransformer([("means", TargetEncoder(), ["sex", "zip"])]),
            RandomForestRegressor(3),
        ),
        make_pipeline(
            ColumnTransformer(
                [("words", TfidfVectorizer(), "note"), ("size", "passthrough", ["size"])]
            ),
            Ridge(),
        ),
        make_pipeline(
            ColumnTransformer([("rare", OneHotEncoder(min_frequency=18, drop="first"), ["zip"])]),
            Ridge(),
        ),
        rows=FRAME,
    ),
    *regressions(
        *(
            Pipeline([("prepare", ColumnTransformer([step])), ("estimator", Ridge())])
            for step in (
                ("numbers", SimpleImputer(), ["age", "size"]),
                ("numbers", IMPUTED, ["age", "size"]),
                ("categories", OneHotEncoder(drop="first"), ["sex", "zip"]),
                ("other", StandardScaler(), ["size"]),
            )
        ),
        rows=FRAME,
    ),
    *regressions(Ridge(), RandomForestRegressor(3), rows=FRAME[["size", "zip"]]),
    *regressions(
        HistGradientBoostingRegressor(max_iter=3, categorical_features=["sex"]),
        rows=FRAME[["age", "size", "sex"]].astype({"sex": "category"}),
    ),
    *regressions(
        HistGradientBoostingRegressor(max_iter=3), rows=FRAME[["sex"]].astype("category")
    ),
]


def name_kind(kind: Kind) -> str:
    names = " ".join(str(kind.model).split())
    return f"{names[:80]}, {np.shape(kind.target)}"


def take(rows: Any, n_rows: int) -> Any:
    return rows.iloc[:n_rows] if isinstance(rows, pd.DataFrame) else rows[:n_rows]


def to_json_rows(rows: Any, names: list[str]) -> list[Any]:
    """Return rows as JSON has them, with null for what is missing."""
    if isinstance(rows, pd.DataFrame):
        columns = [rows[name].astype(object) for name in names]
        values = [list(row) for row in zip(*columns, strict=True)]
    else:
        values = [[text] for text in rows] if isinstance(rows, list) else rows.tolist()
    return [[None if value != value else value for value in row] for row in values]


def assert_same(found: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    if expected.dtype.kind == "f":
        largest = np.abs(expected).max(initial=0)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12, atol=1e-12 * largest)
    else:
        assert np.asarray(found).tolist() == expected.tolist()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """Return a client of one application for many models: each takes a name of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shared') / 'webapp.db'}"
    migrate(url)
    with app_on(url) as app:
        yield app.test_client()


def send(client: FlaskClient, data: bytes, **fields: Any) -> tuple[str, TestResponse]:
    """Upload a file under a name of its own; return its address and the answer."""
    url = f"{ML}/models/any-{next(NUMBERS)}"
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
    form = {"artifact": (io.BytesIO(data), "model.skops"), "activate": "true", **texts}
    return url, client.post(f"{url}/versions", data=form)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_a_model_predicts_here_what_it_predicts_there(client: FlaskClient, kind: Kind) -> None:
    model = (
        kind.model.fit(kind.rows)
        if kind.target is None
        else kind.model.fit(kind.rows, kind.target)
    )

    url, uploaded = send(client, skops.io.dumps(model))

    assert uploaded.status_code == 201, uploaded.text
    version = uploaded.json["model"]
    assert (version["task"], version["format"]) == (kind.task, "skops")
    assert client.get(f"{url}/versions/1").json == version
    for n_rows in SIZES:
        rows = take(kind.rows, n_rows)
        body = {"instances": to_json_rows(rows, version["feature_names"])}
        answer = client.post(f"{url}/predict/batch", json=body)
        arrow = client.post(f"{url}/predict/batch", json=body, headers={"Accept": ARROW})
        assert (answer.status_code, arrow.status_code) == (200, 200), (answer.text, arrow.text)
        table = pa.ipc.open_stream(arrow.data).read_all()
        expected = np.asarray(model.predict(rows))
        if expected.ndim == 2 and expected.shape[1] > 1:
            columns = [table[f"prediction:{place}"] for place in range(expected.shape[1])]
            assert_same(np.transpose([column.to_pylist() for column in columns]), expected)
        else:
            expected = expected.reshape(n_rows)
            assert_same(table["prediction"].to_pylist(), expected)
        assert_same(answer.json["predictions"], expected)
        if "probabilities" in answer.json:
            found = [answer.json["probabilities"][str(label)] for label in version["classes"]]
            assert_same(np.transpose(found), model.predict_proba(rows))
        if kind.task == "outliers":
            assert_same(answer.json["score"], model.decision_function(rows))
            assert_same(table["score"].to_pylist(), model.decision_function(rows))


def test_a_refusal_names_all_types_and_where_they_are(client: FlaskClient) -> None:
    clusters = KMeans(2).fit(X)
    clusters.init = np.linalg.det
    steps = make_pipeline(FunctionTransformer(np.linalg.norm), clusters)

    url, refused = send(client, skops.io.dumps(steps))

    (message,) = refused.json["errors"]["form"]["artifact"]
    assert refused.status_code == 422
    for found in (
        "numpy.linalg.norm at model.steps[0][1].func",
        "numpy.linalg.det at model.steps[1][1].init",
    ):
        assert found in message
    assert client.get(url).status_code == 404


@pytest.mark.parametrize("words", [["b", "a\0b"], ["b", "a\ud800"], [1.0, np.inf]], ids=ascii)
def test_categories_that_cannot_be_stored_are_refused(
    client: FlaskClient, words: list[Any]
) -> None:
    columns = ColumnTransformer([("a", OneHotEncoder(handle_unknown="ignore"), ["sex"])])
    model = make_pipeline(columns, Ridge()).fit(FRAME, Y)
    model[0].transformers_[0][1].categories_ = [np.array(words, dtype=object)]

    refused = send(client, skops.io.dumps(model))[1]

    assert refused.status_code == 422, refused.text
    assert "cannot be stored" in refused.text


def tree_in_place_of_a_model() -> Any:
    model = VotingRegressor(TWO).fit(X, Y)
    model.estimators_[0] = model.estimators_[1].tree_
    return model


def file_names_for_texts() -> Any:
    model = make_pipeline(CountVectorizer(), Ridge()).fit(TEXTS, Y)
    model[0].input = "filename"
    return model


def words_out_of_place() -> Any:
    model = make_pipeline(CountVectorizer(), Ridge()).fit(TEXTS, Y)
    model[0].vocabulary_["good"] = 10**6
    return model


def centers_of_another_width() -> Any:
    model = KMeans(3).fit(X)
    model.cluster_centers_ = model.cluster_centers_[:, :2].copy()
    return model


def bisections_of_another_width() -> Any:
    model = BisectingKMeans(4).fit(X)
    model._bisecting_tree.left.center = model._bisecting_tree.left.center[:2].copy()
    return model


def bisections_in_a_circle() -> Any:
    model = BisectingKMeans(4).fit(X)
    model._bisecting_tree.left = model._bisecting_tree.right
    return model


def columns_that_are_not_filled() -> Any:
    model = make_pipeline(PolynomialFeatures(), Ridge()).fit(X, Y)
    model[0].n_output_features_ = 1000
    return model


def rare_words_out_of_place() -> Any:
    columns = ColumnTransformer([("a", OneHotEncoder(min_frequency=50), ["sex", "zip"])])
    model = make_pipeline(columns, Ridge()).fit(FRAME, Y)
    model[0].transformers_[0][1]._default_to_infrequent_mappings[1][0] = 10**6
    return model


def forest_of_wider_trees() -> Any:
    model = RandomForestRegressor(3).fit(X[:, :2], Y)
    model.estimators_ = RandomForestRegressor(3).fit(X, Y).estimators_
    return model


def isolation_of_fewer_columns() -> Any:
    model = IsolationForest(n_estimators=3, max_features=3).fit(X)
    model.estimators_features_ = [found[:1] for found in model.estimators_features_]
    return model


@pytest.mark.parametrize(
    "make",
    [
        *(tree_in_place_of_a_model, file_names_for_texts, words_out_of_place),
        *(centers_of_another_width, columns_that_are_not_filled, rare_words_out_of_place),
        *(forest_of_wider_trees, isolation_of_fewer_columns),
        *(bisections_of_another_width, bisections_in_a_circle),
    ],
)
def test_what_compiled_code_would_trust_is_checked(client: FlaskClient, make: Any) -> None:
    url, refused = send(client, skops.io.dumps(make()))

    assert refused.status_code == 422, refused.text
    assert "do not fit together" in refused.json["errors"]["form"]["artifact"][0]
    assert client.get(url).status_code == 404


def hang(*_arguments: object) -> dict[str, Any]:
    time.sleep(60)
    return {}


@on_sqlite
@pytest.mark.processes
def test_a_process_that_takes_too_long_is_a_clear_refusal(
    own_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = own_app.extensions["uploads"].kinds
    monkeypatch.setitem(kinds, "upload", replace(kinds["upload"], work=hang))
    own_app.config["MAX_UPLOAD_SECONDS"] = 0.2
    client = own_app.test_client()

    url, refused = send(client, skops.io.dumps(Ridge().fit(X, Y)))

    assert refused.status_code == 422
    limits = "within 2048 MB and 0.2 seconds (MAX_UPLOAD_MEMORY, MAX_UPLOAD_SECONDS)"
    assert limits in refused.text
    assert client.get(url).status_code == 404


@on_sqlite
@pytest.mark.processes
def test_a_model_that_takes_too_much_memory_is_a_clear_refusal(own_app: Flask) -> None:
    own_app.config["MAX_UPLOAD_MEMORY"] = 1
    client = own_app.test_client()

    url, refused = send(client, skops.io.dumps(ExtraTreesRegressor(500).fit(X, Y)))

    assert refused.status_code == 422
    assert "needs more memory" in refused.text or "MAX_UPLOAD_MEMORY" in refused.text
    assert client.get(url).status_code == 404


def test_a_model_that_does_not_predict_is_refused(client: FlaskClient) -> None:
    for model in (StandardScaler().fit(X), LocalOutlierFactor().fit(X), Ridge()):
        refused = send(client, skops.io.dumps(model))[1]
        assert refused.status_code == 422, refused.text


def test_rows_may_be_objects_with_missing_values_and_new_categories(client: FlaskClient) -> None:
    model = make_pipeline(COLUMNS, Ridge()).fit(FRAME, Y)
    url, uploaded = send(client, skops.io.dumps(model))
    row = {"age": None, "size": 1.5, "zip": 99, "sex": "other"}

    answer = client.post(f"{url}/predict", json={"features": row})

    columns = {column["name"]: column for column in uploaded.json["model"]["signature"]["columns"]}
    assert columns["sex"] == {
        **{"name": "sex", "kind": "category", "missing": True},
        "categories": ["female", "male"],
    }
    assert "note" not in columns  # which the model drops
    assert answer.json["unseen"] == {"zip": 99, "sex": "other"}
    assert answer.json["missing"] == ["age"]
    frame = pd.DataFrame([row | {"age": np.nan, "note": ""}])
    assert answer.json["prediction"] == pytest.approx(model.predict(frame)[0], rel=1e-12)


def test_a_category_that_the_model_refuses_is_refused(client: FlaskClient) -> None:
    model = make_pipeline(ColumnTransformer([("sex", OneHotEncoder(), ["sex"])]), Ridge())
    url, _ = send(client, skops.io.dumps(model.fit(FRAME, Y)))

    refused = client.post(f"{url}/predict", json={"features": ["other"]})

    assert refused.status_code == 422
    assert "own predict refuses" in refused.text


def test_a_signature_that_is_given_overrides_what_was_found_out(client: FlaskClient) -> None:
    data = skops.io.dumps(make_pipeline(FunctionTransformer(np.log1p), TREE).fit(X[:, :1], Y))
    column = {"name": "width", "kind": "number", "missing": False}

    url, uploaded = send(client, data, signature={"columns": [column], "target": "price"})

    signature = uploaded.json["model"]["signature"]
    assert [found["name"] for found in signature["columns"]] == ["width"]
    assert signature["target"] == "price"
    assert client.post(f"{url}/predict", json={"features": {"width": 1}}).status_code == 200


@pytest.mark.parametrize(
    ("model", "target"), [(Ridge(), Y), (LOGISTIC, LABELS), (Ridge(), PAIRS)], ids=str
)
def test_a_self_check_stores_only_what_predicts_as_expected(
    client: FlaskClient, model: Any, target: Any
) -> None:
    data = skops.io.dumps(model.fit(X, target))
    sample, expected = X[:3].tolist(), model.predict(X[:3]).tolist()
    wrong = [*expected[:2], expected[0] if expected[0] != expected[2] else "other"]

    right = send(client, data, sample=sample, expected=expected)[1]
    url, refused = send(client, data, sample=sample, expected=wrong)
    too_few = send(client, data, sample=sample, expected=expected[:2])[1]

    checked = right.json["metrics"]["self_check"]
    assert (checked["rows"], checked["tolerance"]) == (3, 1e-9)
    assert checked["largest_difference"] <= 1e-9
    assert (refused.status_code, too_few.status_code) == (422, 422)
    assert "row 2 of sample gives" in refused.json["errors"]["form"]["expected"][0]
    assert client.get(url).status_code == 404


@pytest.mark.parametrize("estimator", ["ridge", "hist_gradient_boosting", "extra_trees"])
def test_what_this_service_made_can_be_uploaded_again(client: FlaskClient, estimator: str) -> None:
    table = FRAME.drop(columns=["note"]).assign(
        day=pd.date_range("2026-01-01", periods=120).strftime("%Y-%m-%d"), target=Y
    )
    url = f"{ML}/models/any-{next(NUMBERS)}"
    query = f"target=target&estimator={estimator}&columns=" + json.dumps({"zip": "category"})
    trained = client.post(
        f"{url}/train?{query}", data=table.to_csv(index=False), content_type="text/csv"
    )
    assert trained.status_code == 201, trained.text
    signature = trained.json["model"]["signature"]
    artifact = client.get(f"{url}/versions/1/artifact").data
    assert is_own_pipeline(loads(artifact))  # which has a compiled scorer

    again, uploaded = send(client, artifact, signature=signature)
    without = send(client, artifact)[1]

    assert (uploaded.status_code, without.status_code) == (201, 201), uploaded.text + without.text
    names = uploaded.json["model"]["feature_names"]
    body = {"instances": to_json_rows(table, names)}
    found, expected = (client.post(f"{u}/predict/batch", json=body).json for u in (again, url))
    assert_same(found["predictions"], np.array(expected["predictions"]))
    assert "day.year" in without.json["model"]["feature_names"]
