"""Routes of models, their versions and what is active."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, request
from flask.views import MethodView

from webapp.extensions import db
from webapp.ml.blueprint import (
    BINARY,
    Answer,
    Headers,
    blp,
    model_leases,
)
from webapp.ml.core.formats import FORMATS
from webapp.ml.core.plots import PLOTS
from webapp.ml.registry import schemas, service
from webapp.ml.registry.models import Activation, Model, ModelVersion
from webapp.ml.registry.service import DEFAULT_MODEL
from webapp.scopes import ANY_ML, Scope
from webapp.web.openapi import header
from webapp.web.paging import HEADERS, PageQuery, answer_page

ARTIFACT_HEADERS = {
    "ETag": header("SHA-256 of the file in hexadecimal.", pattern='^"[0-9a-f]{64}"$'),
    "Digest": header("The same in base64 (RFC 3230).", pattern="^sha-256=[0-9A-Za-z+/]{43}=$"),
    "Content-Disposition": header("A name for the file."),
}
SVG = "image/svg+xml"
PLOT_HEADERS = {"ETag": header("Names these very bytes.")}
# As all answers, but for the styles that matplotlib writes beside each shape.
PLOT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@blp.route("/model-info", get="get_model_info")
@blp.allow(*ANY_ML)
@blp.response(200, schemas.ModelInfoSchema)
@blp.problems(503)
def get_model_info() -> Answer:
    """Describe the default model."""
    version = service.get_active_version(db.session(), DEFAULT_MODEL)
    if version is None:
        return {"trained": False, "model_type": None, "metrics": {}}
    return {
        "trained": True,
        "model_type": version.model_type,
        "metrics": version.metrics,
        "model": version,
    }


@blp.route("/models", get="list_models")
@blp.allow(*ANY_ML)
@blp.arguments(schemas.ModelQuery, location="query")
@blp.response(200, schemas.ModelSchema(many=True), headers=HEADERS)
@blp.problems(503)
def list_models(query: Mapping[str, Any]) -> tuple[Sequence[Model], Headers]:
    """List models, by name."""
    return answer_page(service.list_models(db.session(), **query))


@blp.route("/models/<name:name>", get="get_model", patch="change_model", delete="delete_model")
class ModelByName(MethodView):
    """One model."""

    @blp.allow(*ANY_ML)
    @blp.response(200, schemas.ModelSchema)
    @blp.problems(404, 503)
    def get(self, name: str) -> Model:
        """Describe a model."""
        return service.get_model(db.session(), name)

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(
        schemas.ModelChanges,
        example={"description": "Prices of houses", "tags": {"team": "pricing", "old": None}},
    )
    @blp.response(200, schemas.ModelSchema)
    @blp.problems(404, 503)
    def patch(self, changes: Mapping[str, Any], name: str) -> Model:
        """Change the description and the tags of a model.

        What is not sent stays; a tag that is null is removed.
        """
        return service.change_model(db.session(), name=name, **changes)

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(schemas.ModelDeletion, location="query")
    @blp.response(204)
    @blp.problems(404, 409, 503)
    def delete(self, query: Mapping[str, Any], name: str) -> None:
        """Delete a model with its history; with `?versions=all`, its versions too.

        When the answer arrives, no worker serves it. 409 when it has versions, even an active
        one, and they were not named. A model of that name that is trained later starts again at
        version 1.
        """
        service.delete_model(db.session(), model_leases(), name=name, **query)


@blp.route("/models/<name:name>/versions", get="list_versions")
@blp.allow(*ANY_ML)
@blp.arguments(schemas.VersionQuery, location="query")
@blp.response(200, schemas.VersionSummarySchema(many=True), headers=HEADERS)
@blp.problems(404, 503)
def list_versions(query: Mapping[str, Any], name: str) -> tuple[Sequence[ModelVersion], Headers]:
    """List the versions of a model, the newest first unless `sort` says otherwise.

    What grows with features or classes is left out: a single version shows it.
    """
    return answer_page(service.list_versions(db.session(), name=name, **query))


@blp.route("/models/<name:name>/compare", get="compare_versions")
@blp.allow(*ANY_ML)
@blp.arguments(schemas.ComparisonQuery, location="query")
@blp.response(200, schemas.ComparisonSchema)
@blp.problems(404, 503)
def compare_versions(query: Mapping[str, Any], name: str) -> Answer:
    """Compare versions of a model.

    Parameters, metrics that are one number, columns of the signature, how they were trained, on
    which rows (`data_digest`), tags and notes: what is the same in all, and what differs.
    """
    return schemas.compare(service.get_versions(db.session(), name=name, **query))


@blp.route(
    "/models/<name:name>/versions/<id:number>",
    get="get_version",
    patch="change_version",
    delete="delete_version",
)
class Version(MethodView):
    """One version of a model."""

    @blp.allow(*ANY_ML)
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 503)
    def get(self, name: str, number: int) -> ModelVersion:
        """Describe a version."""
        return service.get_version(db.session(), name, number)

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(
        schemas.VersionChanges,
        example={"notes": "Without the outliers of May", "tags": {"stage": "candidate"}},
    )
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 503)
    def patch(self, changes: Mapping[str, Any], name: str, number: int) -> ModelVersion:
        """Change the notes and the tags of a version.

        What is not sent stays; a tag that is null is removed.
        """
        return service.change_version(db.session(), name=name, number=number, **changes)

    @blp.allow(Scope.ML_ADMIN)
    @blp.response(204)
    @blp.problems(404, 409, 503)
    def delete(self, name: str, number: int) -> None:
        """Delete a version, unless it is active, or has an alias or a share of the traffic.

        Its number is not used again.
        """
        service.delete_version(db.session(), model_leases(), name=name, number=number)


@blp.route("/models/<name:name>/versions/<id:number>/coefficients", get="get_version_coefficients")
@blp.allow(*ANY_ML)
@blp.response(200, schemas.CoefficientsSchema)
@blp.problems(404, 503)
def get_version_coefficients(name: str, number: int) -> Answer:
    """Read all coefficients of a linear model, however many."""
    return service.get_coefficients(db.session(), name, number)


@blp.route(
    "/models/<name:name>/versions/<id:number>/plots/<name:plot>.svg",
    get="draw_version_plot",
    parameters=[
        {
            "in": "path",
            "name": "plot",
            "required": True,
            "schema": {"type": "string", "enum": list(PLOTS)},
        }
    ],
)
@blp.allow(*ANY_ML)
@blp.response(200, BINARY, content_type=SVG, headers=PLOT_HEADERS)
@blp.alt_response(304, description="The client already has these bytes.", headers=PLOT_HEADERS)
@blp.problems(404, 503)
def draw_version_plot(name: str, number: int, plot: str) -> Response:
    """Draw a plot of a version, of up to 5,000 of its held-out rows.

    `predicted-vs-actual` and `residuals` of a regression; `roc`, `precision-recall`,
    `calibration` and `confusion-matrix` of a classification; `coefficients` of a linear model;
    `importances` of any model that has them.
    """
    drawn = service.get_plot(db.session(), name, number, plot)
    response = Response(drawn, content_type=SVG, headers={"Content-Security-Policy": PLOT_POLICY})
    response.add_etag()
    response.make_conditional(request)
    return response


@blp.route("/models/<name:name>/versions/<id:number>/artifact", get="download_artifact")
@blp.allow(Scope.ML_ADMIN)
@blp.response(200, BINARY, content_type="application/octet-stream", headers=ARTIFACT_HEADERS)
@blp.problems(404, 503)
def download_artifact(name: str, number: int) -> Response:
    """Download a version as a skops file, or as what was uploaded in another format."""
    artifact = service.get_artifact(db.session(), name, number)
    suffix = FORMATS[service.get_version(db.session(), name, number).format].suffix
    sha = base64.b64encode(bytes.fromhex(artifact.digest)).decode()
    headers = {
        "ETag": f'"{artifact.digest}"',
        "Digest": f"sha-256={sha}",
        "Content-Disposition": f'attachment; filename="{name}-{number}{suffix}"',
    }
    return Response(artifact.data, headers=headers, content_type="application/octet-stream")


@blp.route("/models/<name:name>/active", put="activate_version")
class Active(MethodView):
    """Which version of a model is active."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(schemas.ActivationRequest, example={"version": 1})
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 409, 503)
    def put(self, request: Mapping[str, int], name: str) -> ModelVersion:
        """Activate a version.

        When the answer arrives, every worker on every host serves it, and traffic is no longer
        shared. A version that cannot be loaded is refused with 409, and the one before stays
        active.
        """
        return service.activate_version(
            db.session(), model_leases(), name=name, number=request["version"]
        )


