"""What each column adds to a prediction sums up to it, whatever is between column and model."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_regression
from sklearn.impute import SimpleImputer
from sklearn.linear_model import BayesianRidge, LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier

from webapp.errors import InvalidInput
from webapp.ml.core import explaining
from webapp.ml.core.datasets import Dataset, make_dataset
from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.explaining import Explanation, ModelExplainer, find_owners
from webapp.ml.core.formats import FORMATS, fitted
from webapp.ml.core.formats.elsewhere import LibraryExplainer
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.learning import make_dataset_of
from webapp.ml.core.scoring import Scores
from webapp.ml.core.signature import Signature
from webapp.ml.core.tables.records import read_records
from webapp.ml.core.training import TrainedModel, TrainingSpec, train

N_ROWS = 120
RANDOM = np.random.RandomState(0)
X = np.abs(RANDOM.randn(N_ROWS, 3)).round(2)
Y = (X @ [1.0, 2.0, 3.0]).round(3)
LABELS = np.array(["low", "middle", "high"])[np.digitize(Y, [4, 6])]
CITIES = [f"city {n % 40}" for n in range(N_ROWS)]
TABLE = pd.DataFrame(
    {
        "size": np.where(RANDOM.rand(N_ROWS) < 0.1, np.nan, X[:, 0]),
        "color": RANDOM.choice(["red", "green", "blue"], N_ROWS),
        "city": CITIES,
        "day": pd.date_range("2026-01-01", periods=N_ROWS).strftime("%Y-%m-%d"),
        "sold": X[:, 1] > 1,
        "note": [f"{word} number {n}" for n, word in enumerate(np.where(Y > 4, "good", "bad"))],
        "answer": [f"{n % 7} thanks" for n in range(N_ROWS)],
    }
)
NOTES = ("note", "answer")
UNEXPLAINED = ("svm", "k_neighbors", "mlp", "naive_bayes")
FIRST = (
    *("linear_regression", "logistic_regression", "poisson", "linear_svm_classifier"),
    *("decision_tree_classifier", "random_forest", "gradient_boosting_classifier"),
    "hist_gradient_boosting",
)
EXPLAINED = [
    pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow)
    for name in CATALOGUE
    if not name.startswith(UNEXPLAINED)
]


def read_table(y: Any, *further: str) -> Dataset:
    table = TABLE.drop(columns=[name for name in NOTES if name not in further])
    records = [
        {name: None if value != value else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
    kinds = {"city": "category", **dict.fromkeys(further, "text")}
    return make_dataset_of(read_records(records), y, target="y", kinds=kinds)


@cache
def fit(name: str, *, typed: bool) -> tuple[Dataset, TrainedModel]:
    y = LABELS.astype(object) if CATALOGUE[name].task == "classification" else Y
    dataset = read_table(y) if typed else make_dataset(X, y)
    few = {"n_estimators": 5, "max_iter": 5}
    names = {parameter.name for parameter in CATALOGUE[name].parameters}
    trees = "tree" in name or "forest" in name or "boosting" in name
    params = {key: few[key] for key in few if key in names and trees}
    return dataset, train(dataset, TrainingSpec(name, params), clock=time.perf_counter)


def explain(loaded: LoadedModel, rows: Any, texts: Any = None, means: Any = None) -> Explanation:
    assert loaded.explain is not None
    return loaded.explain(rows, texts, means)


def assert_sums_up(found: Explanation, scores: Scores, rtol: float = 1e-9) -> None:
    """Hold the sums of base and contributions against what was predicted."""
    sums = found.base + found.contributions.sum(axis=1)
    if found.of == "prediction":
        assert np.allclose(sums[:, 0], scores.values, rtol=rtol)
    elif found.of == "log_prediction":
        assert np.allclose(np.exp(sums[:, 0]), scores.values, rtol=rtol)
    elif found.of == "probability":
        assert np.allclose(sums, scores.probabilities, rtol=rtol)
    elif found.of == "log_odds" and sums.shape[1] == 1:
        second = scores.values if scores.probabilities is None else scores.probabilities[:, 1]
        assert np.allclose(1 / (1 + np.exp(-sums[:, 0])), second, rtol=rtol)
    elif found.of == "log_odds":
        shares = np.exp(sums - sums.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        assert np.allclose(shares, scores.probabilities, rtol=rtol)
    else:
        codes = sums.argmax(axis=1) if sums.shape[1] > 1 else (sums[:, 0] > 0).astype(int)
        assert (np.unique(scores.values)[codes] == scores.values).all()


def prepare(trained: TrainedModel) -> LoadedModel:
    return fitted.prepare(trained.estimator, trained.signature, trained.profile)


@pytest.mark.parametrize("typed", [False, True], ids=["matrix", "table"])
@pytest.mark.parametrize("name", EXPLAINED)
def test_base_and_contributions_sum_up_to_what_a_trained_model_predicts(
    name: str, typed: bool
) -> None:
    dataset, trained = fit(name, typed=typed)
    rows = dataset.X.copy()
    if typed:
        place = trained.signature.places[trained.signature.names.index("color")]
        rows[1, place] = -1  # a color that training did not have
        rows[0] = np.nan  # nothing is known
    loaded = prepare(trained)

    found = explain(loaded, rows, means=trained.mean_contributions)

    assert_sums_up(found, loaded.scorer(rows))
    assert found.against == "training mean"
    assert found.contributions.shape[1] == len(trained.signature.columns)


@pytest.mark.parametrize(
    ("estimator", "texts"), [("ridge", NOTES), ("decision_tree", ("note",))], ids=str
)
def test_words_add_to_the_column_that_they_stand_in(
    estimator: str, texts: tuple[str, ...]
) -> None:
    dataset = read_table((TABLE["note"].str[:4] == "good") * 1.0, *texts)
    trained = train(dataset, TrainingSpec(estimator), clock=time.perf_counter)
    loaded = prepare(trained)

    found = explain(loaded, dataset.X, dataset.texts, trained.mean_contributions)

    assert_sums_up(found, loaded.scorer(dataset.X, dataset.texts))
    sizes = np.abs(found.contributions[:, :, 0]).mean(axis=0)
    assert loaded.signature.names[sizes.argmax()] == "note"


@pytest.mark.parametrize("typed", [False, True], ids=["matrix", "table"])
@pytest.mark.parametrize("name", ["ridge", "logistic_regression"])
def test_contributions_of_a_linear_model_are_nothing_on_average_in_training(
    name: str, typed: bool
) -> None:
    dataset, trained = fit(name, typed=typed)
    held_out = set() if trained.held_out is None else set(trained.held_out.index.tolist())
    learnt = [row for row in range(N_ROWS) if row not in held_out]

    found = explain(prepare(trained), dataset.X[learnt], means=trained.mean_contributions)

    assert np.allclose(found.contributions.mean(axis=0), 0, atol=1e-9)


def test_rows_that_overflow_have_no_means() -> None:
    signature = Signature.from_json(
        {"columns": [{"name": "a"}, {"name": "b"}], "task": "regression", "target": None}
    )
    model = Ridge().fit(X[:, :2], Y)
    model.coef_ = np.array([1e200, 1.0])
    explainer = ModelExplainer(model, signature, lambda rows, _texts: rows)

    assert explainer.find_means(np.full((2, 2), 1e200), None) is None
    with pytest.raises(InvalidInput, match="explain"), np.errstate(all="ignore"):
        explainer(np.full((2, 2), 1e200))


def test_contributions_of_a_linear_regression_are_its_terms() -> None:
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(X, Y + X[:, 0])
    loaded = load(model)

    found = explain(loaded, X)

    assert found.against == "zero"  # no row of its training is known
    centered = X - X.mean(axis=0)
    assert np.allclose(found.contributions[:, :, 0], centered * [2, 2, 3], rtol=1e-9)


# Models of others


def load(model: Any, **options: Any) -> LoadedModel:
    shown = fitted.describe(model, max_features=1000, **options)
    return fitted.prepare(model, Signature.from_json(shown["signature"]))


NUMBERS, COLORS = ["size", "width"], ["color", "shape"]
FRAME = pd.DataFrame(
    {
        "color": RANDOM.choice(["red", "green", "blue", "rare"], N_ROWS, p=[0.4, 0.3, 0.27, 0.03]),
        "size": np.where(np.arange(N_ROWS) % 9 == 0, np.nan, X[:, 0]),
        "shape": RANDOM.choice(["round", "square"], N_ROWS),
        "width": X[:, 1],
    }
)
ENCODED = {
    "one-hot": OneHotEncoder(handle_unknown="ignore"),
    "without the first": OneHotEncoder(drop="first"),
    "without one of two": OneHotEncoder(drop="if_binary"),
    "rare ones together": OneHotEncoder(min_frequency=10, handle_unknown="infrequent_if_exist"),
    "ordinal": OrdinalEncoder(),
    "by the target": TargetEncoder(cv=KFold(5)),
}
SCALED = {
    "imputed": SimpleImputer(add_indicator=True),
    "scaled": make_pipeline(SimpleImputer(), StandardScaler()),
    "binned": make_pipeline(
        SimpleImputer(),
        ColumnTransformer([(n, KBinsDiscretizer(3), [k]) for k, n in enumerate("ab")]),
    ),
    "a function": FunctionTransformer(np.log1p, feature_names_out="one-to-one"),
    "selected": make_pipeline(SimpleImputer(), VarianceThreshold()),
}


@pytest.mark.parametrize(
    ("encoder", "numbers"),
    [*((name, "imputed") for name in ENCODED), *(("one-hot", name) for name in SCALED)],
)
def test_what_transformers_make_belongs_to_the_column_that_it_is_called_by(
    encoder: str, numbers: str
) -> None:
    transformer = make_column_transformer(
        (SCALED[numbers], NUMBERS), (ENCODED[encoder], COLORS), remainder="passthrough"
    ).fit(FRAME, LABELS)
    names = transformer.get_feature_names_out()

    owners = find_owners([transformer], np.arange(len(FRAME.columns)))

    assert len(owners) == len(names) == transformer.transform(FRAME).shape[1]
    for owner, name in zip(owners, names, strict=True):
        assert FRAME.columns[owner] in name


def encode(loaded: LoadedModel) -> Any:
    rows = np.empty((N_ROWS, len(loaded.signature.columns)))
    for place, column in enumerate(loaded.signature.columns):
        values = FRAME[column.name]
        known = dict(zip(column.categories, range(len(column.categories)), strict=True))
        rows[:, place] = values.map(known) if column.categories else values
    return rows


@pytest.mark.parametrize(
    "model",
    [
        GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1.0]}, cv=2),
        make_pipeline(SelectKBest(f_regression, k=2), StandardScaler(), RandomForestRegressor(3)),
        make_pipeline(StandardScaler(), "passthrough", LinearRegression()),
        RandomForestRegressor(3),
    ],
    ids=lambda model: str(model)[:20],
)
def test_models_of_others_are_explained(model: Any) -> None:
    loaded = load(model.fit(X, Y))

    found = explain(loaded, X)

    assert_sums_up(found, loaded.scorer(X))
    assert found.contributions.shape == (N_ROWS, 3, 1)


def test_a_model_whose_steps_make_frames_is_explained() -> None:
    frame = pd.DataFrame(X, columns=list("abc"))
    scaled = make_pipeline(StandardScaler().set_output(transform="pandas"), BayesianRidge())
    for model in (BayesianRidge(), scaled):
        loaded = load(model.fit(frame, Y))

        assert_sums_up(explain(loaded, X), loaded.scorer(X))


def test_columns_that_a_model_drops_are_not_explained() -> None:
    scaled = make_column_transformer((StandardScaler(), ["c", "a"]))
    model = make_pipeline(scaled, LinearRegression())
    loaded = load(model.fit(pd.DataFrame(X, columns=list("abc")), X[:, 2]))

    found = explain(loaded, X[:, [0, 2]])

    assert loaded.signature.names == ("a", "c")
    assert np.allclose(found.contributions[:, 0], 0)
    assert np.ptp(found.contributions[:, 1]) > 0.1


def test_categories_of_a_frame_that_boosting_encodes_itself_are_explained() -> None:
    frame = FRAME.astype(dict.fromkeys(COLORS, "category"))
    model = HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=5)
    y = (FRAME["shape"] == "round") * 2.0 + FRAME["width"] / 10
    loaded = load(model.fit(frame, y))
    rows = encode(loaded)
    rows[0, 0] = np.nan

    found = explain(loaded, rows)

    assert_sums_up(found, loaded.scorer(rows))
    sizes = np.abs(found.contributions[:, :, 0]).mean(axis=0)
    assert loaded.signature.names[sizes.argmax()] == "shape"


@pytest.mark.parametrize("vectoriser", [TfidfVectorizer(), CountVectorizer()], ids=str)
@pytest.mark.parametrize("final", [LogisticRegression(), DecisionTreeClassifier()], ids=str)
def test_a_model_of_texts_has_one_contribution(vectoriser: Any, final: Any) -> None:
    texts = TABLE["note"].to_list()
    loaded = load(make_pipeline(vectoriser, final).fit(texts, LABELS))
    rows = np.empty((N_ROWS, 0)), np.array(texts, dtype=object)[:, np.newaxis]

    found = explain(loaded, *rows)

    assert_sums_up(found, loaded.scorer(*rows))
    assert found.contributions.shape == (N_ROWS, 1, 3)


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (KNeighborsRegressor(), Y, "for KNeighborsRegressor: linear models, decision trees"),
        (AdaBoostRegressor(n_estimators=2), Y, "not possible for AdaBoostRegressor"),
        (RandomForestClassifier(2), np.stack([LABELS, LABELS], 1), "several outputs"),
        (LinearRegression(), np.stack([Y, Y], 1), "several outputs"),
        (make_pipeline(PCA(2), LinearRegression()), Y, "PCA makes numbers of several columns"),
        (make_pipeline(PolynomialFeatures(), Ridge()), Y, "PolynomialFeatures makes"),
        (GradientBoostingRegressor(init=Ridge(), n_estimators=2), Y, "another estimator"),
    ],
    ids=lambda value: str(value)[:20] if hasattr(value, "fit") else "",
)
def test_what_cannot_be_explained_is_refused_and_says_why(
    model: Any, y: Any, message: str
) -> None:
    loaded = load(model.fit(X, y))

    with pytest.raises(InvalidInput) as refused:
        explain(loaded, X)

    assert message in refused.value.faults["explain"][0]


def test_words_of_several_columns_that_are_reduced_together_are_refused() -> None:
    dataset = read_table(Y, *NOTES)
    spec = TrainingSpec("decision_tree")
    loaded = prepare(train(dataset, spec, clock=time.perf_counter))

    with pytest.raises(InvalidInput) as refused:
        explain(loaded, dataset.X, dataset.texts)

    assert "TruncatedSVD makes numbers of several columns" in refused.value.faults["explain"][0]


def test_rows_that_take_too_long_are_refused_with_the_number_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = prepare(fit("random_forest", typed=False)[1])
    by_row = loaded.explain._parts[0].seconds_by_row
    monkeypatch.setattr(explaining, "MOST_SECONDS", 7.5 * by_row)

    with pytest.raises(InvalidInput) as refused:
        explain(loaded, X)
    found = explain(loaded, X[:7])

    assert refused.value.faults == {
        "explain": [f"takes too long for {N_ROWS} rows: send at most 7 of them a request"]
    }
    assert found.contributions.shape == (7, 3, 1)
    monkeypatch.setattr(explaining, "MOST_SECONDS", by_row / 2)
    with pytest.raises(InvalidInput) as refused:
        explain(loaded, X[:1])
    assert "too large to explain a row" in refused.value.faults["explain"][0]


def test_trees_that_no_row_has_reached_are_refused() -> None:
    model = HistGradientBoostingRegressor(max_iter=2).fit(X, Y)
    loaded = load(model)
    model._predictors[0][0].nodes["count"] = 0  # as a file may say

    with pytest.raises(InvalidInput) as refused:
        explain(loaded, X)

    assert "do not say how many rows" in refused.value.faults["explain"][0]


# Models of other libraries

COUNTS = np.round(Y)
BITS = (np.median(Y) < Y) * 1.0
CODES = np.digitize(Y, [4, 6])
OBJECTIVES = {
    **dict.fromkeys(("regression", "reg:squarederror", "reg:absoluteerror"), Y),
    **dict.fromkeys(("rf", "dart", "gblinear", "dart of XGBoost"), Y),
    **dict.fromkeys(("poisson", "tweedie", "count:poisson", "reg:gamma"), COUNTS + 1),
    **dict.fromkeys(("binary", "cross_entropy", "binary:logistic", "reg:logistic"), BITS),
    **dict.fromkeys(("multiclass", "multi:softprob"), CODES),
}


def fit_lightgbm(objective: str) -> bytes:
    params: dict[str, Any] = {"objective": objective, "verbosity": -1, "num_leaves": 4}
    if objective in ("rf", "dart"):
        params |= {"objective": "regression", "boosting": objective}
        params |= {"bagging_freq": 1, "bagging_fraction": 0.5}
    if objective == "multiclass":
        params["num_class"] = 3
    data = lightgbm.Dataset(X, OBJECTIVES[objective])
    return lightgbm.train(params, data, 5).model_to_string().encode()


def fit_xgboost(objective: str) -> bytes:
    params: dict[str, Any] = {"objective": objective, "nthread": 1}
    if objective in ("gblinear", "dart of XGBoost"):
        params |= {"objective": "reg:squarederror", "booster": objective.split(" ")[0]}
    if objective == "multi:softprob":
        params["num_class"] = 3
    trained = xgboost.train(params, xgboost.DMatrix(X, OBJECTIVES[objective]), 5)
    return bytes(trained.save_raw("ubj"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_models_of_boosting_libraries_sum_up_to_what_they_predict(objective: str) -> None:
    is_xgboost = any(word in objective for word in (":", "gblinear", "XGBoost"))
    name, fit_with = ("xgboost", fit_xgboost) if is_xgboost else ("lightgbm", fit_lightgbm)
    data = fit_with(objective)
    kind = FORMATS[name]
    signature = Signature.from_json(kind.describe(data, max_features=10)["signature"])
    loaded = kind.load(data, signature, None)

    found = explain(loaded, X)

    # XGBoost computes in float32.
    assert_sums_up(found, loaded.scorer(X), rtol=1e-4 if name == "xgboost" else 1e-9)
    assert found.against == ("zero" if objective == "gblinear" else "training mean")
    assert found.contributions.shape[1] == 3


def test_trees_of_boosting_libraries_that_are_too_deep_are_refused() -> None:
    left = np.append(np.arange(1, 300), -1)
    tree = (left, np.full(300, -2))
    loaded = LibraryExplainer(lambda X: X, coded=[], of="prediction", children=[tree])

    with pytest.raises(InvalidInput) as refused:
        loaded(X)

    assert refused.value.faults == {
        "explain": ["is not possible for trees of more than 256 levels"]
    }
