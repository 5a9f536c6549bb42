"""The documents: OpenAPI is valid and its examples work; README and docs leave nothing out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from config import SETTINGS
from tests.bad_input.census import PATH_VALUES
from tests.faults import on_sqlite
from webapp.ml.core import kinds, preprocessing, training
from webapp.ml.core.signature import DATE_PARTS, KINDS
from webapp.ml.inference.schemas import PredictionTableOptions

pytestmark = on_sqlite

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(client: FlaskClient) -> dict:
    """Return the OpenAPI document."""
    return client.get("/openapi.json").json


def operations(document: dict) -> list[tuple[str, str, dict]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_the_document_is_valid_openapi(document: dict) -> None:
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()


def test_every_operation_explains_itself_and_its_errors(document: dict) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"], (path, method)
        responses = operation["responses"]
        # At least for an unknown query parameter, which a probe may add.
        assert ("422" in responses) is not path.startswith("/health"), (path, method)
        assert "404" in responses or "{" not in path, (path, method)
        assert "default" in responses or path.startswith("/health"), (path, method)
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= set(responses), (path, method)
            media = operation["requestBody"]["content"].get("application/json")
            assert media is None or media["example"], (path, method)
    for name, response in document["components"]["responses"].items():
        assert list(response["content"]) == ["application/problem+json"], name


def test_every_example_works_when_pasted(client: FlaskClient, document: dict) -> None:
    client.post("/api/v1/items", json={"name": "an item to act on"})
    sample = client.get("/api/v1/ml/sample-data").json
    rows = {"X": sample["X"], "y": sample["y"]}
    # Nobody works off the queue: job 1 can be cancelled.
    client.post("/api/v1/ml/train", json=rows, headers={"Prefer": "respond-async"})
    for _ in range(2):
        client.post("/api/v1/ml/train", json=rows)
    order = {"get": 0, "put": 1, "patch": 1, "post": 2, "delete": 3}
    not_json = {"/api/v1/ml/models/{name}/versions"}  # takes a file
    queries = {
        ("delete", "/api/v1/ml/models/{name}"): "?versions=all",
        ("get", "/api/v1/ml/models/{name}/compare"): "?versions=1,2",
    }

    def place(each: tuple[str, str, dict]) -> tuple[int, int]:
        """Return what sorts deletions last, and those of a part before those of the whole."""
        path, method, _ = each
        of_alias = "/aliases/" in path  # which keeps its version
        return order[method], -len(path) - 100 * of_alias if method == "delete" else 0

    for path, method, operation in sorted(operations(document), key=place):
        if method == "post" and path in not_json:
            continue
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        url = path.format(**PATH_VALUES) + queries.get((method, path), "")
        response = client.open(url, method=method.upper(), json=body.get("example"))
        assert response.status_code < 300, (method, url, response.text)
        assert str(response.status_code) in operation["responses"]


def test_no_client_sends_options_of_tables_beside_json(document: dict) -> None:
    # Pages, and some generated clients, send the defaults and examples of parameters unasked.
    for path, method, operation in operations(document):
        if "requestBody" in operation:
            for parameter in operation.get("parameters", []):
                content = parameter.get("content", {}).get("application/json", {})
                schema = content.get("schema") or parameter["schema"]
                sent = {"default", "example", "examples"} & {*parameter, *content, *schema}
                assert parameter["in"] != "query" or not sent, (path, method, parameter["name"])


def test_a_prefix_is_told_as_the_server(client: FlaskClient) -> None:
    plain = client.get("/openapi.json").json
    mounted = client.get("/openapi.json", environ_overrides={"SCRIPT_NAME": "/ml-service"}).json

    assert plain["servers"] == [{"url": "/"}]
    assert mounted["servers"] == [{"url": "/ml-service"}]


@pytest.mark.parametrize("page", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(client: FlaskClient, page: str) -> None:
    html = client.get(page).text

    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", html)
    assert not re.search(r"<script(?![^>]*src=)", html)
    urls = re.findall(r"(?:src|href)=\"([^\"]+)\"", html)
    if page == "/":
        assert "/docs" in urls
    for url in urls:
        with client.get(url) as response:
            assert response.status_code == 200, url


def test_the_docs_leave_nothing_out(app: Flask, document: dict) -> None:
    operated = (DOCS / "operations.md").read_text()
    for setting in SETTINGS:
        assert setting.help.endswith(".")
        assert f"| `{setting.name}` | `{setting.default}` | {setting.help} |" in operated
    groups = ("ml", "jobs")
    ours = [f"{group} {name}" for group in groups for name in app.cli.commands[group].commands]
    for name in ("db upgrade", "seed", "backup", "routes", *ours):
        assert f"flask {name}" in operated, name
    for path, method, _ in operations(document):
        assert f"`{method.upper()} {path}`" in (DOCS / "api.md").read_text()
    for target in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M):
        assert f"`make {target}`" in (DOCS / "contributing.md").read_text(), target


def test_your_data_has_every_kind_limit_and_option() -> None:
    page = (DOCS / "your-data.md").read_text()
    for kind in KINDS:
        assert f"| `{kind}` |" in page
    limits = (kinds.MOST_CATEGORIES, training.MOST_CLASSES, preprocessing.MOST_ONE_HOT)
    for limit in (*limits, preprocessing.MOST_NATIVE, preprocessing.WORD_PLACES):
        assert re.search(rf"^\|.*\| {limit:,}\b", page, re.M), limit
    assert f"{preprocessing.TEXT_COMPONENTS} components" in page
    assert f"{kinds.ID_SHARE:.0%}" in page.replace(" %", "%")
    assert f"Below {kinds.LEAST_ID_ROWS} rows" in page
    assert f"text of {kinds.TEXT_LENGTH} characters" in page
    for option in ("columns", "exclude", "task", *PredictionTableOptions().fields):
        assert f"`{option}" in page, option
    for part in DATE_PARTS:
        assert f'"{part}":' in page, part


def test_every_private_attribute_of_a_library_has_its_reason() -> None:
    page = (DOCS / "contributing.md").read_text()
    listed = page.partition("## Private attributes")[2].partition("## ")[0]
    for path in (ROOT / "webapp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                assert own or f"`{node.attr}`" in listed, (path.name, node.lineno, node.attr)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=str)
def test_every_file_and_heading_that_a_page_points_to_exists(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
            # As GitHub makes an anchor of a heading: without punctuation.
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert heading in anchors, heading


def test_every_page_is_linked_from_the_readme_and_leads_back() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"(docs/{page.name})" in readme
        assert "(../README.md)" in page.read_text()