@blp.route("/models/<name:name>/aliases/<name:alias>", put="set_alias", delete="delete_alias")
class Alias(MethodView):
    """A name for a version."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(schemas.ActivationRequest, example={"version": 1})
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 409, 503)
    def put(self, request: Mapping[str, int], name: str, alias: str) -> ModelVersion:
        """Let an alias name a version.

        When the answer arrives, every worker on every host predicts with it at
        `…/aliases/{alias}/predict`. A version that cannot be loaded is refused with 409, and the
        alias stays where it was.
        """
        return service.set_alias(
            db.session(), model_leases(), name=name, alias=alias, number=request["version"]
        )

    @blp.allow(Scope.ML_ADMIN)
    @blp.response(204)
    @blp.problems(404, 503)
    def delete(self, name: str, alias: str) -> None:
        """Delete an alias; its version stays."""
        service.delete_alias(db.session(), model_leases(), name=name, alias=alias)


@blp.route(
    "/models/<name:name>/traffic", get="get_traffic", put="set_traffic", delete="end_traffic"
)
class Traffic(MethodView):
    """Which versions answer the requests that name none."""

    @blp.allow(*ANY_ML)
    @blp.response(200, schemas.TrafficSchema)
    @blp.problems(404, 503)
    def get(self, name: str) -> Answer:
        """Show which versions share the traffic of a model, and its shadow."""
        return service.get_model(db.session(), name).traffic

    @blp.allow(Scope.ML_ADMIN)
    @blp.arguments(schemas.TrafficRequest, example={"shares": {"1": 90, "2": 10}})
    @blp.response(200, schemas.TrafficSchema)
    @blp.problems(404, 409, 503)
    def put(self, request: Mapping[str, Any], name: str) -> Answer:
        """Share the traffic of a model among versions, and let another one predict beside them.

        When the answer arrives, every worker on every host does so. It is of predictions that
        name no version and no alias; equal `X-Traffic-Key`, or else equal rows, are answered by
        the same version. All versions must take the columns of the active one, for its task. A
        version that cannot be loaded is refused with 409. An activation, training or rollback
        that makes a version active ends it.
        """
        return service.set_traffic(db.session(), model_leases(), name=name, **request).traffic

    @blp.allow(Scope.ML_ADMIN)
    @blp.response(204)
    @blp.problems(404, 503)
    def delete(self, name: str) -> None:
        """Let the active version answer all traffic of a model again."""
        service.end_traffic(db.session(), model_leases(), name=name)


@blp.route("/models/<name:name>/rollback", post="roll_back_model")
class Rollback(MethodView):
    """Return to the version before."""

    @blp.allow(Scope.ML_ADMIN)
    @blp.response(200, schemas.VersionSchema)
    @blp.problems(404, 409, 503)
    def post(self, name: str) -> ModelVersion:
        """Activate the version that was active before.

        A second rollback goes further back. 409 when there is no earlier version.
        """
        return service.roll_back(db.session(), model_leases(), name=name)


@blp.route("/models/<name:name>/activations", get="list_activations")
@blp.allow(*ANY_ML)
@blp.arguments(PageQuery, location="query")
@blp.response(200, schemas.ActivationSchema(many=True), headers=HEADERS)
@blp.problems(404, 503)
def list_activations(query: Mapping[str, Any], name: str) -> tuple[Sequence[Activation], Headers]:
    """List a model's activations, the latest first."""
    return answer_page(service.list_activations(db.session(), name=name, **query))
