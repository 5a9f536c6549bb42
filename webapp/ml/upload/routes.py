"""The route of uploads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from flask.views import MethodView

from webapp.jobs.models import Job
from webapp.ml.blueprint import Answer, BeforeCommit, blp, creates_version, do, holder_id, name_of
from webapp.ml.core import artifacts
from webapp.ml.registry.models import ModelVersion
from webapp.ml.upload import schemas, service
from webapp.scopes import Scope


def _describe(request: Mapping[str, Any]) -> Answer:
    stream, table = request["artifact"].stream, request["table"]
    digest = artifacts.digest(stream.read())
    stream.seek(0)
    described = {**request, "artifact": digest}
    if table is not None:
        rows = artifacts.digest(table.file.read())
        described["table"] = [rows, table.format.name, astuple(table.dialect)]
    return described


@blp.route("/models/<name:name>/versions", post="upload_version")
class Upload(MethodView):
    """Upload of a model."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(schemas.UploadRequest, location="form")
    @creates_version("Model registered successfully", describe=_describe)
    def post(
        self, request: dict[str, Any], name: str, before_commit: BeforeCommit
    ) -> ModelVersion | Job:
        """Upload a model that was fitted elsewhere.

        The file is what `skops.io.dump` wrote of any fitted scikit-learn model that predicts. It
        predicts here what it predicted there, for rows as its signature has them. A refusal names
        all types in the file that are not allowed, and where they are.

        With `activate=if_better`, it and the active version are judged on the rows of `table` by
        `metric`.

        With `Prefer: respond-async`, the answer comes at once, with the URL of the job that looks
        into the file. Without it the request waits for the same job; if its client hangs up, the
        job is cancelled.
        """
        artifact = request.pop("artifact")
        order = service.order_upload(
            name=name,
            data=artifact.stream.read(),
            source=name_of(artifact.filename),
            holder=holder_id(),
            **request,
        )
        return do(order, before_commit=before_commit)
