"""The pages for people: `/` leads to `/docs`, which shows `/openapi.json`. All files local."""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    jsonify,
    render_template,
    request,
    send_from_directory,
)

from webapp.extensions import api
from webapp.web.browser import PAGE

DESCRIPTION = """\
Keeps *items*, and trains, versions and serves scikit-learn models.

Try it here: open `POST /api/v1/ml/train` and press **Execute**, then do the same with
`POST /api/v1/ml/predict`. Errors always have the shape of `Problem`."""

blp = Blueprint(
    "docs",
    __name__,
    static_folder="static",
    static_url_path="/static",
    template_folder="templates",
)


def swagger_ui_files() -> Path:
    """Return the folder of Swagger UI's own files, which a Python package carries."""
    # Found, not imported: the package's module is about a Flask blueprint that we do not use.
    spec = find_spec("flask_swagger_ui")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("flask_swagger_ui is not installed", name="flask_swagger_ui")
    return Path(spec.origin).parent / "dist"


def show_page(template: str, **values: object) -> Response:
    """Return a page, with what it may load and do."""
    response = Response(render_template(template, **values))
    response.headers.extend(PAGE)
    return response


@blp.get("/")
def index() -> Response:
    """Lead a person to the documentation."""
    return show_page("index.html", version=api.spec.version)


@blp.get("/docs")
def swagger_ui() -> Response:
    """Show the OpenAPI document as a page to try the service with."""
    return show_page("swagger_ui.html")


@blp.get("/docs/<path:name>")
def swagger_ui_file(name: str) -> Response:
    """Send one of Swagger UI's own files."""
    return send_from_directory(swagger_ui_files(), name, max_age=3600)


@blp.get("/openapi.json")
def openapi_document() -> Response:
    """Return the OpenAPI document, with the prefix that this request came under as server."""
    document = api.spec.to_dict()
    if current_app.config["AUTH"] == "off":
        document = _without_keys(document)
    return jsonify({**document, "servers": [{"url": request.script_root or "/"}]})


def _without_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document that asks for no API keys."""
    found = deepcopy(document)
    del found["components"]["securitySchemes"]
    for path in found["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict):
                operation.pop("security", None)
    return found
