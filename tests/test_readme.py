"""The README's tour, pasted as it stands, against the service that `make run` starts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from flask import Flask

from tests.faults import on_sqlite
from tests.gunicorn_server import running_gunicorn

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
CALLS = [call for block in BLOCKS for call in block.strip().split("\n\n")]


@on_sqlite
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is told with curl")
def test_the_tour_answers_as_the_readme_says(
    app: Flask, database_url: str, tmp_path: Path
) -> None:
    app.test_cli_runner().invoke(args=["seed"])
    answers = []

    with running_gunicorn(database_url, tmp_path / "gunicorn.log") as server:
        for call in CALLS:
            command = call.replace("http://localhost:8000", server.url)
            command = command.replace("curl ", "curl -sS -w '%{http_code}' ", 1)
            answers.append(
                subprocess.check_output(["bash", "-c", command], text=True, cwd=tmp_path)
            )

    assert [answer[-3:] for answer in answers] == [
        *("200", "200", "201", "200", "200", "200", "201", "200", "200", "201", "422"),
        *("", "201", "201", "200", "200", "200"),
    ]
    said = [json.loads(answer[:-3] or "null") for answer in answers]
    stated = re.findall(r'^`(\{"prediction":.*\})`$', README, re.M)
    assert [json.loads(text.replace("…", "")) for text in stated] == [about(said[1])]
    assert said[3]["prediction"] == pytest.approx(10)
    assert "json.features.1: is a string, expected a number" in README
    assert said[10]["detail"] == "json.features.1: is a string, expected a number"
    assert said[15]["extrapolated"] == ["size"]
    assert said[15]["intervals"]["level"] == 0.95
    assert said[16]["version"] == 2


def about(answer: dict) -> dict:
    """Return an answer whose prediction equals any that is close to it."""
    return {**answer, "prediction": pytest.approx(answer["prediction"], abs=1e-8)}
