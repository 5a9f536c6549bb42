"""Routes of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import current_app
from flask.views import MethodView

from webapp.extensions import db
from webapp.ml.blueprint import Headers, blp
from webapp.ml.evaluation import schemas, service
from webapp.ml.evaluation.models import Evaluation
from webapp.scopes import ANY_ML, Scope
from webapp.web.paging import HEADERS, PageQuery, answer_page

EXAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [5, 16]}


@blp.route("/models/<name:name>/versions/<id:number>/evaluate", post="evaluate_version")
class Evaluate(MethodView):
    """Judging of a version."""

    @blp.allow(Scope.ML_TRAIN)
    @blp.arguments(schemas.EvaluationRequest, location="rows", example=EXAMPLE)
    @blp.response(200, schemas.EvaluationSchema)
    @blp.problems(404, 503)
    def post(self, request: Mapping[str, Any], name: str, number: int) -> Evaluation:
        """Evaluate a version on rows whose target is known.

        The body is JSON, a table (CSV, Parquet or Arrow) or a form with such a `file`, as at a
        training. The metrics are those that a training gives, and are kept with the digest of
        the rows. Rows without a target are left out. Predictions for labels that the version
        does not know count as wrong, and the metrics of its probabilities are then null.
        """
        server = current_app.extensions["model_server"]
        return service.evaluate_version(
            db.session(), server, name=name, number=number, rows=request["rows"]
        )


@blp.route("/models/<name:name>/versions/<id:number>/evaluations", get="list_evaluations")
@blp.allow(*ANY_ML)
@blp.arguments(PageQuery, location="query")
@blp.response(200, schemas.EvaluationSchema(many=True), headers=HEADERS)
@blp.problems(404, 503)
def list_evaluations(
    query: Mapping[str, Any], name: str, number: int
) -> tuple[Sequence[Evaluation], Headers]:
    """List the evaluations of a version, the latest first."""
    return answer_page(service.list_evaluations(db.session(), name=name, number=number, **query))
