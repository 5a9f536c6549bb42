"""Training in parts, held against the fit in memory, and predictions from folder to folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.tables import WRITERS
from webapp.errors import InvalidInput
from webapp.ml.core import sources, streaming
from webapp.ml.core.batch import StoredPredictor, Written, predict_source
from webapp.ml.core.datasets import make_dataset
from webapp.ml.core.features import BatchOptions
from webapp.ml.core.formats import skops
from webapp.ml.core.learning import Choices
from webapp.ml.core.least_squares import IntervalBasis, compute_intervals
from webapp.ml.core.packing import pack_reduced, unpack_reduced
from webapp.ml.core.sources import open_source
from webapp.ml.core.tables import columnar
from webapp.ml.core.training import TrainedModel, TrainingSpec, train

T = TypeVar("T")
ENOUGH = 1e9  # bytes


class Messages(Executor):
    """Sends what it is given, and what comes of it, as bytes, as processes and Dask do."""

    def submit(self, call: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        """Call at once."""
        future: Future[T] = Future()
        call, args = copy_by_bytes((call, args))
        future.set_result(copy_by_bytes(call(*args, **options)))
        return future


def copy_by_bytes(value: T) -> T:
    """Return what another process would get: without the arrays and functions of this one."""
    from multiprocessing.reduction import ForkingPickler

    pickled = ForkingPickler.dumps(value)
    return ForkingPickler.loads(pickled)  # type: ignore[no-any-return]


def make_rows(kind: str = "plain", n_rows: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Return X: (n_rows, 5) of a kind, and y, linear in it with noise."""
    random = np.random.default_rng(0)
    X = random.standard_normal((n_rows, 5))
    if kind == "far from 0":
        X += 1e5 * np.arange(5)  # a mean beside 1e6 itself has no more than nine digits
    elif kind == "ill-scaled":
        X *= 10.0 ** np.arange(-2, 3)
    elif kind == "conditioned badly":
        X[:, 1] = X[:, 0] + 1e-4 * X[:, 1]
    elif kind == "dependent":
        X[:, 2] = X[:, 0] - 2 * X[:, 1]
    elif kind == "constant":
        X[:, 2] = 0.1
    elif kind == "huge":
        X *= 1e100
    y = (X / X.std(axis=0).clip(1e-3)) @ random.standard_normal(5)
    return X, y + random.standard_normal(n_rows) + 3


KINDS = ("plain", "far from 0", "ill-scaled", "conditioned badly", "dependent", "constant", "huge")


def write_parts(
    folder: Path, X: np.ndarray, y: Any, cuts: list[int], suffix: str = "parquet"
) -> None:
    folder.mkdir(exist_ok=True)
    names = [f"x{n}" for n in range(1, X.shape[1] + 1)]
    table = pa.table({**dict(zip(names, X.T, strict=True)), "y": y})
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(X)], strict=True)):
        part = table.slice(start, end - start)
        (folder / f"{number:03}.{suffix}").write_bytes(WRITERS[suffix](part))


def fit(folder: Path, *, groups: int | None = None, **options: Any) -> TrainedModel:
    """Train on the files of a folder; ``choices`` and ``memory`` as they stand, else the spec.

    With ``groups``, that many are reduced, each as in a process of its own.
    """
    source, choices = open_source(str(folder), "*"), options.pop("choices", Choices("y"))
    memory, report = options.pop("memory", 0.0), options.pop("report", None)
    spec, clock = TrainingSpec(**options), time.perf_counter
    if groups is None:
        return streaming.train_from_source(
            source, choices, spec, clock=clock, memory=memory, report=report
        )
    plan = streaming.make_plan(source, choices, spec, memory=memory)
    assert plan is not None
    reduced = [
        unpack_reduced(pack_reduced(streaming.reduce_parts(plan.options, plan.parts[start:end])))
        for start, end in streaming.cut([part.size for part in plan.parts], groups)
    ]
    return streaming.fit_reduced(plan, spec, reduced, clock=clock, seconds=0)


