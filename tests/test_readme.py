"""The README's tour, pasted as it stands, against the service that `make run` starts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from flask import Flask

from tests.gunicorn_server import running_gunicorn

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
CALLS = [call for block in BLOCKS for call in block.strip().split("\n\n")]


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
    stated = (
        '{"prediction":4.960877268071006,"model":{"name":"default","version":1},'
        '"extrapolated":["x2"]}'
    )
    assert stated in README
    assert stated in answers[1]
    assert "10.0" in answers[3] or "9.99" in answers[3]
    assert "json.features.1: is a string, expected a number" in README
    assert "json.features.1: is a string, expected a number" in answers[10]
    assert '"extrapolated":["size"]' in answers[15]
    assert '"intervals":{"level":0.95' in answers[15]
    assert '"version":2' in answers[16]
