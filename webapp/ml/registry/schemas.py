"""The JSON of models, versions and activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import marshmallow as ma
from marshmallow import fields, validate

from webapp.ml.core.estimators import DEFAULT_ESTIMATOR
from webapp.ml.core.formats import FORMATS
from webapp.ml.core.importances import MOST_COLUMNS
from webapp.ml.core.metrics import MOST_MATRIX_CLASSES
from webapp.ml.core.signature import Task, read_signature
from webapp.ml.core.training import MOST_COEFFICIENTS
from webapp.ml.registry.models import (
    MOST_SHARES,
    MOST_TAGS,
    TAG_KEY_LENGTH,
    TAG_VALUE_LENGTH,
    ModelVersion,
)
from webapp.ml.schemas import (
    NULLABLE,
    NUMBERS,
    ROWS,
    WarningSchema,
    about,
)
from webapp.web.fields import JSONInteger, StrictSchema, Text
from webapp.web.paging import PageQuery

SIGNATURE = {
    "columns": [
        {"name": "age", "kind": "number", "missing": True, "minimum": 0.4, "maximum": 80.0},
        {"name": "sex", "kind": "category", "missing": True, "categories": ["female", "male"]},
    ],
    "target": "survived",
    "task": "classification",
}
TEXT_LENGTH = 2000  # characters of a description or notes, which every listing shows
TAG_KEY = f"[a-z0-9._-]{{1,{TAG_KEY_LENGTH}}}"
TAG = rf"{TAG_KEY}:[^\x00-\x1f\x7f-\x9f]{{0,{TAG_VALUE_LENGTH}}}"
# A name of a metric ends up in a JSON path of SQLite, which has no way to write a quote.
SORT = r"-?(version|created_at|metrics\.[ !#-\[\]-~]{1,100})"
ESTIMATOR = "[A-Za-z_][A-Za-z0-9_]{0,63}"
MOST_COMPARED = 10
NUMBER = "[1-9][0-9]{0,8}"
COMPARED = f"{NUMBER}(,{NUMBER}){{1,{MOST_COMPARED - 1}}}"
NOT_COMPARED = ("name", "version", "coefficients", "importances", "profile", "warnings")
TAGS_EXAMPLE = {"team": "pricing", "stage": "candidate"}


def matches(pattern: str, error: str) -> dict[str, Any]:
    """Return the arguments of a field that takes only text which matches a pattern as a whole."""
    return {"validate": validate.Regexp(rf"(?:{pattern})\Z", error=error)}


def tags_field() -> fields.Field[Any]:
    """Return the field that shows tags."""
    return fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=about("Values by key.", example=TAGS_EXAMPLE),
    )


def tag_changes() -> fields.Field[Any]:
    """Return the field that changes tags."""
    error = f"Must be 1 to {TAG_KEY_LENGTH} of the characters a-z, 0-9, '.', '_' and '-'."
    return fields.Dict(
        keys=fields.String(**matches(TAG_KEY, error)),
        values=Text(max_length=TAG_VALUE_LENGTH, allow_none=True),
        metadata=about(
            f"Tags to set, by key: `{TAG_KEY}`, at most {MOST_TAGS} in all. null removes a tag; "
            "those that are not sent stay."
        ),
    )


def tag_filter() -> fields.Field[Any]:
    """Return the query parameter that selects by a tag."""
    error = "Must be of the form key:value."
    more = {"pattern": f"^{TAG}$", "example": "team:pricing"}
    return fields.String(
        **matches(TAG, error), metadata=about("Only those with this tag: `key:value`.", **more)
    )


class VersionSummarySchema(StrictSchema):
    """A version of a model in a listing: without what grows with its features or classes.

    What is not known of a model that was fitted elsewhere is null.
    """

    name = fields.String(required=True, attribute="model.name", metadata={"example": "default"})
    version = fields.Integer(required=True, attribute="number", metadata={"example": 1})
    origin = fields.String(
        required=True,
        validate=validate.OneOf(["trained", "uploaded"]),
        metadata=about("Whether it was fitted here or elsewhere."),
    )
    task = fields.String(required=True, validate=validate.OneOf(get_args(Task)))
    estimator = fields.String(required=True, metadata={"example": DEFAULT_ESTIMATOR})
    model_type = fields.String(required=True, metadata={"example": "LinearRegression"})
    params = fields.Dict(required=True, metadata={"example": {"fit_intercept": True}})
    scale = fields.Boolean(
        required=True, metadata=about("Whether features are standardised first.")
    )
    metrics = fields.Dict(
        required=True,
        attribute="single_metrics",
        metadata=about(
            "Metrics that are one number; null where undefined for these rows.",
            example={"accuracy": 0.96, "balanced_accuracy": 0.95, "f1": 0.95, "roc_auc": 0.99},
        ),
    )
    evaluated_on = fields.String(
        **NULLABLE,
        validate=validate.OneOf(["hold-out", "training"]),
        metadata=about("The rows that the metrics were computed on."),
    )
    n_train = fields.Integer(**NULLABLE, metadata=about("Rows fitted for the metrics."))
    n_test = fields.Integer(**NULLABLE, metadata=about("Rows held out."))
    test_size = fields.Float(**NULLABLE)
    random_state = fields.Integer(**NULLABLE)
    refit = fields.Boolean(**NULLABLE)
    stratify = fields.Boolean(
        **NULLABLE, metadata=about("Whether each class was to be held out in its share.")
    )
    converged = fields.Boolean(
        **NULLABLE,
        metadata=about(
            "Whether an iterative solver converged before max_iter; null where there is none, as "
            "in boosting."
        ),
    )
    fit_seconds = fields.Float(**NULLABLE)
    data_digest = fields.String(
        **NULLABLE, metadata=about("SHA-256 of names and rows, whichever format they came in.")
    )
    warnings = fields.List(
        fields.Nested(WarningSchema),
        required=True,
        metadata=about("What was left out of the training data or converted, or looks wrong."),
    )
    libraries = fields.Dict(required=True, metadata={"example": {"scikit-learn": "1.9.1"}})
    format = fields.String(
        required=True,
        validate=validate.OneOf([*FORMATS]),
        metadata=about("The format of the artifact."),
    )
    digest = fields.String(
        required=True, attribute="artifact_digest", metadata=about("SHA-256 of the artifact.")
    )
    created_at = fields.AwareDateTime(required=True, format="iso")
    created_by = fields.String(**NULLABLE)
    source = fields.String(
        **NULLABLE,
        metadata=about(
            "Name of the file that its rows, or the model, came in; null where it had none.",
            example="june.csv",
        ),
    )
    notes = fields.String(required=True, metadata=about("What people have noted about it."))
    tags = tags_field()
    aliases = fields.List(
        fields.String(), required=True, metadata=about("Its names.", example=["champion"])
    )


class ImportancesSchema(StrictSchema):
    """How much each column matters to a model."""

    method = fields.String(
        required=True,
        validate=validate.OneOf(["impurity", "gain", "permutation"]),
        metadata=about(
            "`impurity` and `gain`: what the splits of the trees by a column have gained, as a "
            "share of 1. `permutation`: how far the metric on held-out rows falls when the values "
            "of a column change places.",
            example="permutation",
        ),
    )
    metric = fields.String(
        **NULLABLE,
        validate=validate.OneOf(["r2_score", "accuracy"]),
        metadata=about("Of permutations.", example="r2_score"),
    )
    rows = fields.Integer(**NULLABLE, metadata=about("Held-out rows, permuted.", example=20))
    repeats = fields.Integer(
        **NULLABLE,
        metadata=about("Permutations of each column, fewer of a slow model.", example=5),
    )
    not_measured = fields.Integer(
        required=True,
        metadata=about("Columns that there was no time to permute, or undefined.", example=0),
    )
    values = fields.Dict(
        keys=fields.String(),
        values=fields.Float(),
        required=True,
        metadata=about(
            f"By column, the largest first: the {MOST_COLUMNS} largest.",
            example={"x2": 1.16, "x1": 0.53, "x3": 0.12},
        ),
    )
    std = fields.Dict(
        keys=fields.String(),
        values=fields.Float(),
        **NULLABLE,
        metadata=about(
            "Of permutations, by column, where there are several.",
            example={"x2": 0.29, "x1": 0.14, "x3": 0.05},
        ),
    )


class VersionSchema(VersionSummarySchema):
    """A version of a model: how it was made, and how good it is.

    Only notes, tags and aliases ever change.

    What is not known of a model that was fitted elsewhere is null.
    """

    feature_names = fields.List(fields.String(), required=True)
    signature = fields.Function(
        lambda version: read_signature(version).to_json(),
        required=True,
        metadata=about(
            "What a row is: columns with name, kind (number, boolean, category, datetime or "
            "text), whether a value may be missing, and categories or range.",
            type="object",
            example=SIGNATURE,
        ),
    )
    classes = fields.List(
        fields.Raw(),
        **NULLABLE,
        metadata=about("The labels of a classification; null for a regression."),
    )
    metrics = fields.Dict(
        required=True,
        metadata=about(
            "Of a regression `mse`, `rmse`, `mae`, `r2_score`, `mape` (a share) and "
            "`median_absolute_error`; of a classification `accuracy`, `balanced_accuracy`, "
            "`precision`, `recall`, `f1`, `roc_auc`, `average_precision`, `log_loss`, "
            "`brier_score`, `confusion_matrix` and `by_class`. `baseline` is what the mean of the "
            "fitted rows would reach, or their most frequent class. A metric that is undefined "
            "for these rows is null, and so are `confusion_matrix` and `by_class` of more than "
            f"{MOST_MATRIX_CLASSES} classes.",
            example={
                "mse": 0.0048,
                "rmse": 0.0696,
                "mae": 0.0593,
                "r2_score": 0.9996,
                "mape": 0.094,
                "median_absolute_error": 0.0639,
                "baseline": {"mse": 13.8, "mae": 3.0, "r2_score": -0.097},
            },
        ),
    )
    coefficients = fields.Dict(
        **NULLABLE,
        metadata=about(
            "Intercept, and coefficient by feature name, of a linear model, in units of the "
            "unscaled features; of a classification by class. null for other models, and where "
            f"there are more than {MOST_COEFFICIENTS}: `…/coefficients` has those.",
            example={"intercept": 0.01, "coefficients": {"x1": 2.0, "x2": 3.0, "x3": -1.0}},
        ),
    )
    importances = fields.Nested(
        ImportancesSchema,
        **NULLABLE,
        metadata=about(
            "null where no rows were held out to permute, there are more than "
            f"{MOST_COLUMNS} columns to permute or the metric is undefined, and of an upload that "
            "has none of its own."
        ),
    )
    profile = fields.Dict(
        **NULLABLE,
        metadata=about("Mean, spread, minimum and maximum of each feature in training."),
    )


class JudgementSchema(StrictSchema):
    """A new version and the active one, on the same rows."""

    metric = fields.String(required=True, metadata={"example": "rmse"})
    candidate = fields.Float(**NULLABLE, metadata=about("Of the new version.", example=41.2))
    active = fields.Float(
        **NULLABLE, metadata=about("Of the active one; null where they were not compared.")
    )
    version = fields.Integer(
        **NULLABLE, metadata=about("Which was active; null where none was.", example=3)
    )
    better = fields.Boolean(required=True, metadata=about("Whether the new version is."))


class NewVersionSchema(StrictSchema):
    """The version that a training or an upload made."""

    message = fields.String(required=True, metadata={"example": "Model trained successfully"})
    metrics = fields.Dict(required=True)
    warnings = fields.List(fields.Nested(WarningSchema), required=True)
    comparison = fields.Nested(
        JudgementSchema, metadata=about("With `activate=if_better`: what was compared.")
    )
    model = fields.Nested(VersionSchema, required=True)


class ComparisonQuery(StrictSchema):
    """Which versions to compare."""

    versions = fields.String(
        required=True,
        **matches(COMPARED, f"Must be 2 to {MOST_COMPARED} numbers of versions, such as 1,2."),
        metadata=about(
            f"Numbers of 2 to {MOST_COMPARED} versions, with commas between.",
            example="1,2",
            pattern=f"^{COMPARED}$",
        ),
    )

    @ma.post_load
    def split(self, data: dict[str, str], **_: Any) -> dict[str, Any]:
        """Return the numbers."""
        numbers = list(map(int, data["versions"].split(",")))
        if len(set(numbers)) < len(numbers):
            raise ma.ValidationError("Must be different versions.", "versions")
        return {"numbers": numbers}


class ComparisonSchema(StrictSchema):
    """What versions have in common, and in what they differ."""

    name = fields.String(required=True, metadata={"example": "houses"})
    versions = fields.List(fields.Integer(), required=True, metadata={"example": [1, 2]})
    same = fields.Dict(
        required=True,
        metadata=about("What all have alike.", example={"estimator": "ridge", "n_train": 80}),
    )
    differs = fields.Dict(
        required=True,
        metadata=about(
            "What they differ in: a value for each version, null where it has none.",
            example={"params.alpha": [1.0, 0.1], "metrics.r2_score": [0.91, 0.93]},
        ),
    )


def compare(versions: Sequence[ModelVersion]) -> dict[str, Any]:
    """Return what ``ComparisonSchema`` shows of versions of a model."""
    rows = []
    for shown in VersionSchema(many=True, exclude=NOT_COMPARED).dump(versions):
        columns = shown["signature"].pop("columns")
        shown["signature"] |= {column.pop("name"): column for column in columns}
        single = {k: v for k, v in shown["metrics"].items() if not isinstance(v, dict | list)}
        rows.append(dict(_flatten({**shown, "metrics": single})))
    same, differs = {}, {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key, ma.missing) for row in rows]
        if all(value == values[0] for value in values):
            same[key] = values[0]
        else:
            differs[key] = [None if value is ma.missing else value for value in values]
    numbers = [version.number for version in versions]
    return {"name": versions[0].model.name, "versions": numbers, "same": same, "differs": differs}


def _flatten(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested objects, with their keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{place}{key}.")
        else:
            yield place + key, value


class CoefficientsSchema(StrictSchema):
    """All coefficients of a linear model, in units of the unscaled features."""

    feature_names = fields.List(fields.String(), required=True)
    classes = fields.List(
        fields.Raw(),
        **NULLABLE,
        metadata=about(
            "The class of each row of `coefficients`: of two classes only the second, whose "
            "log-odds they add up to; null for a regression."
        ),
    )
    intercepts = fields.Raw(
        required=True,
        metadata=about("One for each row of `coefficients`.", example=[0], **NUMBERS),
    )
    coefficients = fields.Raw(
        required=True,
        metadata=about(
            "One row per class, or one for a regression; a column per feature.",
            example=[[2.0, 3.0, -1.0]],
            **ROWS,
        ),
    )


class ModelInfoSchema(StrictSchema):
    """The active version of the default model, or that there is none yet."""

    trained = fields.Boolean(required=True)
    model_type = fields.String(**NULLABLE, metadata={"example": "LinearRegression"})
    metrics = fields.Dict(required=True)
    model = fields.Nested(
        VersionSchema, metadata=about("The active version; absent while untrained.")
    )


class TrafficSchema(StrictSchema):
    """Which versions answer the requests that name none."""

    shares = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata=about("Percents by number of the version.", example={"1": 90, "2": 10}),
    )
    shadow = fields.Integer(
        **NULLABLE, metadata=about("The version that predicts too, and answers nothing.")
    )


class ModelSchema(StrictSchema):
    """A model and its active version."""

    name = fields.String(required=True, metadata={"example": "default"})
    active_version = fields.Integer(
        **NULLABLE,
        attribute="active.version_number",
        dump_default=None,
        metadata=about("null while no version is active.", example=1),
    )
    last_version = fields.Integer(
        required=True, metadata=about("The highest version number so far.", example=1)
    )
    created_at = fields.AwareDateTime(required=True, format="iso")
    description = fields.String(required=True, metadata={"example": "Prices of houses"})
    tags = tags_field()
    aliases = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata=about("Names of versions, and which each names.", example={"champion": 1}),
    )
    traffic = fields.Nested(TrafficSchema, required=True)


class TrafficRequest(StrictSchema):
    """Which versions share the requests that name none, and which one is their shadow."""

    shares = fields.Dict(
        keys=fields.String(**matches(NUMBER, "Must be the number of a version.")),
        values=JSONInteger(minimum=1, maximum=100),
        required=True,
        validate=validate.Length(1, MOST_SHARES),
        metadata=about(
            f"Percents by number of the version, 100 in all; at most {MOST_SHARES} versions.",
            propertyNames={"pattern": f"^{NUMBER}$"},
            minProperties=1,
            maxProperties=MOST_SHARES,
        ),
    )
    shadow = JSONInteger(
        minimum=1,
        maximum=2**31 - 1,
        load_default=None,
        allow_none=True,
        metadata=about("A version without a share that predicts too, and answers nothing."),
    )

    @ma.post_load
    def check_shares(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the shares by number; raises ValidationError unless they make a whole."""
        shares = {int(number): percent for number, percent in data["shares"].items()}
        if sum(shares.values()) != 100:
            message = f"Must add up to 100, and not to {sum(shares.values())}."
            raise ma.ValidationError(message, "shares")
        if data["shadow"] in shares:
            raise ma.ValidationError("Must be a version without a share.", "shadow")
        return {"shares": shares, "shadow": data["shadow"]}