def faults_of(folder: Path, **options: Any) -> Any:
    with pytest.raises(InvalidInput) as raised:
        fit(folder, **options)
    return raised.value.faults


def check_close(found: Any, expected: Any) -> None:
    """Check that numbers are the same to 1e-9 of the largest."""
    largest = np.abs(np.asarray(expected, dtype=np.float64)).max()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * largest)


def check_same_model(found: TrainedModel, expected: TrainedModel, X: np.ndarray) -> None:
    """Check that two versions, trained on the same rows, are the same but for rounding."""
    check_close(found.estimator.predict(X), expected.estimator.predict(X))
    for name, values in expected.profile.items():
        np.testing.assert_allclose(found.profile[name], values, rtol=1e-9, atol=1e-12)
    assert (found.interval_basis is None) == (expected.interval_basis is None)
    if found.interval_basis is not None and expected.interval_basis is not None:
        check_same_intervals(found.interval_basis, expected.interval_basis, X)
    assert found.signature.names == expected.signature.names
    assert (found.n_train, found.estimator_name) == (expected.n_train, expected.estimator_name)
    assert type(found.estimator) is type(expected.estimator)
    assert found.params == expected.params


def check_same_intervals(found: IntervalBasis, expected: IntervalBasis, X: np.ndarray) -> None:
    bounds = [
        compute_intervals(basis, X, np.zeros(len(X)), level=0.9) for basis in (found, expected)
    ]
    check_close(bounds[0].confidence_upper, bounds[1].confidence_upper)
    check_close(bounds[0].prediction_upper, bounds[1].prediction_upper)


CASES = [
    (kind, fit_intercept, scale)
    for kind in KINDS
    for fit_intercept in (True, False)
    for scale in (False, True)
    # Of these, scikit-learn's own scaler leaves a mean of 1e-11 that the mean of y, 1e5, takes up.
    if (kind, fit_intercept, scale) != ("far from 0", False, True)
]


@pytest.mark.parametrize(("kind", "fit_intercept", "scale"), CASES)
def test_least_squares_in_parts_are_those_in_memory(
    tmp_path: Path, kind: str, fit_intercept: bool, scale: bool
) -> None:
    X, y = make_rows(kind)
    write_parts(tmp_path, X, y, [1, 4, 500])
    spec: Any = {"params": {"fit_intercept": fit_intercept}, "scale": scale, "test_size": 0.0}

    found = fit(tmp_path, **spec)

    linear = LinearRegression(fit_intercept=fit_intercept)
    theirs = make_pipeline(StandardScaler(), linear) if scale else linear
    check_close(found.estimator.predict(X), theirs.fit(X, y).predict(X))
    expected = train(make_dataset(X, y), TrainingSpec(**spec), clock=time.perf_counter)
    check_same_model(found, expected, X)
    assert found.metrics["r2_score"] == pytest.approx(expected.metrics["r2_score"], rel=1e-9)
    assert found.metrics["mae"] == pytest.approx(expected.metrics["mae"], rel=1e-9)
    assert found.metrics["baseline"] == pytest.approx(expected.metrics["baseline"], abs=1e-9)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("params", [{"alpha": 0.1}, {"alpha": 100.0, "fit_intercept": False}])
@pytest.mark.parametrize("kind", ["plain", "ill-scaled", "dependent", "constant"])
def test_ridge_in_parts_is_that_in_memory(
    tmp_path: Path, kind: str, params: dict[str, Any], scale: bool
) -> None:
    X, y = make_rows(kind)
    write_parts(tmp_path, X, y, [300, 301])
    spec: Any = {"estimator": "ridge", "params": params, "scale": scale, "test_size": 0.0}

    found = fit(tmp_path, **spec)

    theirs = make_pipeline(StandardScaler(), Ridge(**params)) if scale else Ridge(**params)
    check_close(found.estimator.predict(X), theirs.fit(X, y).predict(X))
    expected = train(make_dataset(X, y), TrainingSpec(**spec), clock=time.perf_counter)
    check_same_model(found, expected, X)


