"""Routes of training, and of what helps to try it: the catalogue and sample data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flask import current_app
from flask.views import MethodView

from webapp.jobs.models import Job
from webapp.ml.blueprint import Answer, BeforeCommit, blp, creates_version, do, holder_id
from webapp.ml.core import sample_data
from webapp.ml.core.estimators import ESTIMATORS, describe_estimator
from webapp.ml.core.inspection import Inspection, inspect_columns
from webapp.ml.core.metrics import digest_dataset
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.service import DEFAULT_MODEL
from webapp.ml.training import schemas, service
from webapp.scopes import ANY_ML, Scope

EXAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}
RECORDS_EXAMPLE = {
    "data": [{"sex": "female", "age": 29, "survived": True}, {"sex": "male", "age": None}],
    "target": "survived",
}
DEFAULTS = {"name": DEFAULT_MODEL}


@blp.route("/sample-data", get="make_sample_data")
@blp.allow(*ANY_ML)
@blp.arguments(schemas.SampleDataQuery, location="query")
@blp.response(200, schemas.SampleDataSchema)
def make_sample_data(query: Mapping[str, Any]) -> Answer:
    """Make sample data.

    Seeded rows of `y = 2*x1 + 3*x2 - x3 + noise`, ready to be sent to `/ml/train`.
    """
    dataset = sample_data.make_sample_data(**query)
    return {"X": dataset.X, "y": dataset.y, "description": sample_data.DESCRIPTION}


@blp.route("/estimators", get="list_estimators")
@blp.allow(*ANY_ML)
@blp.response(200, schemas.EstimatorSchema(many=True))
def list_estimators() -> Sequence[Answer]:
    """List the estimators that can be trained, and their parameters."""
    return [describe_estimator(row) for row in ESTIMATORS.values()]


@blp.route("/inspect", post="inspect_table")
class Inspect(MethodView):
    """A look at a table before a training."""

    @blp.allow(Scope.ML_TRAIN)
    @blp.arguments(schemas.InspectionRequest, location="rows", example=RECORDS_EXAMPLE)
    @blp.response(200, schemas.InspectionSchema)
    def post(self, request: Mapping[str, Any]) -> Inspection:
        """Inspect a table.

        Says of each column which kind of values it has, how many are missing or different, and
        what looks wrong; nothing is trained or stored. The body is a table (CSV, Parquet or
        Arrow), a form with such a `file`, or JSON records.
        """
        return inspect_columns(request["columns"], target=request["target"])


def _describe(request: Mapping[str, Any]) -> Answer:
    """Return what tells one training from another, whichever format its rows come in."""
    described = asdict(request["spec"])
    described["activate"] = request.get("metric") or request["activate"]
    if "files" in request:  # which are not read before they are trained on
        return {**described, "files": asdict(request["files"])}
    return {**described, "dataset": digest_dataset(request["dataset"])}


@blp.route("/train", endpoint="TrainDefault", defaults=DEFAULTS, post="train_default_model")
@blp.route("/models/<name:name>/train", post="train_model")
class Train(MethodView):
    """Training of a model."""

    @blp.allow(Scope.ML_TRAIN)
    @blp.arguments(schemas.TrainingRequest, location="rows", example=EXAMPLE)
    @creates_version("Model trained successfully", describe=_describe)
    def post(
        self, request: dict[str, Any], name: str, before_commit: BeforeCommit
    ) -> ModelVersion | Job:
        """Train a model.

        Every training is a new version; the first one creates the model. When the answer
        arrives, every worker on every host predicts with it. With fewer than 10 rows, or a
        hold-out of one, the metrics are of the training rows, and `evaluated_on` says so.

        With `Prefer: respond-async`, the answer comes at once, with the URL of the job that
        trains. Without it the request waits for the same job; if its client hangs up, the job is
        cancelled.

        Instead of JSON, the body may be a table with a header (CSV, Parquet or an Arrow stream),
        or a form with such a `file`. The other fields are then query parameters, and `target`
        names the column to predict.

        With `source`, the rows are in files below the operator's data folder. Least squares and
        ridge read them in parts; `xgboost…` and `lightgbm…` spread them over the workers of a
        Dask cluster; any other estimator takes them into memory, as far as allowed.
        """
        if "files" in request:
            request["root"] = current_app.config["DATA_ROOT"]
            request["engine"] = current_app.config["TRAINING_ENGINE"]
            order = service.order_source_training(name=name, holder=holder_id(), **request)
        else:
            order = service.order_training(name=name, holder=holder_id(), **request)
        return do(order, before_commit=before_commit)