class ModelQuery(PageQuery):
    """Which models to list."""

    q = Text(
        max_length=255,
        load_default="",
        metadata=about(
            "Only models whose name or description contains this text, letter for letter: no "
            "wildcards, case counts."
        ),
    )
    tag = tag_filter()


class VersionQuery(PageQuery):
    """Which versions of a model to list, and in which order."""

    tag = tag_filter()
    estimator = fields.String(
        **matches(ESTIMATOR, "Must be the name of an estimator."),
        metadata=about(
            "Only those of this estimator, of the catalogue or not.",
            pattern=f"^{ESTIMATOR}$",
            example="ridge",
        ),
    )
    sort = fields.String(
        load_default="-version",
        **matches(SORT, "Must be version, created_at or metrics.NAME, with or without - before."),
        metadata=about(
            "Order: `version`, `created_at` or `metrics.NAME`, such as `-metrics.r2_score`; a "
            "leading `-` reverses it. Versions without that metric come last.",
            pattern=f"^({SORT})$",
        ),
    )


class ModelChanges(StrictSchema):
    """What to change of a model; what is not sent stays."""

    description = Text(max_length=TEXT_LENGTH, multiline=True)
    tags = tag_changes()


class VersionChanges(StrictSchema):
    """What to change of a version; what is not sent stays."""

    notes = Text(max_length=TEXT_LENGTH, multiline=True)
    tags = tag_changes()


class ModelDeletion(StrictSchema):
    """Whether the versions of a model are deleted with it."""

    versions = fields.String(
        validate=validate.OneOf(["all"]),
        metadata=about("`all` deletes all versions too; needed where there are any."),
    )


class ActivationRequest(StrictSchema):
    """Which version to activate, or to give an alias."""

    version = JSONInteger(minimum=1, maximum=2**31 - 1, required=True, metadata={"example": 1})


class ActivationSchema(StrictSchema):
    """A version's time as the active one."""

    version = fields.Integer(required=True, attribute="version_number", metadata={"example": 2})
    previous_version = fields.Integer(
        **NULLABLE,
        attribute="previous_number",
        metadata=about("The version that was active until then.", example=1),
    )
    reason = fields.String(
        required=True, validate=validate.OneOf(["train", "upload", "activate", "rollback"])
    )
    activated_at = fields.AwareDateTime(required=True, format="iso")
    activated_by = fields.String(**NULLABLE)
    ended_at = fields.AwareDateTime(**NULLABLE, format="iso", metadata=about("null while active."))