@pytest.mark.parametrize("cuts", [[], [500], list(range(1, 1000, 37)), [0, 0, 999]], ids=len)
@pytest.mark.parametrize("reverse", [False, True])
def test_size_and_order_of_the_parts_do_not_matter(
    tmp_path: Path, cuts: list[int], reverse: bool
) -> None:
    X, y = make_rows("far from 0")
    order = slice(None, None, -1) if reverse else slice(None)
    write_parts(tmp_path, X[order], y[order], cuts)

    found = fit(tmp_path, test_size=0.0)

    expected = train(make_dataset(X, y), TrainingSpec(test_size=0), clock=time.perf_counter)
    check_same_model(found, expected, X)


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_model(tmp_path: Path, suffix: str) -> None:
    X, y = make_rows(n_rows=200)
    write_parts(tmp_path / suffix, X, y, [120], suffix)
    write_parts(tmp_path / "other", X, y, [120])

    found, expected = fit(tmp_path / suffix), fit(tmp_path / "other")

    if suffix == "parquet":
        assert found.n_test == expected.n_test
        assert found.data_digest == expected.data_digest
    everything = [fit(tmp_path / name, test_size=0.0) for name in (suffix, "other")]
    check_same_model(*everything, X)
    assert everything[0].data_digest == everything[1].data_digest


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 9])
def test_groups_of_parts_that_are_reduced_apart_make_the_same_model(
    tmp_path: Path, groups: int
) -> None:
    X, y = make_rows()
    write_parts(tmp_path, X, y, [100, 200, 700])

    found = fit(tmp_path, groups=groups)

    expected = fit(tmp_path)
    check_same_model(found, expected, X)
    np.testing.assert_array_equal(found.judged.y, expected.judged.y)
    assert found.data_digest == expected.data_digest


@pytest.mark.parametrize("sizes", [[1], [0, 0], [100] * 11, [1, 500, 2, 3], [9] * 3 + [900]])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 20])
def test_parts_are_cut_into_groups_of_about_as_many_bytes(sizes: list[int], count: int) -> None:
    groups = streaming.cut(sizes, count)

    assert [part for start, end in groups for part in range(start, end)] == list(range(len(sizes)))
    assert all(start < end for start, end in groups)
    assert len(groups) <= count
    largest = max(sum(sizes[start:end]) for start, end in groups)
    assert largest <= sum(sizes) / count + 2 * max(sizes)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_are_counted_while_they_are_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path, *make_rows(), [300], suffix)
    monkeypatch.setattr(streaming, "SLICE_CELLS", 600)
    told: list[tuple[int, int]] = []

    fit(tmp_path, report=lambda *done: told.append(done))

    assert [done for done, _ in told] == [*range(100, 1001, 100), 1000]
    assert all(done <= total for done, total in told)
    assert told[0][1] == pytest.approx(1000, rel=0.1)
    assert told[-1] == (1000, 1000)


def test_importances_are_those_of_scikit_learn_on_the_rows_that_are_held_out(
    tmp_path: Path,
) -> None:
    X, y = make_rows()
    write_parts(tmp_path, X, y, [300])

    found = fit(tmp_path, refit=True)

    assert found.held_out is not None
    assert found.importances is not None
    held = found.held_out.take()
    theirs = permutation_importance(
        fit(tmp_path).estimator, held.X, held.y, n_repeats=50, random_state=0
    )
    assert found.importances["rows"] == found.n_test
    ranked = [f"x{place + 1}" for place in np.argsort(-theirs.importances_mean)]
    assert list(found.importances["values"]) == ranked
    assert fit(tmp_path, test_size=0.0).importances is None


