"""The OpenAPI page in a real browser: a person tries the service, and nothing leaves the host."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.access.holders import make_holder
from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.gunicorn_server import GunicornServer, running_gunicorn
from webapp.scopes import Scope

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

# In CI the browser is installed, and its absence is a failure; elsewhere it may be missing.
pytestmark = [
    on_sqlite,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ, reason="needs Chromium (apt install chromium)"
    ),
]


TELL_OF_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (violation) =>
  console.error("refused", violation.violatedDirective, violation.blockedURI));
"""
OPEN_SOME = "names => [...document.querySelectorAll(names)].slice(0, 8).forEach(e => e.click())"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a headless Chromium."""
    assert CHROMIUM, "Chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[GunicornServer]:
    """Return a gunicorn that serves a trained default model."""
    with running_gunicorn(database_url, tmp_path / "gunicorn.log") as server:
        ml = f"{server.url}/api/v1/ml"
        sample = requests.get(f"{ml}/sample-data", timeout=30).json()
        rows = {"X": sample["X"], "y": sample["y"]}
        requests.post(f"{ml}/train", json=rows, timeout=30).raise_for_status()
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return a page that keeps what it requested and what it complained of."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.requested = []
    page.complaints = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.add_init_script(TELL_OF_VIOLATIONS)
    yield page
    page.close()


def execute_prediction(page: Page) -> Locator:
    """Open the operation in Swagger UI and press Execute; the answer must be the prediction."""
    operation = page.locator(".opblock", has=page.locator('[data-path="/api/v1/ml/predict"]'))
    operation.locator(".opblock-summary-control").click()
    operation.locator("button.execute").click()
    column = ".live-responses-table td.response-col_description:not(.col_header)"
    shown = operation.locator(column).inner_text()
    prediction = float(re.findall(r'"prediction":\s*([-.\d]+)', shown)[0])
    assert prediction == pytest.approx(4.960877268, abs=1e-8)
    return operation


def test_a_person_executes_a_prediction_in_the_page(server: GunicornServer, page: Page) -> None:
    page.goto(server.url)
    page.click("text=Try it in the browser")

    execute_prediction(page)

    local = (server.url, "data:", "blob:")
    assert page.requested
    assert [url for url in page.requested if not url.startswith(local)] == []
    assert page.complaints == []


@pytest.mark.slow
def test_a_person_authorizes_and_the_whole_page_works_under_its_policy(
    database_url: str, tmp_path: Path, page: Page
) -> None:
    with app_on(database_url, AUTH="on") as app:
        app.test_cli_runner().invoke(args=["seed"])
        key = make_holder(app, "ann", Scope.ML_PREDICT)
    settings = {"AUTH": "on", "RATE_LIMIT": "600 per minute"}
    with running_gunicorn(database_url, tmp_path / "gunicorn.log", **settings) as server:
        page.goto(f"{server.url}/docs")
        page.click("button.authorize")
        page.fill(".auth-container input", key)
        page.click(".auth-btn-wrapper button.authorize")
        page.click(".btn-done")
        operation = execute_prediction(page)
        with page.expect_download() as download:
            operation.locator(".download-contents").first.click()
        page.evaluate(OPEN_SOME, ".opblock-summary-control")
        page.evaluate(OPEN_SOME, ".json-schema-2020-12-accordion, .tablinks")
        page.locator(".opblock.is-open .model-example").nth(3).wait_for()

    assert download.value.suggested_filename.endswith(".json")
    assert page.complaints == []


@pytest.fixture
def other_origin(tmp_path: Path) -> Iterator[str]:
    """Return an origin that is not the service's, and has a page."""
    (tmp_path / "empty").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "empty")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


CREATE_AND_CHANGE = """async (api) => {
  const headers = {"Content-Type": "application/json", "Authorization": "Bearer a-key"};
  const made = await fetch(`${api}/items`, {
    method: "POST", body: '{"name": "a"}', headers: {...headers, "Idempotency-Key": "one"},
  });
  const changed = await fetch(new URL(made.headers.get("Location"), made.url), {
    method: "PATCH", body: '{"name": "b"}',
    headers: {...headers, "If-Match": made.headers.get("ETag"), "X-Request-ID": "mine"},
  });
  const lost = await fetch(`${api}/items/nothing`, {method: "DELETE", headers});
  return [made.status, (await changed.json()).name, changed.headers.get("X-Request-ID"),
          lost.status];
}"""


READ_ITEMS = "api => fetch(`${api}/items`).then(() => 'read', () => 'refused')"


@pytest.mark.slow
def test_a_page_of_a_listed_origin_calls_the_service_and_another_does_not(
    database_url: str, tmp_path: Path, other_origin: str, page: Page
) -> None:
    log = tmp_path / "gunicorn.log"
    page.goto(other_origin)

    with running_gunicorn(database_url, log, CORS_ORIGINS=other_origin) as server:
        assert page.evaluate(CREATE_AND_CHANGE, f"{server.url}/api/v1") == [201, "b", "mine", 404]
    with running_gunicorn(database_url, log) as server:
        assert page.evaluate(READ_ITEMS, f"{server.url}/api/v1") == "refused"
