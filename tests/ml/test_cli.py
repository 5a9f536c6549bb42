"""`flask ml`: what a person does at the command line, and what goes wrong there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from flask.testing import FlaskClient, FlaskCliRunner
from pyarrow import ipc, parquet
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression


@pytest.fixture
def diabetes(tmp_path: Path) -> Path:
    """Return scikit-learn's diabetes data as a CSV file with a header."""
    data = load_diabetes()
    path = tmp_path / "diabetes.csv"
    header = ",".join([*data.feature_names, "progression"])
    rows = np.column_stack([data.data, data.target])
    lines = [",".join(repr(float(value)) for value in row) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_a_csv_file_trains_the_model_that_the_service_serves(
    runner: FlaskCliRunner, client: FlaskClient, diabetes: Path
) -> None:
    X, y = load_diabetes(return_X_y=True)

    result = runner.invoke(
        args=["ml", "train", str(diabetes), "--target", "progression", "--test-size", "0"]
    )

    assert result.exit_code == 0, result.output
    expected = LinearRegression().fit(X, y).predict(X[:1])[0]
    served = client.post("/api/v1/ml/predict", json={"features": X[0].tolist()}).json
    assert served["prediction"] == pytest.approx(expected, abs=1e-9)
    assert client.get("/api/v1/ml/model-info").json["model"]["feature_names"][2] == "bmi"


def test_the_same_rows_give_the_same_model_by_csv_and_by_json(
    runner: FlaskCliRunner, client: FlaskClient, diabetes: Path
) -> None:
    X, y = load_diabetes(return_X_y=True)
    client.post("/api/v1/ml/train", json={"X": X.tolist(), "y": y.tolist()})
    row = {"features": X[7].tolist()}
    by_json = client.post("/api/v1/ml/predict", json=row).json

    runner.invoke(args=["ml", "train", str(diabetes), "--target", "progression"])

    by_csv = client.post("/api/v1/ml/predict", json=row).json
    assert by_csv["model"]["version"] == 2
    assert by_csv["prediction"] == pytest.approx(by_json["prediction"], rel=1e-9)


def test_predict_writes_a_line_per_row_whatever_the_order_of_columns(
    runner: FlaskCliRunner, tmp_path: Path
) -> None:
    train = tmp_path / "train.csv"
    train.write_text("a,b,y\n1,0,1\n0,1,2\n1,1,3\n0,0,0\n")
    runner.invoke(args=["ml", "train", str(train), "--target", "y"])
    rows = tmp_path / "rows.csv"
    rows.write_text("b,a\n1,0\n0,1\n")

    result = runner.invoke(args=["ml", "predict", str(rows)])

    header, *values = result.stdout.splitlines()
    assert header == "prediction"
    assert [float(value) for value in values] == pytest.approx([2, 1])


def test_predict_takes_one_row_from_the_command_line(runner: FlaskCliRunner) -> None:
    runner.invoke(args=["seed"])

    result = runner.invoke(args=["ml", "predict", "--features", "1,2,3"])

    assert float(result.stdout) == pytest.approx(4.960877268071006, abs=1e-9)


def test_info_tells_what_serves(runner: FlaskCliRunner) -> None:
    before = runner.invoke(args=["ml", "info"])
    runner.invoke(args=["seed"])
    after = runner.invoke(args=["ml", "info"])
    as_json = runner.invoke(args=["ml", "info", "--json"])

    assert (before.exit_code, after.exit_code) == (0, 0)
    assert "not trained" in before.output
    assert "LinearRegression" in after.output
    assert json.loads(as_json.stdout)["metrics"]["r2_score"] == pytest.approx(0.99961, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a,b\n1,2\n", "no column 'y'"),
        ("y\n1\n", "no column beside"),
        ("a,y\n", "no rows"),
        ("", "not a CSV table"),
        ("a,y\n1,2\n3\n", "has 1 values, expected 2"),
        ("a,a,y\n1,2,3\n", "more than one column named a"),
        ("a,y\nx,1\n", "a.0: is not a number"),
        ("a,y\n1,\n2,\n", "y: has no values"),
        ("a,y\nnan,1\n2,3\n", "missing or not finite"),
        ("a,y\n1,inf\n2,3\n", "missing or not finite"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(
    runner: FlaskCliRunner, tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)

    result = runner.invoke(args=["ml", "train", str(path), "--target", "y"])

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert complaint in result.stderr
    assert "not trained" in runner.invoke(args=["ml", "info"]).output


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (["train", "nowhere.csv", "--target", "y"], 2, "does not exist"),
        (["train"], 2, "FILE"),
        (["predict"], 2, "Give either"),
        (["predict", "--features", "1,two"], 1, "numbers separated by commas"),
        (["predict", "--features", "1,nan,3"], 1, "finite"),
        (["predict", "--features", "1,2"], 1, "has 2 values, expected 3"),
        (["predict", "--features", ""], 1, "numbers separated by commas"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(
    runner: FlaskCliRunner, arguments: list[str], exit_code: int, complaint: str
) -> None:
    runner.invoke(args=["seed"])

    result = runner.invoke(args=["ml", *arguments])

    assert result.exit_code == exit_code
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_predicting_untrained_says_so(runner: FlaskCliRunner) -> None:
    result = runner.invoke(args=["ml", "predict", "--features", "1"])

    assert result.exit_code == 1
    assert "not trained" in result.output


def make_constant(folder: Path, value: float) -> Path:
    """Return a CSV file whose every row has the same y."""
    path = folder / f"constant-{value}.csv"
    path.write_text(f"a,y\n0,{value}\n1,{value}\n")
    return path


def test_a_named_model_lives_its_whole_life_on_the_command_line(
    runner: FlaskCliRunner, client: FlaskClient, tmp_path: Path
) -> None:
    def ml(*arguments: str) -> str:
        result = runner.invoke(args=["ml", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    def serves() -> tuple[float, int]:
        answer = client.post("/api/v1/ml/models/trial/predict", json={"features": [0.5]}).json
        return round(answer["prediction"], 9), answer["model"]["version"]

    for value in (7.0, 11.0):
        ml("train", str(make_constant(tmp_path, value)), "--target", "y", "--model", "trial")
    assert serves() == (11, 2)
    ml("activate", "1", "--model", "trial")
    assert serves() == (7, 1)
    ml("rollback", "--model", "trial")
    assert serves() == (11, 2)

    artifact = tmp_path / "one.skops"
    ml("export", "1", str(artifact), "--model", "trial")
    ml("import", str(artifact), "--model", "trial", "--activate")
    assert serves() == (7, 3)

    assert json.loads(ml("models", "--json"))[0]["active_version"] == 3
    assert [v["version"] for v in json.loads(ml("versions", "--model", "trial", "--json"))] == [
        *(3, 2, 1)
    ]
    shown = json.loads(ml("show", "3", "--model", "trial", "--json"))
    assert (shown["origin"], shown["created_by"][:4]) == ("uploaded", "cli:")
    assert "trial" in ml("models")
    assert "uploaded" in ml("versions", "--model", "trial")
    assert "LinearRegression" in ml("show", "1", "--model", "trial")
    history = client.get("/api/v1/ml/models/trial/activations").json
    assert {a["activated_by"][:4] for a in history} == {"cli:"}


def test_train_takes_estimator_parameters_and_folds(
    runner: FlaskCliRunner, diabetes: Path
) -> None:
    result = runner.invoke(
        args=[
            *("ml", "train", str(diabetes), "--target", "progression", "--estimator", "ridge"),
            *("--param", "alpha=0.5", "--scale", "--cv", "3", "--json"),
        ]
    )

    version = json.loads(result.stdout)
    assert version["params"]["alpha"] == 0.5
    assert version["scale"] is True
    assert version["metrics"]["cross_validation"]["folds"] == 3


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_predict_reads_every_form_and_writes_a_file(
    runner: FlaskCliRunner, client: FlaskClient, diabetes: Path, tmp_path: Path, suffix: str
) -> None:
    runner.invoke(args=["ml", "train", str(diabetes), "--target", "progression"])
    X = load_diabetes().data
    table = pa.table({name: X[:, i] for i, name in enumerate(load_diabetes().feature_names)})
    rows, out = tmp_path / f"rows.{suffix}", tmp_path / "predictions.csv"
    if suffix == "parquet":
        parquet.write_table(table, rows)
    elif suffix == "arrow":
        with ipc.new_stream(str(rows), table.schema) as writer:
            writer.write_table(table)
    else:
        rows.write_text(
            "\n".join(
                [",".join(table.column_names), *(",".join(map(repr, r)) for r in X.tolist())]
            )
        )

    result = runner.invoke(args=["ml", "predict", str(rows), str(out)])

    assert result.exit_code == 0, result.output
    header, *lines = out.read_text().splitlines()
    batch = client.post("/api/v1/ml/predict/batch", json={"instances": X.tolist()}).json
    assert header == "prediction"
    np.testing.assert_allclose([float(line) for line in lines], batch["predictions"], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["activate", "7"], "no version 7"),
        (["rollback"], "no model named"),
        (["show", "7"], "no version 7"),
        (["versions"], "no model named"),
        (["export", "7", "out.skops"], "no version 7"),
        (["train", "{csv}", "--target", "y", "--model", "Not A Name"], "--model"),
        (["train", "{csv}", "--target", "y", "--param", "alpha"], "NAME=VALUE"),
        (["train", "{csv}", "--target", "y", "--param", "alpha=1"], "is no parameter"),
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
    path = str(make_constant(tmp_path, 1.0))
    monkeypatch.chdir(tmp_path)

    result = runner.invoke(args=["ml", *(a.replace("{csv}", path) for a in arguments)])

    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
