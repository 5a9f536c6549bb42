"""The pages for people: `/` leads to `/docs`, which shows `/openapi.json`. All files are local."""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

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
Stores *items*, and trains, versions and serves scikit-learn models.

Try it here: open `POST /api/v1/ml/train` and press **Execute**, then do the same with
`POST /api/v1/ml/predict`. Every error has the shape of `Problem`."""

blp = Blueprint(
    "docs",
    __name__,
    static_folder="static",
    static_url_path="/static",
    template_folder="templates",
)


def swagger_ui_files() -> Path:
    """Return the folder of Swagger UI's files in the package flask_swagger_ui."""
    # Not imported: of the package only the files are used.
    spec = find_spec("flask_swagger_ui")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("flask_swagger_ui is not installed", name="flask_swagger_ui")
    return Path(spec.origin).parent / "dist"


def show_page(template: str, **values: object) -> Response:
    """Return a page, with the headers that say what it may load."""
    response = Response(render_template(template, **values))
    response.headers.extend(PAGE)
    return response


@blp.get("/")
def index() -> Response:
    """Show the start page, which links to the documentation."""
    return show_page("index.html", version=api.spec.version)


@blp.get("/docs")
def swagger_ui() -> Response:
    """Show the OpenAPI document as a page to try the service with."""
    return show_page("swagger_ui.html")


@blp.get("/docs/<path:name>")
def swagger_ui_file(name: str) -> Response:
    """Send one of Swagger UI's files."""
    return send_from_directory(swagger_ui_files(), name, max_age=3600)


@blp.get("/openapi.json")
def openapi_document() -> Response:
    """Return the OpenAPI document, with the URL prefix of this request as its server."""
    document = deepcopy(api.spec.to_dict())
    if current_app.config["AUTH"] == "off":
        del document["components"]["securitySchemes"]
        for path in document["paths"].values():
            for operation in path.values():
                if isinstance(operation, dict):
                    operation.pop("security", None)
    return jsonify({**document, "servers": [{"url": request.script_root or "/"}]})
