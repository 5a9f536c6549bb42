"""The OpenAPI page in a real browser: a person tries the service, and nothing leaves the host."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, sync_playwright

from tests.access.holders import make_holder
from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.faults.load import train_default
from tests.gunicorn_server import running_gunicorn
from webapp.scopes import Scope

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
TELL_OF_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (violation) =>
  console.error("refused", violation.violatedDirective, violation.blockedURI));
"""
# In CI the browser is installed, and its absence is a failure; elsewhere it may be missing.
needs_chromium = pytest.mark.skipif(
    not CHROMIUM and "CI" not in os.environ, reason="needs Chromium"
)
OPEN_SOME = "names => [...document.querySelectorAll(names)].slice(0, 8).forEach(e => e.click())"


@pytest.fixture
def page() -> Iterator[Page]:
    """Return a page of a headless Chromium that keeps what it requested and complained of."""
    assert CHROMIUM, "Chromium is not installed"
    with sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.requested = []
        page.complaints = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.add_init_script(TELL_OF_VIOLATIONS)
        yield page
        browser.close()


def open_operation(page: Page, path: str) -> Locator:
    """Open the only operation of a path, and return its part of the page."""
    operation = page.locator(".opblock", has=page.locator(f'[data-path="{path}"]'))
    operation.locator(".opblock-summary-control").click()
    return operation


def execute(page: Page, operation: Locator, method: str) -> int:
    """Send what is filled in, and return the status of the answer."""
    with page.expect_response(lambda response: response.request.method == method) as answer:
        operation.locator("button.execute").click()
    return answer.value.status


@needs_chromium
@on_sqlite
def test_the_page_works_under_its_policy(database_url: str, tmp_path: Path, page: Page) -> None:
    with app_on(database_url, AUTH="on") as app:
        app.test_cli_runner().invoke(args=["seed"])
        key = make_holder(app, "ann", Scope.ML_PREDICT)
    settings = {"AUTH": "on", "RATE_LIMIT": "600 per minute"}
    with running_gunicorn(database_url, tmp_path / "gunicorn.log", **settings) as server:
        page.goto(server.url)
        page.click("text=Try it in the browser")
        page.click("button.authorize")
        page.fill(".auth-container input", key)
        page.click(".auth-btn-wrapper button.authorize")
        page.click(".btn-done")

        operation = open_operation(page, "/api/v1/ml/predict")
        operation.locator("button.execute").click()
        column = ".live-responses-table td.response-col_description:not(.col_header)"
        shown = operation.locator(column).inner_text()
        with page.expect_download() as download:
            operation.locator(".download-contents").first.click()
        page.evaluate(OPEN_SOME, ".opblock-summary-control")
        page.evaluate(OPEN_SOME, ".json-schema-2020-12-accordion, .tablinks")
        page.locator(".opblock.is-open .model-example").nth(3).wait_for()

    (prediction,) = re.findall(r'"prediction":\s*([-.\d]+)', shown)
    assert float(prediction) == pytest.approx(4.960877268, abs=1e-8)
    assert download.value.suggested_filename.endswith(".json")
    local = (server.url, "data:", "blob:")
    assert page.requested
    assert [url for url in page.requested if not url.startswith(local)] == []
    assert page.complaints == []


@pytest.mark.slow
@needs_chromium
@on_sqlite
def test_what_the_page_has_filled_in_is_accepted(
    database_url: str, tmp_path: Path, page: Page
) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("x1,x2,x3,y\n1,2,3,4\n2,3,4,6\n")
    found = {}
    with running_gunicorn(database_url, tmp_path / "gunicorn.log") as server:
        page.goto(f"{server.url}/docs")
        for path in ("train", "predict", "predict/batch", "inspect"):
            operation = open_operation(page, f"/api/v1/ml/{path}")
            found[path] = execute(page, operation, "POST")

        training = page.locator(".opblock.is-open").filter(has_text="Train a model").first
        training.locator(".body-param-content-type select").select_option("multipart/form-data")
        training.locator("input[type=file]").set_input_files(table)
        training.locator('[data-property-name="target"] input[type=text]').fill("y")
        found["form"] = execute(page, training, "POST")

    created = dict.fromkeys(["train", "form"], 201)
    assert found == created | dict.fromkeys(["predict", "predict/batch", "inspect"], 200)
    assert page.complaints == []


@needs_chromium
@on_sqlite
def test_a_plot_is_drawn_under_its_policy(database_url: str, tmp_path: Path, page: Page) -> None:
    with running_gunicorn(database_url, tmp_path / "gunicorn.log") as server:
        train_default(server.url)
        page.goto(f"{server.url}/api/v1/ml/models/default/versions/1/plots/residuals.svg")
        background = page.evaluate("getComputedStyle(document.querySelector('path')).fill")

    assert background == "rgb(255, 255, 255)"  # black, where its styles were not allowed
    assert page.complaints == []
