"""Training on files of the data folder, and predictions from folder to folder, as users do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from pyarrow import csv, parquet
from sklearn.datasets import load_diabetes
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.ml.calls import ML
from tests.tables import WRITERS
from webapp.errors import InvalidInput
from webapp.jobs.processes import ProcessFailed
from webapp.ml.core.learning import Choices
from webapp.ml.core.packing import SourceFiles
from webapp.ml.core.tables.shapes import CsvDialect
from webapp.ml.core.training import TrainingSpec
from webapp.ml.training import service
from webapp.ml.training.service import order_source_training

pytestmark = [on_sqlite, pytest.mark.processes]

DATA = load_diabetes()
N_PARTS = 5
TABLE = pa.table(
    {**dict(zip(DATA.feature_names, DATA.data.T, strict=True)), "progression": DATA.target}
)
FEATURES = TABLE.drop_columns(["progression"])
TRAINING = {"source": "parquet/*.parquet", "target": "progression"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with the diabetes data in five parts, in each format."""
    folder = tmp_path_factory.mktemp("files")
    root = folder / "root"
    for suffix, write in WRITERS.items():
        (root / suffix).mkdir(parents=True)
        for number, part in enumerate(split(TABLE)):
            (root / suffix / f"{number}.{suffix}").write_bytes(write(part))
    semicolons = csv.WriteOptions(delimiter=";")
    csv.write_csv(TABLE, root / "semicolons.csv", semicolons)
    csv.write_csv(TABLE, folder / "outside.csv")
    (root / "link.csv").symlink_to(folder / "outside.csv")
    labels = pa.array(["high" if value > 140 else "low" for value in DATA.target])
    parquet.write_table(FEATURES.append_column("level", labels), root / "classes.parquet")
    return root


