"""The JSON of searches: what to try, and what to judge it by."""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.metrics import METRICS
from webapp.ml.core.search import MOST_CANDIDATES, SearchSpec
from webapp.ml.core.training import MOST_FOLDS, TrainingSpec
from webapp.ml.schemas import about
from webapp.ml.training.schemas import TableTrainingOptions, TrainingOptions, TrainingRows
from webapp.web.fields import JSONInteger

OWN = ("grid", "distributions", "iterations", "cv", "metric")


def space_field(text: str, *, values: dict[str, Any], example: Any) -> fields.Field[Any]:
    """Return the field of a grid or of distributions; the core checks their values."""
    space = {"type": "object", "minProperties": 1, "additionalProperties": values}
    several = {"type": "array", "items": space, "minItems": 1}
    allowed = {"type": ["object", "array"], "anyOf": [space, several, {"type": "null"}]}
    return fields.Raw(
        load_default=None, allow_none=True, metadata=about(text, example=example, **allowed)
    )


class SearchOptions(TrainingOptions):
    """What to try, and how to judge and train it."""

    metric_is_of_gate = False

    estimator = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf([*CATALOGUE]),
        metadata=about("Whose parameters to search; where not given, as in a training."),
    )
    grid = space_field(
        "Values by parameter: all their combinations are tried. Or a list of such objects, each "
        "with parameters that go together.",
        values={"type": "array", "minItems": 1},
        example={"alpha": [0.1, 1, 10]},
    )
    distributions = space_field(
        "Instead of a grid: lists of values, and ranges, by parameter, of which `iterations` "
        "candidates are drawn. A range is `low` and `high`, `log` for an even spread of the "
        "logarithms, and `integer`.",
        values={"type": ["array", "object"]},
        example={"alpha": {"low": 0.1, "high": 10, "log": True}},
    )
    iterations = JSONInteger(
        minimum=1,
        maximum=MOST_CANDIDATES,
        load_default=SearchSpec.iterations,
        metadata=about("How many candidates to draw of the distributions."),
    )
    cv = JSONInteger(
        minimum=2,
        maximum=MOST_FOLDS,
        load_default=SearchSpec.cv,
        metadata=about("Folds of the rows to fit, the same for all candidates."),
    )
    metric = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf([name for names in METRICS.values() for name in names]),
        metadata=about(
            "What ranks the candidates, and what `activate=if_better` compares; where not given, "
            "r2_score or accuracy."
        ),
    )
    time_budget = JSONInteger(
        minimum=1,
        maximum=3600,
        load_default=60,
        metadata=about("Seconds after which no further candidate is tried."),
    )


class TableSearchOptions(SearchOptions, TableTrainingOptions):
    """How to search on a table."""


class SearchRequest(SearchOptions, TrainingRows):
    """Rows to learn from, as of a training, and what to try."""

    table_options = TableSearchOptions

    def make_arguments(self, options: dict[str, Any], **rows: Any) -> dict[str, Any]:
        """Return what ``search.service.order_search`` takes."""
        own, activate = {name: options.pop(name) for name in OWN}, options.pop("activate")
        spec = SearchSpec(TrainingSpec(**options), **own)
        return {**rows, "spec": spec, "activate": activate}
