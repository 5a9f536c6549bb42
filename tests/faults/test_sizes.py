"""Small requests that make large answers, large models and long fits: all within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import requests

from tests.conftest import migrate
from tests.faults import scaled
from tests.faults.attacks import Cost, measured_attack
from tests.faults.record import RecordAttack
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = pytest.mark.slow

CSV, JSON = "text/csv", "application/json"
FIT_SECONDS = 10
MEGABYTE = 1_000_000
PATIENCE = 300  # seconds for one answer

Attack: TypeAlias = Callable[[], AbstractContextManager["Sender"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GunicornServer]:
    """Return a service on SQLite whose fits may take ten seconds."""
    folder = tmp_path_factory.mktemp("sizes")
    url = f"sqlite:///{folder / 'webapp.db'}"
    migrate(url)
    with running_gunicorn(
        url, Path(folder / "log"), WEB_CONCURRENCY="1", MAX_FIT_SECONDS=str(FIT_SECONDS)
    ) as running:
        yield running


class Sender:
    """Sends tables to the models of a service, and counts what that costs."""

    def __init__(self, server: GunicornServer, cost: Cost) -> None:
        self.server, self.cost = server, cost

    def __call__(
        self,
        path: str,
        table: np.ndarray[Any, Any] | None = None,
        accept: str = JSON,
        **query: Any,
    ) -> requests.Response:
        """Send a table, or read where there is none; of a long answer, the beginning is kept."""
        body = None if table is None else write_table(table)
        url = f"{self.server.url}/api/v1/ml/models/{path}"
        headers = {"Content-Type": CSV, "Accept": accept}
        options: Any = {"params": query, "headers": headers, "stream": True}
        method = "GET" if body is None else "POST"
        answer = requests.request(method, url, data=body, timeout=PATIENCE, **options)
        self.cost.bytes_in += len(body or b"")
        kept = bytearray()
        for piece in answer.iter_content(2**16):
            self.cost.bytes_out += len(piece)
            kept += piece if len(kept) < 4 * MEGABYTE else b""
        answer._content = bytes(kept)
        return answer


@pytest.fixture
def attack(
    server: GunicornServer, record_attack: RecordAttack, request: pytest.FixtureRequest
) -> Attack:
    """Return a function that begins an attack, whose cost is recorded under the test's name."""

    @contextmanager
    def begin() -> Iterator[Sender]:
        with measured_attack(server) as cost:
            yield Sender(server, cost)
        record_attack(request.node.name.removeprefix("test_").replace("_", " "), cost)
        assert cost.worst_health < 5

    return begin


def write_table(values: np.ndarray[Any, Any]) -> bytes:
    """Return a matrix as CSV: columns x1, x2, … or, of a structured array, its fields."""
    names = values.dtype.names or [f"x{n + 1}" for n in range(values.shape[1])]
    rows = values.tolist()
    lines = [",".join(names), *(",".join(map(str, row)) for row in rows)]
    return "\n".join(lines).encode()