def test_rows_that_are_held_out_are_judged_and_not_fitted(tmp_path: Path) -> None:
    X, y = make_rows()
    write_parts(tmp_path, X, y, [300])

    found = fit(tmp_path, test_size=0.3)

    assert found.held_out is not None
    held = found.held_out.take()
    assert (found.n_train + found.n_test, found.n_test) == (1000, len(held.y))
    assert found.n_test == pytest.approx(300, abs=60)
    is_held = np.isin(X[:, 0], held.X[:, 0])
    theirs = LinearRegression().fit(X[~is_held], y[~is_held])
    check_close(found.estimator.predict(X), theirs.predict(X))
    errors = y[is_held] - theirs.predict(X[is_held])
    assert found.metrics["mse"] == pytest.approx((errors**2).mean(), rel=1e-9)
    baseline = y[is_held] - y[~is_held].mean()
    assert found.metrics["baseline"]["mse"] == pytest.approx((baseline**2).mean(), rel=1e-9)
    assert found.profile["max"] == X[~is_held].max(axis=0).tolist()
    assert found.evaluated_on == "hold-out"
    np.testing.assert_array_equal(found.judged.y, held.y)


def test_the_hold_out_depends_on_the_seed_and_not_on_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path, *make_rows(), [300])

    first, other = fit(tmp_path), fit(tmp_path, random_state=7)
    monkeypatch.setattr(streaming, "SLICE_CELLS", 60)
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 8)
    again = fit(tmp_path)

    assert set(first.judged.y) == set(again.judged.y) != set(other.judged.y)
    assert first.data_digest == again.data_digest == other.data_digest
    check_close(again.estimator.coef_, first.estimator.coef_)


def test_a_large_parquet_file_is_shared_out_by_its_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = make_rows()
    X[950, 1] = np.nan
    for folder, n_rows in {"whole": 900, "faulty": 1000}.items():
        (tmp_path / folder).mkdir()
        columns = {f"x{n}": column[:n_rows] for n, column in enumerate(X.T)}
        table = pa.table({**columns, "y": y[:n_rows]})
        parquet.write_table(table, tmp_path / folder / "a.parquet", row_group_size=70)

    whole = fit(tmp_path / "whole")
    monkeypatch.setattr(sources, "SPLIT_BYTES", 2**14)
    shared = fit(tmp_path / "whole", groups=3)

    assert shared.n_train == whole.n_train
    assert set(shared.judged.y) == set(whole.judged.y)
    check_close(shared.estimator.coef_, whole.estimator.coef_)
    monkeypatch.setattr(columnar, "BATCH_CELLS", 600)  # so that the first rows have no gap
    faults = faults_of(tmp_path / "faulty")["source"]["a.parquet"]
    assert list(faults["x1"]) == ["950"]


def test_refitting_takes_the_held_out_rows_without_reading_again(tmp_path: Path) -> None:
    X, y = make_rows()
    write_parts(tmp_path, X, y, [300])

    found = fit(tmp_path, refit=True)

    check_close(found.estimator.predict(X), LinearRegression().fit(X, y).predict(X))
    assert found.metrics == fit(tmp_path).metrics
    assert found.profile["max"] == X.max(axis=0).tolist()


@pytest.mark.parametrize(
    ("n_rows", "test_size"), [(1, 0.2), (9, 0.5), (20, 0.0), (12, 1e-9)], ids=str
)
def test_few_rows_are_all_fitted_and_judged(tmp_path: Path, n_rows: int, test_size: float) -> None:
    X, y = make_rows(n_rows=n_rows)
    write_parts(tmp_path, X[:, :1], y, [])

    found = fit(tmp_path, test_size=test_size)

    assert (found.n_train, found.n_test, found.evaluated_on) == (n_rows, 0, "training")
    assert len(found.judged.y) == n_rows
    assert found.held_out is None
    expected = LinearRegression().fit(X[:, :1], y)
    check_close(found.estimator.predict(X[:, :1]), expected.predict(X[:, :1]))


