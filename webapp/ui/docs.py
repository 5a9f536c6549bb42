"""The pages for people: `/` leads to `/docs`, which shows `/openapi.json`. All files are local."""

from __future__ import annotations

from copy import deepcopy
from importlib.resources import files

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

blp = Blueprint("docs", __name__, static_folder="static", template_folder="templates")


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
    return send_from_directory(str(files("flask_swagger_ui") / "dist"), name, max_age=3600)


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
