"""The OpenAPI page in a real browser: a person tries the service, and nothing leaves the host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, sync_playwright

from tests.gunicorn_server import GunicornServer, running_gunicorn

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

# In CI the browser is installed, and its absence is a failure; elsewhere it may be missing.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="needs Chromium (apt install chromium)"
)


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
    yield page
    page.close()


def test_a_person_executes_a_prediction_in_the_page(server: GunicornServer, page: Page) -> None:
    page.goto(server.url)
    page.click("text=Try it in the browser")
    operation = page.locator(".opblock", has=page.locator('[data-path="/api/v1/ml/predict"]'))

    operation.locator(".opblock-summary-control").click()
    operation.locator("button.execute").click()
    answer = operation.locator(
        ".live-responses-table td.response-col_description:not(.col_header)"
    ).inner_text()

    assert "4.960877268071" in answer
    assert page.requested
    local = (server.url, "data:", "blob:")
    assert [url for url in page.requested if not url.startswith(local)] == []
    assert page.complaints == []