@pytest.mark.parametrize("test_size", [0.0, 0.2])
def test_no_more_rows_are_kept_to_judge_by_than_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test_size: float
) -> None:
    monkeypatch.setattr(streaming, "MOST_JUDGED_ROWS", 50)
    X, y = make_rows()
    write_parts(tmp_path, X, y, [500])

    found = fit(tmp_path, test_size=test_size)

    n_judged = len(found.judged.y)
    assert 20 < n_judged < 100
    assert found.n_train == (1000 - n_judged if test_size else 1000)
    assert f"{n_judged} of" in found.warnings[0].message


def test_rows_without_a_target_are_left_out(tmp_path: Path) -> None:
    X, y = make_rows()
    y[[0, 500, 999]] = np.nan
    write_parts(tmp_path, X, y, [500])

    found = fit(tmp_path, test_size=0.0)

    present = ~np.isnan(y)
    theirs = LinearRegression().fit(X[present], y[present])
    check_close(found.estimator.predict(X), theirs.predict(X))
    assert found.n_train == 997
    assert found.warnings[0].message.startswith("has no value in 3 of 1000 rows")


def test_columns_are_found_by_name_and_may_be_left_out(tmp_path: Path) -> None:
    X, y = make_rows()
    names = [f"x{n}" for n in range(5)]
    table = pa.table({**dict(zip(names, X.T, strict=True)), "y": y, "note": ["-"] * 1000})
    parquet.write_table(table.slice(0, 400), tmp_path / "a.parquet")
    swapped = table.select(list(reversed(table.column_names)))
    parquet.write_table(swapped.slice(400), tmp_path / "b.parquet")

    choices = Choices("y", kinds={"note": "exclude", "x3": "exclude"})
    found = fit(tmp_path, test_size=0.0, choices=choices)

    assert found.signature.names == ("x0", "x1", "x2", "x4")
    theirs = LinearRegression().fit(X[:, [0, 1, 2, 4]], y)
    check_close(found.estimator.coef_, theirs.coef_)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_fault_names_file_column_and_row(
    tmp_path: Path, suffix: str, groups: int | None
) -> None:
    X, y = make_rows()
    X[700, 2] = np.nan
    write_parts(tmp_path, X, y, [600], suffix)

    faults = faults_of(tmp_path, groups=groups)

    missing = ["is missing or not finite; fill it in, or leave the row out"]
    assert faults == {"source": {f"001.{suffix}": {"x3": {"100": missing}}}}


def test_parts_with_other_columns_or_other_bytes_are_named(tmp_path: Path) -> None:
    X, y = make_rows()
    write_parts(tmp_path, X, y, [500])
    csv.write_csv(pa.table({"x1": [1.0], "z": [1.0], "y": [1.0]}), tmp_path / "other.csv")
    parquet.write_table(csv.read_csv(tmp_path / "other.csv"), tmp_path / "002.parquet")
    (tmp_path / "other.csv").unlink()

    expected = ["has no column x2, x3, x4, x5 and also has the columns z, unlike the other files"]
    assert faults_of(tmp_path) == {"source": {"002.parquet": expected}}
    (tmp_path / "002.parquet").write_bytes(bytes(100))
    expected = ["is not a Parquet table: it cannot be parsed"]
    assert faults_of(tmp_path) == {"source": {"002.parquet": expected}}


