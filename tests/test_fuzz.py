"""Calls made up from the OpenAPI document: no answer is a 5xx, or one that it does not describe.

Schemathesis makes them up, against a real gunicorn, by the rules of ``fuzz.toml`` and
``fuzz_hooks``: from the examples, systematically (coverage), by chance (fuzzing) and in
sequences (stateful). FUZZ_EXAMPLES, the calls by chance for each operation, makes it as long as
wanted (`make fuzz`), and FUZZ_SEED repeats the calls of a run that drew its seed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.access.holders import bearer, make_holder
from tests.conftest import Backend, dispose_app, make_app
from tests.gunicorn_server import ROOT, running_gunicorn
from webapp.scopes import Scope

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
SHORT = EXAMPLES < 20
FIXED_SEED = 1
# A short run must not depend on luck: it makes the same calls every time.
DRAWN = FIXED_SEED if SHORT else random.SystemRandom().randrange(2, 2**32)
SEED = int(os.environ.get("FUZZ_SEED") or DRAWN)

RUNS = [
    ("sqlite", "fixed", FIXED_SEED),
    ("postgresql", "drawn", SEED),
    *([] if SHORT else [("sqlite", "drawn", SEED), ("postgresql", "fixed", FIXED_SEED)]),
]
RULES = (ROOT / "tests" / "fuzz.toml").read_text()
# Left out of short runs: coverage calls each of the ways to train 1,800 times, which takes
# most of its time.
SHORTLY = """
[[operations]]
include-path-regex = "/(train|search)$"
phases.coverage.enabled = false
"""


def prepare(url: str, artifact: Path, key: str) -> None:
    """Store the items, models and versions that ``fuzz.toml`` names; fetch one to upload."""
    session = requests.Session()
    session.headers.update(bearer(key))
    api = f"{url}/api/v1"
    sample = session.get(f"{api}/ml/sample-data?n_samples=20", timeout=30).json()
    calls: list[tuple[str, object]] = [("items", {"name": f"item {n}"}) for n in range(1, 20)]
    labels = ["high" if value > 0 else "low" for value in sample["y"]]
    for name, estimator, y in (
        ("default", "linear_regression", sample["y"]),
        ("other", "ridge", sample["y"]),
        ("classes", "logistic_regression", labels),
        ("spare", "ridge", sample["y"]),
    ):
        body = {"X": sample["X"], "y": y, "estimator": estimator}
        calls += [(f"ml/models/{name}/train", body)] * 4
    for path, body in calls:
        response = session.post(f"{api}/{path}", json=body, timeout=30)
        assert response.status_code == 201, response.text
    for name in ("default", "other", "classes"):
        alias = f"{api}/ml/models/{name}/aliases/champion"
        assert session.put(alias, json={"version": 1}, timeout=30).status_code == 200
    stored = session.get(f"{api}/ml/models/default/versions/1/artifact", timeout=30)
    artifact.write_bytes(stored.content)
    # The first upload waits for the process that those of uploads are forked from.
    uploaded = {"artifact": ("model.skops", stored.content)}
    response = session.post(f"{api}/ml/models/other/versions", files=uploaded, timeout=60)
    assert response.status_code == 201, response.text


@pytest.mark.parametrize(
    ("backend", "seed"),
    [pytest.param(backend, seed, id=f"{backend}-{kind} seed") for backend, kind, seed in RUNS],
    indirect=["backend"],
)
def test_every_answer_is_one_that_the_document_describes(
    backend: Backend, database_url: str, tmp_path: Path, seed: int
) -> None:
    log = tmp_path / "gunicorn.log"
    app = make_app(database_url, AUTH="on")
    key = make_holder(app, "fuzz", *Scope)
    dispose_app(app)
    settings = {"ACCESS_LOG": "false", "MODEL_LEASE_MS": "1", "WEB_CONCURRENCY": "1"}
    settings["DATA_ROOT"] = str(tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("x1,x2,x3,y\n1,2,3,4\n2,3,4,5\n")
    rules, artifact = tmp_path / "schemathesis.toml", tmp_path / "model.skops"
    rules.write_text(RULES + SHORTLY if SHORT else RULES)
    with running_gunicorn(database_url, log, AUTH="on", **settings) as server:
        prepare(server.url, artifact, key)
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(rules)),
            *("run", f"{server.url}/openapi.json", "--seed", str(seed)),
            *("--max-examples", str(EXAMPLES)),
            *("--header", f"Authorization: {bearer(key)['Authorization']}"),
        ]
        environment = {**os.environ, "FUZZ_ARTIFACT": str(artifact), "FUZZ_KEY": key}
        environment["FUZZ_URL"] = server.url
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    print(run.stdout, run.stderr, log.read_text(), sep="\n")
    assert run.returncode == 0, f"FUZZ_SEED={seed} repeats it, on {backend.name}"
