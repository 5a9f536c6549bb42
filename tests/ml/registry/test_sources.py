"""The name of the file that a version came from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient, FlaskCliRunner

from tests.faults import on_sqlite
from tests.ml.calls import CSV, MODEL, train_constant

ROWS = b"x1,y\n1,2\n2,3\n3,5\n"


def train_form(client: FlaskClient, filename: str) -> Any:
    file = (io.BytesIO(ROWS), filename, CSV)
    return client.post(f"{MODEL}/train", data={"file": file, "target": "y"})


def test_rows_without_a_file_have_no_name(client: FlaskClient) -> None:
    by_json = train_constant(client, 7)
    by_body = client.post(f"{MODEL}/train?target=y", data=ROWS, content_type=CSV)

    assert by_json.json["model"]["source"] is by_body.json["model"]["source"] is None


@on_sqlite
@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("june.csv", "june.csv"),
        ("Daten/Häuser 2026.csv", "Häuser 2026.csv"),
        ("../../etc/rows.csv", "rows.csv"),
        ("a\u202eb.csv", None),
        ("x" * 300 + ".csv", "x" * 255),
    ],
)
def test_a_file_is_known_by_its_name_alone(
    client: FlaskClient, filename: str, shown: str | None
) -> None:
    assert train_form(client, filename).json["model"]["source"] == shown
    assert client.get(f"{MODEL}/versions").json[0]["source"] == shown


@on_sqlite
def test_an_upload_and_the_command_line_have_names_too(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    rows, model = tmp_path / "june.csv", tmp_path / "model.skops"
    rows.write_bytes(ROWS)
    command = ["--model", "house-prices"]

    trained = runner.invoke(args=["ml", "train", str(rows), "--target", "y", *command])
    runner.invoke(args=["ml", "export", "1", str(model), *command])
    imported = runner.invoke(args=["ml", "import", str(model), *command])
    form = {"artifact": (io.BytesIO(model.read_bytes()), "from-ann.skops")}
    uploaded = client.post(f"{MODEL}/versions", data=form)

    assert (trained.exit_code, imported.exit_code, uploaded.status_code) == (0, 0, 201)
    listed = client.get(f"{MODEL}/versions").json
    assert [v["source"] for v in listed] == ["from-ann.skops", "model.skops", "june.csv"]
