"""`flask ml`: what a person does at the command line, and what goes wrong there."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from tests.ml.calls import ML, predict
from tests.tables import WRITERS
from webapp.jobs.processes import Task
from webapp.jobs.service import Order
from webapp.ml import cli

DATA = load_diabetes()


@pytest.fixture
def diabetes(tmp_path: Path) -> Path:
    """Return scikit-learn's diabetes data as a CSV file with a header."""
    path = tmp_path / "diabetes.csv"
    columns = dict(zip(DATA.feature_names, DATA.data.T, strict=True))
    path.write_bytes(WRITERS["csv"](pa.table({**columns, "progression": DATA.target})))
    return path


def write(path: Path, content: str) -> str:
    path.write_text(content)
    return str(path)


def test_a_csv_file_trains_the_model_that_the_service_serves(
    runner: FlaskCliRunner, client: FlaskClient, diabetes: Path
) -> None:
    before = runner.invoke(args=["ml", "info"])

    arguments = ["--target", "progression", "--test-size", "0"]
    result = runner.invoke(args=["ml", "train", str(diabetes), *arguments])

    assert result.exit_code == 0, result.output
    expected = LinearRegression().fit(DATA.data, DATA.target).predict(DATA.data[:1])[0]
    served = client.post(f"{ML}/predict", json={"features": DATA.data[0].tolist()}).json
    row = ",".join(map(str, DATA.data[0]))
    printed = runner.invoke(args=["ml", "predict", f"--features={row}"]).stdout
    assert served["prediction"] == pytest.approx(expected, abs=1e-9)
    assert float(printed) == pytest.approx(expected, abs=1e-9)
    after = runner.invoke(args=["ml", "info"])
    as_json = json.loads(runner.invoke(args=["ml", "info", "--json"]).stdout)
    assert (before.exit_code, before.output) == (0, "Model 'default' is not trained.\n")
    assert "LinearRegression" in after.output
    assert as_json["feature_names"] == DATA.feature_names


def test_train_takes_the_options_of_the_service(runner: FlaskCliRunner, diabetes: Path) -> None:
    options = "--estimator ridge --param alpha=0.5 --scale --cv 3 --no-activate --json"
    arguments = ["ml", "train", str(diabetes), "--target", "progression", *options.split()]

    result = runner.invoke(args=arguments)

    version = json.loads(result.stdout)
    assert version["params"]["alpha"] == 0.5
    assert version["scale"] is True
    assert version["metrics"]["cross_validation"]["folds"] == 3
    assert "not trained" in runner.invoke(args=["ml", "info"]).output


class Counting:
    """A runner whose job is always as far as it says, and then fails."""

    def run(self, _session: Any, _order: Any, *, watch: Callable[[Task], object]) -> None:
        """Tell how far a job is, and fail."""
        task = Task()
        watch(task)
        for done, total, unit in [(0, 300, "trees"), (155, 300, "trees"), (7, None, "rows")]:
            task.progress = {"done": done, "total": total, "unit": unit}
            watch(task)
        raise ZeroDivisionError


@pytest.mark.databases("sqlite")
def test_a_terminal_shows_how_far_a_training_is_and_a_file_does_not(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "job_runner", lambda _kind: Counting())

    def train_with(stream: IO[str]) -> None:
        monkeypatch.setattr(sys, "stderr", stream)
        with app.app_context(), pytest.raises(ZeroDivisionError):
            cli.run_job(Order("train", "default", {}, b""))

    screen, terminal = pty.openpty()
    with os.fdopen(screen, "rb") as shown, os.fdopen(terminal, "w") as stream:
        train_with(stream)
        drawn = ""
        while not drawn.endswith("\n"):
            drawn += os.read(shown.fileno(), 1000).decode()
    train_with(file := io.StringIO())

    half, rest = "#" * 15, "-" * 15
    started, halfway, unknown, end = drawn.split("\r")[1:]
    assert started == f"[{rest}{rest}] 0 of 300 trees"
    assert halfway == f"[{half}{rest}] 155 of 300 trees"
    assert unknown.rstrip() == "7 rows"
    assert len(unknown) == len(halfway)  # nothing of the line before is left
    assert end == "\n"
    assert file.getvalue() == ""


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_predict_reads_every_format_with_columns_in_any_order_and_writes_a_file(
    runner: FlaskCliRunner, client: FlaskClient, diabetes: Path, tmp_path: Path, suffix: str
) -> None:
    runner.invoke(args=["ml", "train", str(diabetes), "--target", "progression"])
    table = pa.table(dict(zip(DATA.feature_names[::-1], DATA.data.T[::-1], strict=True)))
    rows, out = tmp_path / f"rows.{suffix}", tmp_path / "predictions.csv"
    rows.write_bytes(WRITERS[suffix](table))

    result = runner.invoke(args=["ml", "predict", str(rows), str(out)])

    assert result.exit_code == 0, result.output
    header, *lines = out.read_text().splitlines()
    batch = client.post(f"{ML}/predict/batch", json={"instances": DATA.data.tolist()}).json
    assert header == "prediction"
    np.testing.assert_allclose([float(line) for line in lines], batch["predictions"], rtol=1e-12)


