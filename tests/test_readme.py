"""The commands of README and docs, pasted as they stand, against what `make run` starts."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flask.testing import FlaskCliRunner

from tests.conftest import app_on, migrate
from tests.gunicorn_server import running_gunicorn, wait_until

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
YOUR_DATA = (ROOT / "docs" / "your-data.md").read_text()
DATA = (ROOT / "docs" / "data.md").read_text()
JOBS = (ROOT / "docs" / "jobs.md").read_text()
DEADLINE = 60.0  # seconds until a job has ended
PAGES = {
    "docs/jobs.md": JOBS,  # first: it names its jobs by their numbers
    "README.md": README,
    "docs/api.md": (ROOT / "docs" / "api.md").read_text(),
    "docs/your-data.md": YOUR_DATA,
    "docs/data.md": DATA,
}
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="calls are made with curl")
Answers = dict[str, list[tuple[int, Any]]]


@dataclass(frozen=True)
class Tour:
    """What the pages' calls answered, the files that they left, and `flask` on the database."""

    answers: Answers
    folder: Path
    runner: FlaskCliRunner


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    """Make every `sh` call of each page, in order."""
    folder = tmp_path_factory.mktemp("tour")
    shutil.copytree(ROOT / "tests" / "data", folder / "tests" / "data")
    write_sales(folder)
    url, root = f"sqlite:///{folder / 'webapp.db'}", str(folder / "data")
    migrate(url)
    with app_on(url, DATA_ROOT=root) as app:
        runner = app.test_cli_runner()
        runner.invoke(args=["seed"])
        with running_gunicorn(url, folder / "gunicorn.log", DATA_ROOT=root) as server:
            answers = {
                page: [call(command, server.url, folder) for command in calls(text)]
                for page, text in PAGES.items()
            }
            yield Tour(answers, folder, runner)


def write_sales(folder: Path) -> None:
    """Write the files that docs/data.md trains on and predicts for."""
    rows = pd.DataFrame({"items": range(1, 21), "shop": [1, 2] * 10, "amount": range(3, 63, 3)})
    for place, table in {"data/sales/2026": rows, "june": rows.drop(columns="amount")}.items():
        (folder / place).mkdir(parents=True)
        for number in range(2):
            table.to_parquet(folder / place / f"{number}.parquet")


@pytest.fixture(scope="module")
def answers(tour: Tour) -> Answers:
    """Return the status and JSON of every `sh` call of each page."""
    return tour.answers


def calls(text: str) -> list[str]:
    """Return the shell commands of a page that call the service."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    return [command for block in blocks for command in block.strip().split("\n\n")]


def call(command: str, url: str, folder: Path) -> tuple[int, Any]:
    """Run a command as it stands; return the status and the JSON of its answer."""
    command = command.replace("http://localhost:8000", url)
    command = command.replace("curl ", "curl -sS -w '%{http_code}' ", 1)
    said = subprocess.check_output(["bash", "-c", command], text=True, cwd=folder)
    return (int(said[-3:]), json.loads(said[:-3] or "null")) if said else (0, None)


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

    assert statuses == (200, 201, 200, 200, 200, 201, 201, 200, 201, 200, 200, 201)
    assert said[2]["prediction"] == pytest.approx(10)
    assert said[4]["task"] == "classification"
    columns = [said[n]["model"]["signature"]["columns"] for n in (5, 6)]
    assert columns[0] == columns[1]
    assert said[7]["passthrough"] == {"table": [7]}


def is_part(shown: Any, said: Any) -> bool:
    """Return whether JSON that a page shows, which may be shortened, is part of an answer."""
    if isinstance(shown, dict):
        return all(name in said and is_part(shown[name], said[name]) for name in shown)
    if isinstance(shown, list):
        return all(any(is_part(one, other) for other in said) for one in shown)
    return bool(
        said == pytest.approx(shown, abs=2e-3) if isinstance(shown, float) else said == shown
    )


def test_the_calls_of_the_jobs_page_work(answers: Answers) -> None:
    statuses, said = zip(*answers["docs/jobs.md"], strict=True)

    assert statuses == (202, 200, 200, 202, 204, 200)
    (shown,) = re.findall(r"^```json\n(.*?)^```", JOBS, re.M | re.S)
    assert is_part(json.loads(re.sub(r",\s*…|(?<=\d)…", "", shown)), said[1])
    assert [job["id"] for job in said[2]] == [2, 1]
    assert said[5]["status"] == "cancelled"


def test_your_data_shows_what_the_service_answers(answers: Answers) -> None:
    said = iter(answers["docs/your-data.md"])
    n_shown = 0
    for language, block in re.findall(r"^```(sh|json)\n(.*?)^```", YOUR_DATA, re.M | re.S):
        if language == "sh":
            last = [next(said) for _ in block.strip().split("\n\n")]
            assert {status for status, _ in last} <= {0, 200, 201}, block
        else:
            shown = re.sub(r"(?<=\d)…", "", block)
            shown = re.sub(r",\s*…", "", shown)
            assert is_part(json.loads(shown), last[-1][1]), block
            n_shown += 1
    assert n_shown == 6


def test_your_data_shows_what_the_command_line_prints(tour: Tour) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```", YOUR_DATA, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line != "$ make run"]
    printed = ""
    for line in lines:
        if line.startswith("$ .venv/bin/flask "):
            with chdir(tour.folder):
                result = tour.runner.invoke(args=shlex.split(line)[2:])
            assert result.exit_code == 0, (line, result.output)
            printed = f"\n{result.output}"
        else:
            assert f"\n{line.removesuffix('…').rstrip()}" in printed, line
    assert printed


def test_the_page_on_formats_trains_on_files_and_predicts_a_folder(tour: Tour) -> None:
    (trained, model), (accepted, job) = tour.answers["docs/data.md"]
    assert (trained, accepted) == (201, 202)
    assert model["model"]["n_train"] + model["model"]["n_test"] == 40
    assert job["options"]["source"] == "sales/2026/*.parquet"

    def has_ended() -> bool:
        shown = tour.runner.invoke(args=["jobs", "show", str(job["id"])]).output
        return json.loads(shown)["status"] == "succeeded"

    wait_until(has_ended, DEADLINE)  # its version, without the shop, is not the last one
    for line in re.findall(r"^\$ \.venv/bin/flask (.*)$", DATA, re.M):
        with chdir(tour.folder):
            result = tour.runner.invoke(args=shlex.split(line))
        assert result.exit_code == 0, (line, result.output)

    predicted = pd.read_parquet(tour.folder / "predicted")
    assert predicted["prediction"].tolist() == pytest.approx([*range(3, 63, 3)] * 2)


def test_the_notebook_predicts_what_the_service_predicts(tour: Tour) -> None:
    names: dict[str, Any] = {}
    with chdir(tour.folder):
        for block in re.findall(r"^```python\n(.*?)^```", YOUR_DATA, re.M | re.S):
            exec(block, names)  # noqa: S102 (the page's own lines)
        for model, predicted in (("titanic", "survived"), ("seattle", "weather")):
            args = ["ml", "predict", f"tests/data/{model}.csv", f"{model}-out.csv"]
            tour.runner.invoke(args=[*args, "--model", model, "--extra", "ignore"])
            served = pd.read_csv(f"{model}-out.csv")["prediction"]
            assert served.tolist() == names[predicted].tolist()
