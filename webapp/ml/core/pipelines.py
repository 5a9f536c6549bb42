"""The fastest scorer of a pipeline that ``preprocessing`` built: encoded rows → scores.

A category becomes its row of a table by one look-up; a linear model's weights are folded into
the tables. What has no faster form calls the pipeline itself, with a data frame.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.ml.core.datasets import Matrix, Texts, Vector
from webapp.ml.core.estimators import is_classifier
from webapp.ml.core.leaf_masks import make_leaf_masks
from webapp.ml.core.preprocessing import ESTIMATOR, PREPARE, make_frame
from webapp.ml.core.scoring import (
    Scorer,
    Scores,
    compile_scorer,
    find_linear_functions,
    finish_boosting,
    score_by_estimator,
    sum_trees,
)
from webapp.ml.core.signature import Signature
from webapp.ml.core.validation import MALFORMED, PROBE_ROWS, agree
from webapp.ml.errors import ArtifactUnusable

log = logging.getLogger(__name__)

BLOCK_ROWS = 2**14
FEW_QUESTIONS = 32  # features; each takes 0.1 ms for 1,000 rows and 100 trees
MISSING_SHARE = 0.1  # of the values that a pipeline is tried with


@dataclass(frozen=True)
class CodedColumns:
    """What the categories of some columns become, for all columns in one table.

    inputs: (n_columns,) places among the inputs; sizes: (n_columns,) numbers of categories;
    starts: (n_columns,) rows of the table where a column's begin: a row for each category, then
    one for a missing value, and one for a value that training did not have.
    """

    inputs: NDArray[np.intp]
    sizes: Vector
    starts: Vector
    table: Matrix

    def find_rows(self, X: Matrix) -> NDArray[np.intp]:
        """Return the row of the table for each column: (n_rows, n_columns)."""
        codes = X[:, self.inputs]
        codes = np.where(np.isnan(codes), self.sizes, codes)
        codes = np.where(codes < 0, self.sizes + 1, codes)
        rows: NDArray[np.intp] = (codes + self.starts).astype(np.intp)
        return rows


@dataclass(frozen=True)
class Numbers:
    """What numbers become: imputed, with indicators of what was missing, and standardised.

    inputs: (n_numbers,) places among the inputs; fill: (n_numbers,), None where missing values
    stay; indicated: places among the numbers; mean, scale: (n_outputs,) or None.
    """

    inputs: NDArray[np.intp]
    fill: Vector | None = None
    indicated: NDArray[np.intp] | None = None
    mean: Vector | None = None
    scale: Vector | None = None

    def transform(self, X: Matrix) -> Matrix:
        """Return the numbers: (n_rows, n_outputs)."""
        values: Matrix = X[:, self.inputs]
        if self.fill is None:
            return values
        missing = np.isnan(values)
        values = np.where(missing, self.fill, values)
        if self.indicated is not None:
            values = np.concatenate([values, missing[:, self.indicated]], axis=1)
        if self.mean is not None and self.scale is not None:
            values = (values - self.mean) / self.scale
        return values

    def unfold(self, weights: Matrix) -> tuple[Matrix, Matrix, Vector]:
        """Return weights of the raw numbers, of missing ones, and what is left for an intercept.

        weights: (n_outputs, n_functions) of what ``transform`` returns.
        """
        shift = np.zeros(weights.shape[1])
        if self.mean is not None and self.scale is not None:
            weights = weights / self.scale[:, np.newaxis]
            shift = -(self.mean @ weights)
        n_numbers = len(self.inputs)
        of_numbers = weights[:n_numbers]
        fill = np.zeros(n_numbers) if self.fill is None else self.fill
        of_missing = fill[:, np.newaxis] * of_numbers
        if self.indicated is not None:
            of_missing[self.indicated] += weights[n_numbers:]
        return of_numbers, of_missing, shift


def make_typed_scorer(pipeline: Any, signature: Signature) -> Scorer:
    """Return a scorer for a fitted pipeline; nothing is checked here."""
    compiled = None if signature.text_names else _compile(pipeline, signature)
    return compiled or partial(score_in_blocks, partial(score_by_pipeline, pipeline, signature))


def score_in_blocks(scorer: Scorer, *columns: Any) -> Scores:
    """Return the scores of rows, some at a time: one-hot, they take up to 30 times the memory."""
    n_rows = len(columns[0])
    if n_rows <= BLOCK_ROWS:
        return scorer(*columns)
    blocks = [
        scorer(*(column[start : start + BLOCK_ROWS] for column in columns))
        for start in range(0, n_rows, BLOCK_ROWS)
    ]
    values = np.concatenate([block.values for block in blocks])
    first = blocks[0]
    further: dict[str, Any] = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("probabilities", "decision")
        if getattr(first, name) is not None
    }
    return replace(first, values=values, **further)


def make_checked_scorer(pipeline: Any, signature: Signature) -> Scorer:
    """Return the fastest scorer of a fitted pipeline that gives the pipeline's own predictions.

    Raises ArtifactUnusable where the pipeline itself cannot predict.
    """
    X, texts = _draw_rows(signature)
    try:
        with np.errstate(all="ignore"):
            expected = score_by_pipeline(pipeline, signature, X, texts)
    except MALFORMED as error:
        raise ArtifactUnusable(f"its own predict fails with {type(error).__name__}") from None
    try:
        scorer = make_typed_scorer(pipeline, signature)
        with np.errstate(all="ignore"):
            sizes = [1, 5, PROBE_ROWS]
            rows = [(X[:n],) if texts is None else (X[:n], texts[:n]) for n in sizes]
            if all(agree(scorer(*row), expected, len(row[0])) for row in rows):
                return scorer
    except MALFORMED:
        pass
    kind = type(pipeline.named_steps[ESTIMATOR]).__name__
    log.warning("A compiled %s differs from its own predict, which serves instead.", kind)
    return partial(score_by_pipeline, pipeline, signature)


def _draw_rows(signature: Signature) -> tuple[Matrix, Texts | None]:
    """Return encoded rows to try a pipeline on: known, missing and unseen values."""
    random = np.random.RandomState(0)
    X = random.standard_normal((PROBE_ROWS, len(signature.inputs)))
    for column, place in zip(signature.columns, signature.places, strict=True):
        if column.kind == "category":
            codes = random.randint(-1, len(column.categories), PROBE_ROWS)
            X[:, place] = codes[:, np.newaxis]
        elif column.minimum is not None and column.maximum is not None:
            share = random.random_sample(PROBE_ROWS)
            X[:, place.start] = column.minimum * (1 - share) + column.maximum * share
    X[random.random_sample(X.shape) < MISSING_SHARE] = np.nan
    n_texts = len(signature.text_names)
    words = np.array(["", "a few words", "more"], dtype=object)
    return X, random.choice(words, (PROBE_ROWS, n_texts)) if n_texts else None


def score_by_pipeline(
    pipeline: Any, signature: Signature, X: Matrix, texts: Texts | None = None
) -> Scores:
    """Return what the pipeline itself says of encoded rows."""
    return score_by_estimator(pipeline, make_frame(signature, X, texts))


def describe_linear(
    pipeline: Any, signature: Signature
) -> tuple[list[str], Matrix, Vector] | None:
    """Return names, coefficients and intercepts of a linear model; None for another.

    They are of the raw columns: a number, ``name=category`` for each category, and
    ``name=missing``. coefficients: (n_functions, n_names); intercepts: (n_functions,).
    """
    functions = find_linear_functions(pipeline.named_steps[ESTIMATOR])
    if functions is None or signature.text_names:
        return None
    model = _fold(pipeline, signature, *functions)
    names, columns, intercepts = [], [], model.intercepts
    if model.numbers is not None:
        weights, of_missing, shift = model.numbers.unfold(model.weights)
        intercepts = intercepts + shift
        for place, weight, missing in zip(model.numbers.inputs, weights, of_missing, strict=True):
            name = signature.inputs[place]
            names += [name, f"{name}=missing"]
            columns += [weight, missing]
    if model.coded is not None:
        known = {
            place.start: column
            for place, column in zip(signature.places, signature.columns, strict=True)
        }
        for place, start in zip(model.coded.inputs, model.coded.starts, strict=True):
            column = known[place]
            values = [*map(_show, column.categories), "missing"]
            names += [f"{column.name}={value}" for value in values]
            columns += list(model.coded.table[int(start) : int(start) + len(values)])
    return names, np.array(columns).T, intercepts


def _show(category: Any) -> str:
    whole = isinstance(category, float) and category.is_integer()
    return str(int(category) if whole else category)


def _read_parts(pipeline: Any, signature: Signature) -> tuple[list[Any], Numbers | None]:
    """Return the coded columns of each encoder, in order, and the numbers."""
    places = {name: number for number, name in enumerate(signature.inputs)}
    sizes = {column.name: len(column.categories) for column in signature.columns}
    coded, numbers = [], None
    for name, fitted, names in pipeline.named_steps[PREPARE].transformers_:
        inputs = np.array([places[one] for one in names], dtype=np.intp)
        if name == "numbers":
            numbers = _read_numbers(fitted, inputs)
        elif name != "remainder":
            coded.append((inputs, _tabulate(fitted, signature, names), [sizes[n] for n in names]))
    return coded, numbers


def _read_numbers(fitted: Any, inputs: NDArray[np.intp]) -> Numbers:
    steps = getattr(fitted, "named_steps", {"impute": fitted})
    imputer, scaler = steps["impute"], steps.get("scale")
    if not hasattr(imputer, "statistics_"):  # numbers are passed through
        return Numbers(inputs)
    indicator = imputer.indicator_
    return Numbers(
        inputs,
        np.nan_to_num(imputer.statistics_),
        indicator.features_ if len(indicator.features_) else None,
        None if scaler is None else scaler.mean_,
        None if scaler is None else scaler.scale_,
    )


def _tabulate(encoder: Any, signature: Signature, names: list[str]) -> list[Matrix]:
    """Return what an encoder makes of each category, a missing and an unseen value, by column.

    Each is (n_categories + 2, n_outputs of the column).
    """
    columns = [column for column in signature.columns if column.name in set(names)]
    part = Signature(tuple(columns), signature.task)
    longest = max(len(column.categories) for column in columns) + 2
    codes = np.zeros((longest, len(columns)))
    for number, column in enumerate(columns):
        size = len(column.categories)
        codes[:size, number] = np.arange(size)
        codes[size, number], codes[size + 1, number] = np.nan, -1
    encoded = np.asarray(encoder.transform(make_frame(part, codes, None)[names]), dtype=np.float64)
    if hasattr(encoder, "drop_idx_"):
        widths = [len(found) for found in encoder.categories_]
    else:
        widths = [encoded.shape[1] // len(names)] * len(names)
    by_name = {column.name: len(column.categories) + 2 for column in columns}
    blocks = np.split(encoded, np.cumsum(widths)[:-1], axis=1)
    return [block[: by_name[name]] for name, block in zip(names, blocks, strict=True)]


def _join(parts: list[Any]) -> CodedColumns | None:
    """Return coded columns, all of whose tables are equally wide, as one."""
    if not parts:
        return None
    inputs = np.concatenate([part[0] for part in parts])
    tables = [table for part in parts for table in part[1]]
    sizes = np.array([size for part in parts for size in part[2]], dtype=np.float64)
    starts = np.cumsum([0, *map(len, tables[:-1])]).astype(np.float64)
    return CodedColumns(inputs, sizes, starts, np.concatenate(tables))


@dataclass(frozen=True)
class _Folded:
    """A linear model: intercepts, rows of a table of folded weights, and weights of numbers.

    intercepts: (n_functions,); weights: (n_outputs of the numbers, n_functions).
    """

    intercepts: Vector
    coded: CodedColumns | None
    numbers: Numbers | None
    weights: Matrix

    def decide(self, X: Matrix) -> Matrix:
        """Return the values of the linear functions: (n_rows, n_functions)."""
        decisions = np.broadcast_to(self.intercepts, (len(X), len(self.intercepts)))
        if self.coded is not None:
            decisions = decisions + self.coded.table[self.coded.find_rows(X)].sum(axis=1)
        if self.numbers is not None:
            decisions = decisions + self.numbers.transform(X) @ self.weights
        return decisions


def _fold(
    pipeline: Any, signature: Signature, coefficients: Matrix, intercepts: Vector
) -> _Folded:
    """Return a linear model, (n_functions, n_outputs) and (n_functions,), of raw columns."""
    parts, numbers = _read_parts(pipeline, signature)
    done = 0
    folded = []
    for inputs, tables, sizes in parts:
        products = []
        for table in tables:
            products.append(table @ coefficients[:, done : done + table.shape[1]].T)
            done += table.shape[1]
        folded.append((inputs, products, sizes))
    return _Folded(intercepts, _join(folded), numbers, coefficients[:, done:].T)


def _compile(pipeline: Any, signature: Signature) -> Scorer | None:
    final = pipeline.named_steps[ESTIMATOR]
    functions = find_linear_functions(final)
    if functions is not None:
        folded = _fold(pipeline, signature, *functions)
        finish = compile_scorer(_on_decisions(final, len(functions[1])))
        return lambda X: finish(folded.decide(X))
    parts, numbers = _read_parts(pipeline, signature)
    native = hasattr(final, "is_categorical_")
    score = _compile_boosting(final) if native else compile_scorer(final)
    if score is None:
        return None
    columns = [
        part for inputs, tables, sizes in parts for part in zip(inputs, tables, sizes, strict=True)
    ]

    def transform(X: Matrix) -> Matrix:
        blocks = []
        for place, table, size in columns:
            codes = X[:, place]
            codes = np.where(np.isnan(codes), size, np.where(codes < 0, size + 1, codes))
            blocks.append(table[codes.astype(np.intp)])
        if numbers is not None:
            blocks.append(numbers.transform(X))
        return np.concatenate(blocks, axis=1)

    return partial(score_in_blocks, lambda X: score(transform(X)))


def _on_decisions(final: Any, n_functions: int) -> Any:
    """Return the linear model that takes the values of its own functions as its features."""
    import copy

    plain = copy.copy(final)
    plain.n_features_in_ = n_functions
    plain.coef_ = np.eye(n_functions)
    plain.intercept_ = np.zeros(n_functions)
    if np.ndim(final.coef_) == 1:
        plain.coef_, plain.intercept_ = plain.coef_[0], 0.0
    return plain


def _compile_boosting(model: Any) -> Scorer:
    """Return a scorer of histogram boosting for rows with gaps and codes of categories."""
    trees = [tree for iteration in model._predictors for tree in iteration]
    masks = make_leaf_masks(trees)
    baseline = model._baseline_prediction
    classes = model.classes_ if is_classifier(model) else None

    def score(Z: Matrix) -> Scores:
        if masks is not None and (len(masks.questions) <= FEW_QUESTIONS or len(Z) == 1):
            raw = sum_trees(baseline, masks, Z)
        else:  # _raw_predict would encode the categories anew: 2 of 10 ms for 1,000 rows
            raw = np.asfortranarray(np.tile(baseline, (len(Z), 1)))
            model._predict_iterations(Z, model._predictors, raw, False, 1)
        return finish_boosting(model, classes, raw)

    return score