def with_target(X: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a table of the features x1, x2, … and the target y."""
    names = [f"x{n + 1}" for n in range(X.shape[1])]
    return np.rec.fromarrays([*X.T, y], names=[*names, "y"])


def train_classes(send: Sender, name: str, X: np.ndarray[Any, Any], **query: Any) -> Any:
    """Train a logistic regression that tells each row from all others."""
    table = with_target(X, np.arange(len(X)))
    params = '{"max_iter": 1}'
    options = {"estimator": "logistic_regression", "params": params, "test_size": 0, **query}
    return send(f"{name}/train", table, target="y", **options)


def test_answers_of_a_thousand_classes_are_bounded(attack: Attack) -> None:
    rows = np.zeros((50_000, 1), dtype=int)

    with attack() as send:
        trained = train_classes(send, "classes", np.arange(1000)[:, np.newaxis])
        in_json = send("classes/predict/batch", rows)
        in_csv = send("classes/predict/batch", rows, CSV)

    assert trained.status_code == 201
    for refused in (in_json, in_csv):
        assert refused.status_code == 422
        assert "50050000 values, 1001 for each of 50000 rows" in refused.json()["detail"]
    assert send.cost.bytes_out < MEGABYTE
    assert send.cost.peak_memory < 150 * MEGABYTE


def test_a_long_table_is_written_piece_by_piece(attack: Attack) -> None:
    rows = np.zeros((scaled(5000, 49_000), 1), dtype=int)

    with attack() as send:
        train_classes(send, "long", np.arange(1000)[:, np.newaxis])
        answer = send("long/predict/batch", rows, CSV)

    assert answer.status_code == 200
    assert send.cost.bytes_out > 5000 * len(rows)
    probabilities = 8 * 1000 * len(rows)
    assert send.cost.peak_memory < 3 * probabilities + 100 * MEGABYTE


def test_names_of_extrapolated_features_are_bounded(attack: Attack) -> None:
    names = [f"{'long' * 60}{number}" for number in range(200)]
    fitted = np.rec.fromarrays(np.zeros((201, 3)), names=[*names, "y"])
    rows = np.rec.fromarrays(np.ones((200, 20_000), dtype=int), names=names)

    with attack() as send:
        trained = send("extrapolated/train", fitted, target="y", test_size=0)
        answer = send("extrapolated/predict/batch", rows)

    assert trained.status_code == 201
    assert answer.json()["extrapolated_counts"] == dict.fromkeys(names, 20_000)
    assert send.cost.bytes_out < 2 * send.cost.bytes_in
    assert send.cost.peak_memory < 300 * MEGABYTE


def test_versions_of_a_million_coefficients_are_listed_lightly(attack: Attack) -> None:
    X = np.eye(1000, dtype=int)
    sizes = []

    with attack() as send:
        trained = [train_classes(send, "wide", X) for _ in range(2)]
        for path in ("wide/versions", "wide/versions/1", "wide/versions/1/coefficients"):
            before = send.cost.bytes_out
            assert send(path).status_code == 200
            sizes.append(send.cost.bytes_out - before)

    assert [answer.status_code for answer in trained] == [201, 201]
    listed, shown, whole = sizes
    assert listed < 5000
    assert shown < 200_000
    assert 2 * MEGABYTE < whole < 30 * MEGABYTE


ENDLESS = {"max_iter": 100_000, "tol": 0}


# Each took gigabytes, or ran far past MAX_FIT_SECONDS.
@pytest.mark.parametrize(
    ("estimator", "params", "shape", "n_classes", "limit"),
    [
        ("logistic_regression", {"solver": "newton-cholesky"}, (10, 1000), 10, "MAX_FIT_MEMORY"),
        ("random_forest_classifier", {}, (100_000, 3), 1000, "MAX_FIT_MEMORY"),
        ("logistic_regression", {"solver": "saga"} | ENDLESS, (20_000, 10), 3, "MAX_FIT_SECONDS"),
        ("ridge", {"solver": "sag"} | ENDLESS, (20_000, 10), 1, "MAX_FIT_SECONDS"),
    ],
    ids=["newton-cholesky", "forest", "saga", "sag"],
)
def test_a_training_beyond_the_limits_is_refused(
    attack: Attack,
    estimator: str,
    params: dict[str, Any],
    shape: tuple[int, int],
    n_classes: int,
    limit: str,
) -> None:
    X = np.random.RandomState(0).randint(10, size=shape)
    y = np.arange(len(X)) % n_classes if n_classes > 1 else X[:, 0]
    options = {"estimator": estimator, "params": json.dumps(params), "test_size": 0}

    with attack() as send:
        refused = send("huge/train", with_target(X, y), target="y", **options)

    assert refused.status_code == 422
    assert limit in refused.json()["detail"]
    assert send.cost.peak_memory < 300 * MEGABYTE


def test_iterations_that_are_let_through_end_soon_after_the_limit(attack: Attack) -> None:
    X = np.random.RandomState(0).randint(10, size=(20_000, 10))
    steps = 0.9 * FIT_SECONDS / (len(X) * (1e-6 + 8e-9 * X.shape[1] * 3))
    params = json.dumps({"solver": "saga", "tol": 0, "max_iter": int(steps)})
    options = {"estimator": "logistic_regression", "params": params, "test_size": 0}
    table = with_target(X, np.arange(len(X)) % 3)

    with attack() as send:
        answer = send("iterations/train", table, target="y", **options)

    assert answer.status_code in (201, 422)  # the limit itself may end it
    assert send.cost.seconds < 5 * FIT_SECONDS
