"""How much each column matters to a fitted model: as its own trees say, or by permutation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from webapp.ml.core.datasets import Dataset, Subset, Vector
from webapp.ml.core.estimators import split_pipeline
from webapp.ml.core.preprocessing import ESTIMATOR, PREPARE, is_typed
from webapp.ml.core.scoring import Scorer
from webapp.ml.core.signature import Signature

Importances: TypeAlias = dict[str, Any]
"""As JSON: method, metric, rows, repeats, not_measured, and by column values and std."""

MOST_COLUMNS = 1000  # that are listed, with their names up to 1 MB, or permuted
REPEATS, MOST_ROWS, FEWEST_ROWS = 5, 2000, 100
# Microseconds of predictions as `_estimate_row` counts them, not the clock, so that equal
# trainings give equal importances. No training on the titanic takes 20 ms longer.
LEAST_WORK, WORK_BY_ROW, MOST_WORK = 20_000, 3, 500_000


def read_importances(model: Any, signature: Signature) -> Importances | None:
    """Return what the trees of a fitted model have gained by each column, as shares of 1.

    They are scikit-learn's ``feature_importances_``; those of all that a column was encoded as
    are added up. None for a model that has none, or where they cannot be told apart by column.
    """
    final = model.named_steps[ESTIMATOR] if is_typed(model) else _find_final(model)
    values = getattr(final, "feature_importances_", None)
    if values is None:
        return None
    if is_typed(model):
        origins = _trace_outputs(model.named_steps[PREPARE], signature)
    else:
        n_inputs = [len(column.inputs) for column in signature.columns]
        origins = np.repeat(np.arange(len(n_inputs)), n_inputs)
    if len(origins) != len(values):
        return None
    summed: Any = np.bincount(origins, weights=values, minlength=len(signature.columns))
    return list_importances("impurity", signature.names, summed)


def list_importances(
    method: str,
    names: Sequence[str],
    values: Vector,
    *,
    std: Vector | None = None,
    metric: str | None = None,
    rows: int | None = None,
    repeats: int | None = None,
) -> Importances | None:
    """Return importances, (n_names,), by name: the 1,000 largest, from the largest on.

    What is not finite was not measured; None where nothing was.
    """
    finite = np.isfinite(values if std is None else values + std)
    if not finite.any():
        return None
    order = np.argsort(np.where(finite, -values, np.inf), kind="stable")
    n_measured = int(finite.sum())
    listed = order[: min(MOST_COLUMNS, n_measured)].tolist()
    return {
        "method": method,
        "metric": metric,
        "rows": rows,
        "repeats": repeats,
        "not_measured": len(values) - n_measured,
        "values": {names[place]: float(values[place]) for place in listed},
        "std": None if std is None else {names[place]: float(std[place]) for place in listed},
    }


def permute_columns(
    estimator: Any,
    scorer: Scorer,
    held_out: Subset,
    signature: Signature,
    *,
    random_state: int,
    clock: Callable[[], float],
    seconds: float,
) -> Importances | None:
    """Return how much worse a model predicts rows when the values of a column change places.

    ``held_out`` are rows that the ``estimator``, which ``scorer`` scores by, has not seen.
    An importance is the mean fall of R², or of the accuracy, over up to 5 permutations of up to
    2,000 rows, and ``std`` its standard deviation, as scikit-learn's ``permutation_importance``
    defines them. There are fewer of both where predictions are slow. All columns are permuted
    once before any is a second time, and none after ``seconds``: those that were not permuted
    at all are not measured. None for more than 1,000 columns, and where the metric is undefined.
    """
    n_columns = len(signature.columns)
    if n_columns > MOST_COLUMNS or held_out.index is None:
        return None
    n_fitted = len(held_out.dataset.y) - len(held_out)
    work = min(MOST_WORK, LEAST_WORK + WORK_BY_ROW * n_fitted)
    by_column = work / n_columns / _estimate_row(split_pipeline(estimator)[1], signature)
    n_rows = min(len(held_out), MOST_ROWS)
    repeats = min(REPEATS, max(1, int(by_column / n_rows)))
    n_rows = min(n_rows, max(FEWEST_ROWS, int(by_column)))
    # A hold-out is drawn by chance, and its first rows are, too.
    rows = replace(held_out, index=held_out.index[:n_rows]).take()

    deadline = clock() + seconds
    base, places = _judge(scorer, rows), _list_places(rows, signature)
    random = np.random.RandomState(random_state)
    orders = [random.permutation(n_rows) for _ in range(repeats)]
    drops = np.full((repeats, n_columns), np.nan)
    for repeat, number in product(range(repeats), range(n_columns)):
        if clock() > deadline:
            drops = drops[: max(1, repeat)]
            break
        values, place = places[number]
        kept = values[:, place].copy()
        values[:, place] = kept[orders[repeat]]
        drops[repeat, number] = base - _judge(scorer, rows)
        values[:, place] = kept
    with np.errstate(all="ignore"):  # a fall by 1e300 has no square
        mean, std = drops.mean(axis=0), drops.std(axis=0)
    return list_importances(
        "permutation",
        signature.names,
        mean,
        std=std if len(drops) > 1 else None,
        metric="r2_score" if signature.task == "regression" else "accuracy",
        rows=n_rows,
        repeats=len(drops),
    )


def _find_final(model: Any) -> Any:
    """Return the estimator behind searches and steps that keep the columns as they are, if any."""
    from sklearn.base import OneToOneFeatureMixin

    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "steps"):
            *before, (_, last) = model.steps
            model = last if all(isinstance(s, OneToOneFeatureMixin) for _, s in before) else None
        else:
            return model


def _trace_outputs(prepare: Any, signature: Signature) -> NDArray[np.intp]:
    """Return the column, by its place, that each output of the preprocessing comes from.

    (n_outputs,), but empty where the words of several columns were reduced together.
    """
    owners = {
        name: place
        for place, column in enumerate(signature.columns)
        for name in column.inputs or (column.name,)
    }
    outputs = prepare.output_indices_
    origins = np.zeros(max(place.stop for place in outputs.values()), dtype=np.intp)
    for name, fitted, names in prepare.transformers_:
        if name == "remainder":
            continue
        places = np.array([owners[one] for one in names])
        if name == "text" and len(names) > 1:
            return origins[:0]
        if name == "numbers":
            imputer = getattr(fitted, "named_steps", {"impute": fitted})["impute"]
            places = np.append(places, places[imputer.indicator_.features_])
        elif name == "categories":
            places = np.repeat(places, [len(found) for found in fitted.categories_])
        else:
            places = np.repeat(places, (outputs[name].stop - outputs[name].start) // len(places))
        origins[outputs[name]] = places
    return origins


def _estimate_row(final: Any, signature: Signature) -> float:
    """Return about how many microseconds a row takes to score, measured with scikit-learn 1.9."""
    cost = 0.3 + 0.002 * len(signature.inputs)
    if signature.text_names:
        cost += 100
    if hasattr(final, "n_trees_per_iteration_"):  # histogram boosting
        cost += 0.03 * final.n_iter_ * final.n_trees_per_iteration_
    elif hasattr(final, "support_vectors_"):
        cost += 0.02 * len(final.support_vectors_)
    elif hasattr(final, "n_samples_fit_"):  # neighbours
        cost += 7 + 0.001 * final.n_samples_fit_
    elif hasattr(final, "theta_"):  # naive Bayes
        cost += 0.005 * final.theta_.size
    elif hasattr(final, "coefs_"):  # a network
        cost += 0.0003 * sum(layer.size for layer in final.coefs_)
    return cost


def _list_places(rows: Dataset, signature: Signature) -> list[tuple[Any, slice]]:
    """Return where each column's values stand: in which array, and in which of its columns."""
    found: list[tuple[Any, slice]] = []
    n_texts = 0
    for column, place in zip(signature.columns, signature.places, strict=True):
        if column.kind == "text":
            found.append((rows.texts, slice(n_texts, n_texts + 1)))
            n_texts += 1
        else:
            found.append((rows.X, place))
    return found


def _judge(scorer: Scorer, rows: Dataset) -> float:
    """Return R² of predictions, or the share of right labels; NaN where it is undefined.

    scikit-learn's own take 0.3 ms for each call.
    """
    y: Any = rows.y
    try:
        with np.errstate(all="ignore"):
            scores = scorer(rows.X) if rows.texts is None else scorer(rows.X, rows.texts)
            if scores.are_labels:
                return float(np.mean(scores.values == y))
            return float(1 - np.square(y - scores.values).sum() / np.square(y - y.mean()).sum())
    except ValueError:  # values that were together in no row may overflow
        return np.nan