@pytest.mark.parametrize("scale", [False, True])
def test_values_too_large_to_fit_are_told(tmp_path: Path, scale: bool) -> None:
    X, y = make_rows(n_rows=50)
    write_parts(tmp_path, X * 1e307, y * 1e307, [])

    assert "too large" in str(faults_of(tmp_path, scale=scale))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"estimator": "random_forest"}, "only linear_regression and ridge are trained"),
        ({"estimator": "auto"}, "only linear_regression and ridge are trained"),
        ({"params": {"positive": True}}, "coefficients cannot be kept positive"),
        ({"estimator": "ridge", "params": {"solver": "sag"}}, "the solver is one of auto"),
        ({"cv": 3}, "there is no cross-validation"),
        ({"choices": Choices("y", "classification")}, "for a target of numbers"),
        ({"choices": Choices("y", kinds={"x1": "category"})}, "x1 is not: exclude it"),
    ],
    ids=str,
)
def test_what_needs_the_rows_in_memory_says_so_and_how_much(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    write_parts(tmp_path, *make_rows(), [500])

    (message,) = faults_of(tmp_path, memory=1000.0, **options)["source"]

    assert "would have to be in memory, about 0 MB (1,000 rows × 6 columns)" in message
    assert reason in message


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_needs_the_rows_in_memory_is_trained_there_where_they_fit(
    tmp_path: Path, suffix: str
) -> None:
    X, y = make_rows()
    write_parts(tmp_path, X, y, [500], suffix)

    found = fit(tmp_path, estimator="decision_tree", params={"max_depth": 3}, memory=ENOUGH)

    spec = TrainingSpec("decision_tree", {"max_depth": 3})
    expected = train(make_dataset(X, y, [f"x{n}" for n in range(1, 6)]), spec, clock=time.time)
    np.testing.assert_array_equal(found.estimator.predict(X), expected.estimator.predict(X))
    assert found.metrics == expected.metrics


@pytest.mark.parametrize("gap", ["", "7,\n"])
@pytest.mark.parametrize(("row", "column"), [("oops,7", "x"), ("7,oops", "y")])
def test_a_fault_in_the_second_file_is_told_by_its_name_and_its_row(
    tmp_path: Path, gap: str, row: str, column: str
) -> None:
    rows = "".join(f"{n},{2 * n}\n" for n in range(20))
    for name, further in (("a", gap), ("b", f"{gap}{row}\n"), ("c", "")):
        (tmp_path / f"{name}.csv").write_text(f"x,y\n{rows}{further}")
    choices = Choices("y", task="regression")

    faults = faults_of(tmp_path, estimator="random_forest", choices=choices, memory=1e9)

    (found,) = faults["source"]["b.csv"][column].items()
    assert found[0] == ("21" if gap else "20")
    assert found[1][0].startswith("is not a number")


def test_a_gap_further_on_is_filled_where_the_rows_fit_into_memory(tmp_path: Path) -> None:
    X, y = make_rows()
    X[999, 2] = np.nan
    write_parts(tmp_path, X, y, [600])

    found = fit(tmp_path, memory=ENOUGH)

    assert found.n_train + found.n_test == 1000
    assert not found.signature.is_matrix


def test_a_version_of_a_source_is_stored_and_served_as_any_other(tmp_path: Path) -> None:
    X, y = make_rows()
    write_parts(tmp_path / "in", X, y, [600])

    for estimator in streaming.STREAMED:
        for scale in (False, True):
            found = fit(tmp_path / "in", estimator=estimator, scale=scale)
            loaded = skops.load(skops.dumps(found.estimator), found.signature, found.profile)
            np.testing.assert_array_equal(loaded.scorer(X).values, found.estimator.predict(X))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("trained")
    write_parts(folder, *make_rows(), [])
    return fit(folder)


def predict_all(root: Path, trained: TrainedModel, **options: Any) -> Written:
    predictor = StoredPredictor(
        "skops",
        skops.dumps(trained.estimator),
        json.dumps(trained.signature.to_json()),
        basis=trained.interval_basis,
    )
    return predict_source(
        open_source(str(root), options.pop("pattern", "in")),
        "out",
        predict=predictor,
        signature=trained.signature,
        options=BatchOptions(passthrough=("y",)),
        **options,
    )


@pytest.mark.parametrize("executor", [None, Messages()], ids=["here", "elsewhere"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_each_file_is_answered_by_a_file_of_its_name(
    tmp_path: Path, trained: TrainedModel, suffix: str, executor: Executor | None
) -> None:
    X, y = make_rows()
    write_parts(tmp_path / "in", X, y, [600, 1000], suffix)
    told: list[tuple[int, int]] = []

    written = predict_all(
        tmp_path, trained, executor=executor, report=lambda *done: told.append(done)
    )

    paths = sorted((tmp_path / "out").iterdir())
    ending = "arrow.parquet" if suffix == "arrow" else suffix
    assert [path.name for path in paths] == [f"{n:03}.{ending}" for n in range(2)]
    read = csv.read_csv if suffix == "csv" else parquet.read_table
    answers = pa.concat_tables([read(path) for path in paths])
    bounds = [
        f"{kind}:{end}" for kind in ("confidence", "prediction") for end in ("lower", "upper")
    ]
    assert answers.column_names == ["y", "prediction", *bounds]
    check_close(answers["prediction"].to_numpy(), trained.estimator.predict(X))
    check_close(answers["y"].to_numpy(), y)
    assert (written.n_files, written.n_rows, told[-1]) == (2, 1000, (3, 3))
    (warning,) = written.warnings
    assert (warning.column, "has no rows" in warning.message) == (f"in/002.{suffix}", True)


def test_an_answer_that_is_there_is_not_replaced_unless_it_is_asked_for(
    tmp_path: Path, trained: TrainedModel
) -> None:
    write_parts(tmp_path / "in", *make_rows(n_rows=20), [10])
    predict_all(tmp_path, trained)
    (tmp_path / "out" / "000.parquet").unlink()

    with pytest.raises(InvalidInput) as raised:
        predict_all(tmp_path, trained)
    assert raised.value.faults == {"folder": ["holds 'out/001.parquet' already"]}
    assert not (tmp_path / "out" / "000.parquet").exists()

    assert predict_all(tmp_path, trained, overwrite=True).n_rows == 20
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_answers_keep_their_folders_and_never_replace_the_source(
    tmp_path: Path, trained: TrainedModel
) -> None:
    for place in ("in", "in/a", "out"):
        write_parts(tmp_path / place, *make_rows(n_rows=20), [])

    predict_all(tmp_path, trained, pattern="in/**/*.parquet", overwrite=True)
    assert (tmp_path / "out" / "a" / "000.parquet").exists()
    with pytest.raises(InvalidInput, match="is the folder of the source"):
        predict_all(tmp_path, trained, pattern="out", overwrite=True)


def test_a_file_that_cannot_be_answered_leaves_nothing_behind(
    tmp_path: Path, trained: TrainedModel
) -> None:
    X, y = make_rows(n_rows=40_000)
    X[39_999, 0] = np.inf
    write_parts(tmp_path / "in", X, y, [])

    with pytest.raises(InvalidInput) as raised:
        predict_all(tmp_path, trained)

    missing = ["is missing or not finite; fill it in, or leave the row out"]
    faults = {"source": {"in/000.parquet": {"x1": {"39999": missing}}}}
    assert raised.value.faults == faults
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("folder", ["../out", "/out", "link/out", "link"])
def test_answers_are_not_written_out_of_the_root(
    tmp_path: Path, trained: TrainedModel, folder: str
) -> None:
    write_parts(tmp_path / "root", *make_rows(n_rows=20), [])
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    source = open_source(str(tmp_path / "root"), "000.parquet")

    with pytest.raises(InvalidInput, match=r"must be a path|leads out"):
        predict_source(
            source,
            folder,
            predict=lambda features: {"prediction": features.X[:, 0]},
            signature=trained.signature,
            options=BatchOptions(passthrough=("y",)),
        )

    assert list((tmp_path / "outside").iterdir()) == []