def test_a_named_model_lives_its_whole_life_on_the_command_line(
    runner: FlaskCliRunner, client: FlaskClient, tmp_path: Path
) -> None:
    trial = f"{ML}/models/trial"

    def ml(*arguments: str) -> str:
        result = runner.invoke(args=["ml", *arguments, "--model", "trial"])
        assert result.exit_code == 0, result.output
        return result.stdout

    for value in (7, 11):
        path = write(tmp_path / "constant.csv", f"a,y\n0,{value}\n1,{value}\n")
        ml("train", path, "--target", "y")
    assert predict(client, trial) == (11, 2)
    ml("activate", "1")
    assert predict(client, trial) == (7, 1)
    ml("rollback")
    assert predict(client, trial) == (11, 2)

    artifact = str(tmp_path / "one.skops")
    ml("export", "1", artifact)
    ml("import", artifact, "--activate")
    assert predict(client, trial) == (7, 3)

    models = runner.invoke(args=["ml", "models", "--json"]).stdout
    assert json.loads(models)[0]["active_version"] == 3
    assert [v["version"] for v in json.loads(ml("versions", "--json"))] == [3, 2, 1]
    shown = json.loads(ml("show", "3", "--json"))
    assert (shown["origin"], shown["created_by"][:4]) == ("uploaded", "cli:")
    assert "trial" in runner.invoke(args=["ml", "models"]).stdout
    assert "uploaded" in ml("versions")
    assert "LinearRegression" in ml("show", "1")
    history = client.get(f"{trial}/activations").json
    assert {a["activated_by"][:4] for a in history} == {"cli:"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "{csv}", "--target", "z"], "no column 'z'"),
        (["train", "{csv}", "--target", "y", "--model", "Not A Name"], "--model"),
        (["train", "{csv}", "--target", "y", "--param", "alpha"], "NAME=VALUE"),
        (["train", "{csv}", "--target", "y", "--param", "alpha=1"], "is no parameter"),
        (["train", "{csv}", "--target", "y", "--test-size", "2"], "test_size"),
        (["train", "rows.txt", "--target", "y"], "has none of the suffixes"),
        (["predict", "--features", "1"], "has no active version"),
        (["predict", "--model", "default", "--features", "1,2,two"], "is not a number"),
        (["predict", "--model", "default", "--features", ""], "has no rows"),
        (["predict", "--model", "default", "--features", "1,2,nan"], "finite"),
        (["predict", "--model", "default", "--features", "1,2"], "has 2 values, expected 3"),
        (["activate", "7"], "no version 7"),
        (["rollback"], "no model named"),
        (["show", "7"], "no version 7"),
        (["versions"], "no model named"),
        (["export", "7", "out.skops"], "no version 7"),
        (["import", "{csv}"], "not a skops file"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    runner: FlaskCliRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "rows.csv", "a,y\n0,1\n1,1\n")
    write(tmp_path / "rows.txt", "a,y\n0,1\n1,1\n")
    if "default" in arguments:
        runner.invoke(args=["seed"])

    result = runner.invoke(args=["ml", *(a.replace("{csv}", path) for a in arguments)])

    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_a_wrong_call_is_refused(runner: FlaskCliRunner) -> None:
    for arguments, complaint in {
        "train nowhere.csv --target y": "does not exist",
        "train": "FILE",
        f"train {__file__} --target y --estimator oracle": "'ridge'",
        "predict": "Give either",
    }.items():
        result = runner.invoke(args=["ml", *arguments.split()])

        assert result.exit_code == 2
        assert complaint in result.output