def split(table: pa.Table) -> list[pa.Table]:
    step = -(-len(table) // N_PARTS)
    return [table.slice(start, step) for start in range(0, len(table), step)]


@pytest.fixture
def app(app: Flask, root: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """Return an application with a data folder."""
    monkeypatch.setitem(app.config, "DATA_ROOT", str(root))
    return app


def train(client: FlaskClient, headers: Any = None, **body: Any) -> TestResponse:
    return client.post(f"{ML}/train", json={**TRAINING, **body}, headers=headers)


def upload(client: FlaskClient, **options: Any) -> dict[str, Any]:
    """Train on the whole table, sent as CSV, and return the answer."""
    response = client.post(
        f"{ML}/models/uploaded/train",
        query_string={"target": "progression", **options},
        data=WRITERS["csv"](TABLE),
        content_type="text/csv",
    )
    assert response.status_code == 201, response.text
    return dict(response.json or {})


def predict_batch(client: FlaskClient, name: str = "default") -> np.ndarray:
    body = {"instances": DATA.data.tolist()}
    answer = client.post(f"{ML}/models/{name}/predict/batch", json=body).json
    return np.array(answer["predictions"])


@pytest.mark.parametrize("source", ["parquet/*", "csv", "arrow/?.arrow", "semicolons.csv"])
def test_files_train_the_model_that_their_rows_train_when_sent(
    client: FlaskClient, source: str
) -> None:
    delimiter = ";" if source == "semicolons.csv" else ","

    answer = train(client, source=source, test_size=0, delimiter=delimiter)

    assert answer.status_code == 201, answer.text
    expected = upload(client, test_size=0)
    found = answer.json
    np.testing.assert_allclose(
        predict_batch(client), predict_batch(client, "uploaded"), rtol=1e-9, atol=0
    )
    for name in ("mse", "mae", "r2_score"):
        assert found["metrics"][name] == pytest.approx(expected["metrics"][name], rel=1e-9)
    assert found["model"]["source"] == source
    for name in ("n_train", "feature_names", "estimator", "signature"):
        assert found["model"][name] == expected["model"][name], name


def test_rows_that_fit_into_memory_train_any_estimator(client: FlaskClient) -> None:
    options = {"estimator": "decision_tree", "params": {"max_depth": 3}}

    found = train(client, **options).json
    classes = train(client, source="classes.parquet", target="level").json

    uploaded = {**options, "params": json.dumps(options["params"])}
    expected = upload(client, **uploaded)
    assert found["metrics"] == expected["metrics"]
    assert found["model"]["importances"] == expected["model"]["importances"]
    assert classes["model"]["classes"] == ["high", "low"]
    assert classes["model"]["estimator"] == "logistic_regression"


@pytest.mark.parametrize("name", [f"{ML}/train", f"{ML}/models/houses/train"])
def test_a_service_without_a_data_folder_says_so(
    app: Flask, client: FlaskClient, name: str
) -> None:
    app.config["DATA_ROOT"] = None

    answer = client.post(name, json=TRAINING)

    assert answer.status_code == 422
    assert "DATA_ROOT" in answer.json["errors"]["json"]["source"][0]


@pytest.mark.parametrize(
    "source",
    [
        *("../outside.csv", "/etc/passwd", "parquet/../../outside.csv", "link.csv", "*.csv"),
        *("s3://bucket/a.csv", "file:///etc/passwd", "none/*.csv", "parquet/*.csv", ""),
    ],
)
def test_nothing_but_files_of_the_data_folder_is_read(client: FlaskClient, source: str) -> None:
    answer = train(client, source=source)

    assert answer.status_code == 422, answer.text
    assert list(answer.json["errors"]["json"]) == ["source"]
    assert "root" not in answer.text
    assert client.get(f"{ML}/models").json == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"X": [[1]], "y": [1]}, "source"),
        ({"data": [{"progression": 1}]}, "source"),
        ({"target": None}, "target"),
        ({"target": "nobody"}, "target"),
        ({"exclude": ["nobody"]}, "exclude"),
        ({"delimiter": ";", "decimal": ";"}, "decimal"),
        ({"activate": "if_better", "metric": "rmse", "test_size": 0}, "metric"),
        ({"activate": "if_better", "metric": "f1"}, "metric"),
        ({"source": "classes.parquet", "estimator": "ridge", "target": "level"}, "source"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused_by_place(
    client: FlaskClient, body: dict[str, Any], field: str
) -> None:
    answer = train(client, **body)

    assert answer.status_code == 422, answer.text
    assert list(answer.json["errors"]["json"]) == [field], answer.text


def test_a_delimiter_is_for_files_alone(client: FlaskClient) -> None:
    answer = client.post(f"{ML}/train", json={"X": [[1]], "y": [1], "delimiter": ";"})

    assert answer.json["errors"]["json"] == {"delimiter": ["Is for the files of a source."]}


def test_more_rows_than_fit_into_memory_are_refused_with_how_much_they_take(
    app: Flask, client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "MAX_FIT_MEMORY", 64)
    app.config["DATA_ROOT"] = str(tmp_path)
    names = [f"x{n}" for n in range(25)]
    rows = np.random.default_rng(0).standard_normal((26, 100_000))
    table = pa.table(dict(zip([*names, "y"], rows, strict=True)))
    parquet.write_table(table, tmp_path / "a.parquet")
    body = {"source": "a.parquet", "target": "y", "estimator": "random_forest"}

    answer = client.post(f"{ML}/train", json=body)

    (message,) = answer.json["errors"]["json"]["source"]
    assert "would have to be in memory, about 21 MB (100,000 rows × 26 columns)" in message


@pytest.mark.parametrize(
    ("reason", "place", "advice"),
    [
        ("memory", "source", "smaller files or row groups"),
        ("seconds", "estimator", "try fewer rows or columns"),
    ],
)
def test_a_process_that_took_too_much_says_what_to_change(
    app: Flask, reason: str, place: str, advice: str
) -> None:
    files = SourceFiles("csv", Choices("progression"), CsvDialect())
    order = order_source_training(name="a", files=files, spec=TrainingSpec(), root="/srv")

    error = app.extensions["jobs"].kinds[order.kind].explain(order, ProcessFailed(reason))

    assert isinstance(error, InvalidInput)
    assert advice in str(error.faults[place])  # type: ignore[call-overload]


def test_a_client_need_not_wait_and_sees_how_many_rows_were_read(
    app: Flask, client: FlaskClient
) -> None:
    answer = train(client, headers={"Prefer": "respond-async"})
    refused = train(client, headers={"Prefer": "respond-async"}, source="../a.csv")
    app.extensions["jobs"].start()
    job = client.get(answer.headers["Location"], headers={"Prefer": "wait=60"}).json

    assert answer.status_code == 202
    assert refused.status_code == 422
    assert (job["kind"], job["status"]) == ("train_source", "succeeded"), job
    assert job["options"]["source"] == TRAINING["source"]
    assert job["progress"] in (None, {"done": 442, "total": 442, "unit": "rows"})
    version = client.get(job["result"]["url"]).json
    assert version["source"] == TRAINING["source"]


@pytest.mark.parametrize("at_once", [1, 2])
def test_large_files_are_read_by_several_processes_and_train_the_same_model(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    gate = {"activate": "if_better", "metric": "rmse"}
    whole = train(client, **gate).json
    monkeypatch.setattr(service, "SPLIT_BYTES", 0)  # all are large
    monkeypatch.setattr(app.extensions["jobs"].executor, "processes", at_once)

    parts = train(client, **gate).json
    job = client.get(f"{ML}/jobs").json[0]
    tree = train(client, estimator="decision_tree")

    assert job["progress"] == {"done": 442, "total": 442, "unit": "rows"}
    for name in ("mse", "mae", "r2_score"):
        assert parts["metrics"][name] == pytest.approx(whole["metrics"][name], rel=1e-9)
    assert parts["comparison"]["metric"] == "rmse"
    assert parts["model"]["data_digest"] == whole["model"]["data_digest"]
    assert tree.status_code == 201, tree.text  # in memory, by one of them


def test_a_gap_further_on_is_filled_where_the_rows_fit_into_memory(
    app: Flask, client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SPLIT_BYTES", 0)
    app.config["DATA_ROOT"] = str(tmp_path)
    whole, gap = [float(n) for n in range(100)], [None, *range(1, 20)]
    csv.write_csv(pa.table({"x": whole, "y": whole}), tmp_path / "a.csv")
    csv.write_csv(pa.table({"x": gap, "y": whole[:20]}), tmp_path / "b.csv")
    body = {"source": "*.csv", "target": "y"}

    filled = train(client, **body)
    monkeypatch.setattr(service, "ROWS_IN_MEMORY", 1e9)
    refused = train(client, **body)

    assert filled.status_code == 201, filled.text
    assert "is missing" in str(refused.json["errors"]["json"]["source"]["b.csv"]["x"])


@pytest.mark.parametrize("sizes", [(900, 5, 5), (5, 5, 900, 5, 5), (1000,)])
def test_files_of_any_sizes_are_shared_out(
    app: Flask,
    client: FlaskClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[int, ...],
) -> None:
    monkeypatch.setattr(service, "SPLIT_BYTES", 0)
    monkeypatch.setattr(app.extensions["jobs"].executor, "processes", 2)
    app.config["DATA_ROOT"] = str(tmp_path)
    for number, size in enumerate(sizes):
        column = [float(value) for value in range(size)]
        csv.write_csv(pa.table({"x": column, "y": column}), tmp_path / f"{number}.csv")

    answer = train(client, source="*.csv", target="y", test_size=0)

    assert answer.status_code == 201, answer.text
    assert answer.json["model"]["n_train"] == sum(sizes)


def test_files_that_are_gone_when_a_job_begins_fail_it(app: Flask, client: FlaskClient) -> None:
    answer = train(client, headers={"Prefer": "respond-async"}, source="gone/*.csv")
    app.extensions["jobs"].start()
    job = client.get(answer.headers["Location"], headers={"Prefer": "wait=60"}).json

    assert job["status"] == "failed"
    assert job["problem"]["status"] == 422
    assert "matches no file" in str(job["problem"]["errors"])


def test_a_repeat_with_the_same_key_trains_nothing(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "once"}

    first, again = (train(client, headers=headers) for _ in range(2))
    other = train(client, headers=headers, source="csv")

    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json == first.json
    assert len(client.get(f"{ML}/models/default/versions").json) == 1


def test_a_version_is_activated_if_it_is_better_on_the_rows_that_are_held_out(
    client: FlaskClient,
) -> None:
    gate = {"activate": "if_better", "metric": "rmse", "estimator": "ridge"}

    first = train(client, **gate, params={"alpha": 100}).json
    better = train(client, **gate, params={"alpha": 0.01}).json
    worse = train(client, **gate, params={"alpha": 10}).json

    assert [answer["comparison"]["better"] for answer in (first, better, worse)] == [
        *(True, True, False)
    ]
    assert client.get(f"{ML}/models/default").json["active_version"] == 2


def test_the_command_trains_on_files(runner: FlaskCliRunner, client: FlaskClient) -> None:
    options = ["--source", "csv/*.csv", "--target", "progression", "--test-size", "0", "--json"]

    made = runner.invoke(args=["ml", "train", *options])
    both = runner.invoke(args=["ml", "train", __file__, *options])
    neither = runner.invoke(args=["ml", "train", "--target", "progression"])
    outside = runner.invoke(args=["ml", "train", "--target", "y", "--source", "../a.csv"])

    assert made.exit_code == 0, made.output
    version = json.loads(made.stdout)
    assert (version["source"], version["n_train"]) == ("csv/*.csv", 442)
    upload(client, test_size=0)
    np.testing.assert_allclose(predict_batch(client), predict_batch(client, "uploaded"), rtol=1e-9)
    for refused in (both, neither):
        assert refused.exit_code == 2
        assert "Give either FILE or --source." in refused.output
    assert "must be a path below the data folder" in outside.output


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Return a folder of five files of rows to predict for."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, part in enumerate(split(FEATURES)):
        parquet.write_table(part, folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["here", "by two processes"]
)
def test_a_folder_is_predicted_as_a_batch_is(
    app: Flask, inputs: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.extensions["jobs"].executor, "processes", processes)
    out = inputs.parent / "out"
    client, runner = app.test_client(), app.test_cli_runner()
    train(client)

    done = runner.invoke(args=["ml", "predict", str(inputs), str(out)])

    expected = predict_batch(client)
    assert done.exit_code == 0, done.output
    assert "442 rows of 5 files" in done.stderr
    paths = sorted(out.iterdir())
    assert [path.name for path in paths] == [f"{n}.parquet" for n in range(N_PARTS)]
    found = pa.concat_tables(map(parquet.read_table, paths))
    assert found.column_names == ["prediction"]
    np.testing.assert_allclose(found["prediction"].to_numpy(), expected, rtol=1e-12)


def test_predictions_that_are_there_are_not_replaced_unless_it_is_asked_for(
    client: FlaskClient, runner: FlaskCliRunner, inputs: Path
) -> None:
    train(client)
    arguments = ["ml", "predict", str(inputs), str(inputs.parent / "out")]

    done, again = (runner.invoke(args=arguments) for _ in range(2))
    replaced = runner.invoke(args=[*arguments, "--overwrite"])

    assert (done.exit_code, again.exit_code, replaced.exit_code) == (0, 1, 0)
    assert "holds 'out/0.parquet' already" in again.output


@pytest.mark.parametrize("out", [None, "in/0.parquet", "in"])
def test_predictions_of_a_folder_need_another_one(
    client: FlaskClient, runner: FlaskCliRunner, inputs: Path, out: str | None
) -> None:
    train(client)
    before = {path.name: path.read_bytes() for path in inputs.iterdir()}
    arguments = [] if out is None else [str(inputs.parent / out)]

    refused = runner.invoke(args=["ml", "predict", "--overwrite", str(inputs), *arguments])

    assert refused.exit_code == 2
    assert "Give another folder OUT" in refused.output
    assert {path.name: path.read_bytes() for path in inputs.iterdir()} == before


def test_a_fault_names_the_file_and_the_row(
    client: FlaskClient, runner: FlaskCliRunner, inputs: Path
) -> None:
    train(client)
    rows = (
        FEATURES.slice(0, 3).drop_columns(["s6"]).append_column("s6", pa.array([1.0, 2.0, None]))
    )
    parquet.write_table(rows, inputs / "3.parquet")

    failed = runner.invoke(args=["ml", "predict", str(inputs), str(inputs.parent / "out")])

    assert failed.exit_code == 1
    assert "3.parquet.s6.2: is missing" in failed.output
    assert sorted(path.name for path in (inputs.parent / "out").iterdir()) == [
        f"{n}.parquet" for n in range(3)
    ]
