"""What is downloaded predicts elsewhere what it predicts here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.ml.calls import CSV, ML
from tests.ml.test_kinds import DATA, train_table

NOTEBOOK = """
import json, sys
import pandas as pd
import skops.io

file, table = sys.argv[1:]
pipeline = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
print(json.dumps(pipeline.predict(pd.read_csv(table)).tolist()))
"""


@pytest.mark.slow
@pytest.mark.databases("sqlite", only=True)
def test_an_artifact_predicts_the_same_in_an_environment_of_a_notebook(
    client: FlaskClient, tmp_path: Path
) -> None:
    libraries = [f"{name}=={version(name)}" for name in ("scikit-learn", "skops", "pandas")]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True, timeout=120)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", *libraries]
    subprocess.run(install, check=True, timeout=600)

    for name, target, estimator in [
        ("titanic", "survived", "logistic_regression"),
        ("titanic", "survived", "hist_gradient_boosting_classifier"),
        ("auto", "mpg", "random_forest"),
    ]:
        data = (DATA / f"{name}.csv").read_bytes()
        made = train_table(client, data, target=target, estimator=estimator).json["model"]
        url = f"{ML}/models/default/versions/{made['version']}"
        (tmp_path / "model.skops").write_bytes(client.get(f"{url}/artifact").data)
        found = client.post(f"{url}/predict/batch?extra=ignore", data=data, content_type=CSV).json[
            "predictions"
        ]

        ran = subprocess.run(
            [python, "-c", NOTEBOOK, tmp_path / "model.skops", DATA / f"{name}.csv"],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )

        expected = json.loads(ran.stdout)
        if isinstance(found[0], str):
            assert found == expected
        else:
            assert found == pytest.approx(expected, rel=1e-12)
