"""Routes of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

from flask.views import MethodView

from webapp.extensions import db
from webapp.jobs.models import Job
from webapp.jobs.service import Order
from webapp.ml.blueprint import BeforeCommit, Headers, blp, do, does_job, holder_id
from webapp.ml.core.artifacts import digest
from webapp.ml.evaluation import schemas, service
from webapp.ml.evaluation.models import Evaluation
from webapp.scopes import ANY_ML, Scope
from webapp.web.blueprint import View
from webapp.web.paging import HEADERS, PageQuery, answer_page

EXAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [5, 16]}


def _takes_order(view: View) -> Any:
    """Let a view take the order for an evaluation: the version says how its rows are read."""

    @wraps(view)
    def make_order(self: Any, request: Mapping[str, Any], name: str, number: int) -> Any:
        order = service.order_evaluation(
            db.session(), name=name, number=number, holder=holder_id(), **request
        )
        return view(self, order, name=name, number=number)

    return make_order


@blp.route("/models/<name:name>/versions/<id:number>/evaluate", post="evaluate_version")
class Evaluate(MethodView):
    """Judging of a version."""

    @blp.allow(Scope.ML_TRAIN)
    @blp.arguments(schemas.EvaluationRequest, location="rows", example=EXAMPLE)
    @_takes_order
    @does_job(
        schemas.EvaluationSchema(),
        lambda made: (made, {}),
        status=200,
        headers={},
        describe=lambda order: digest(order.payload),
    )
    def post(self, order: Order, before_commit: BeforeCommit, **_path: Any) -> Evaluation | Job:
        """Evaluate a version on rows whose target is known.

        The body is JSON, a table (CSV, Parquet or Arrow) or a form with such a `file`, as at a
        training. The metrics are those that a training gives, and are kept with the digest of
        the rows. Rows without a target are left out. Predictions for labels that the version
        does not know count as wrong, and the metrics of its probabilities are then null.

        With `Prefer: respond-async`, the answer comes at once, with the URL of the job that
        judges. Without it, up to 2 MB of rows are judged at once; for more, the request waits for
        the same job, which is cancelled if its client hangs up.
        """
        return do(order, before_commit=before_commit)


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
