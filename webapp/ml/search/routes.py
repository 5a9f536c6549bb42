"""The route of searches."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask.views import MethodView

from webapp.jobs.models import Job
from webapp.ml.blueprint import Answer, BeforeCommit, blp, creates_version, do, holder_id
from webapp.ml.core.metrics import digest_dataset
from webapp.ml.registry.models import ModelVersion
from webapp.ml.search import schemas, service
from webapp.scopes import Scope

EXAMPLE = {
    "X": [[1, 2, 3], [4, 5, 6], [7, 8, 10], [2, 1, 1]],
    "y": [10, 20, 33, 5],
    "estimator": "ridge",
    "grid": {"alpha": [0.1, 1, 10]},
    "cv": 2,
}


def _describe(request: dict[str, Any]) -> Answer:
    """Return what tells one search from another, whichever format its rows come in."""
    digest, spec = digest_dataset(request["dataset"]), asdict(request["spec"])
    return {**spec, "activate": request["activate"], "dataset": digest}


@blp.route("/models/<name:name>/search", post="search_parameters")
class SearchParameters(MethodView):
    """Search for the parameters of a model."""

    @blp.allow(Scope.ML_TRAIN)
    @blp.arguments(schemas.SearchRequest, location="rows", example=EXAMPLE)
    @creates_version("The best candidate is trained", describe=_describe)
    def post(
        self, request: dict[str, Any], name: str, before_commit: BeforeCommit
    ) -> ModelVersion | Job:
        """Search for the best parameters.

        Cross-validates an estimator with each combination of a `grid`, or with candidates drawn of
        `distributions`, on the rows to fit; the best one is trained and judged, and becomes a
        version. `candidates` of its metrics have the whole ranking: the best first, those without
        scores last, each of them with the reason.

        Rows, options and answers are those of a training. As it may take long, send
        `Prefer: respond-async`: the answer then is a job, which says how many candidates are done.
        """
        order = service.order_search(name=name, holder=holder_id(), **request)
        return do(order, before_commit=before_commit)
