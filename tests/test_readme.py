"""The README's tour, pasted as it stands, against the service that `make run` starts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import app_on, migrate
from tests.gunicorn_server import running_gunicorn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README, "docs/api.md": (ROOT / "docs" / "api.md").read_text()}
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="calls are made with curl")
Answers = dict[str, list[tuple[int, Any]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """Return the status and JSON of every `sh` call of each page, made in order."""
    folder = tmp_path_factory.mktemp("tour")
    url = f"sqlite:///{folder / 'webapp.db'}"
    migrate(url)
    with app_on(url) as app:
        app.test_cli_runner().invoke(args=["seed"])
    with running_gunicorn(url, folder / "gunicorn.log") as server:
        yield {
            page: [call(command, server.url, folder) for command in calls(text)]
            for page, text in PAGES.items()
        }


def calls(text: str) -> list[str]:
    """Return the shell commands of a page that call the service."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    return [command for block in blocks for command in block.strip().split("\n\n")]


def call(command: str, url: str, folder: Path) -> tuple[int, Any]:
    """Run a command as it stands; return the status and the JSON of its answer."""
    command = command.replace("http://localhost:8000", url)
    command = command.replace("curl ", "curl -sS -w '%{http_code}' ", 1)
    said = subprocess.check_output(["bash", "-c", command], text=True, cwd=folder)
    return (int(said[-3:]), json.loads(said[:-3])) if said else (0, None)


def test_the_tour_answers_as_the_readme_says(answers: Answers) -> None:
    statuses, said = zip(*answers["README.md"], strict=True)

    assert statuses == (200, 0, 201, 201, 200, 200, 200, 200, 422)
    (stated,) = re.findall(r'^`(\{"prediction":.*\})`$', README, re.M)
    about = pytest.approx(said[0]["prediction"], abs=1e-8)
    assert json.loads(stated.replace("…", "")) == {**said[0], "prediction": about}
    assert said[5]["extrapolated"] == ["size"]
    assert said[5]["intervals"]["level"] == 0.95
    assert said[7]["version"] == 2
    assert f'"detail":"{said[8]["detail"]}"' in README


def test_the_calls_of_the_api_page_work(answers: Answers) -> None:
    statuses, said = zip(*answers["docs/api.md"], strict=True)

    assert statuses == (200, 201, 200, 200, 201, 200, 200, 201)
    assert said[2]["prediction"] == pytest.approx(10)
