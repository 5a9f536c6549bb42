"""What the census knows of the service, and what it holds every answer to."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.tables import to_arrow, to_csv, to_parquet
from tests.web.test_api import assert_problem
from webapp.db.base import Base
from webapp.extensions import api, db

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.stream"
MULTIPART = "multipart/form-data"
BOUNDARY = "0123456789abcdef"
FORM = f"{MULTIPART}; boundary={BOUNDARY}"

PATH_VALUES = {
    "item_id": "1",
    "name": "default",
    "number": "1",
    "alias": "champion",
    "plot": "residuals",
    "job": "1",
}
"""A value of each path parameter that names something which exists."""

VALID = {
    "NewItem": {"name": '"a"', "description": '"b"'},
    "ItemChanges": {"name": '"a"', "description": '"b"'},
    "TrainingRequest": {"X": "[[1, 2, 3], [4, 5, 6]]", "y": "[10, 20]"},
    "SearchRequest": {
        "X": "[[1, 2, 3], [4, 5, 6], [7, 8, 10], [2, 1, 1]]",
        "y": "[10, 20, 33, 5]",
        "estimator": '"ridge"',
        "grid": '{"alpha": [0.1]}',
        "cv": "2",
    },
    "PredictionRequest": {"features": "[1, 2, 3]"},
    "BatchRequest": {"instances": "[[1, 2, 3], [4, 5, 6]]"},
    "ActivationRequest": {"version": "1"},
    "TrafficRequest": {"shares": '{"1": 100}'},
    "ModelChanges": {"description": '"a"', "tags": '{"b": "c"}'},
    "VersionChanges": {"notes": '"a"', "tags": '{"b": "c"}'},
    "EvaluationRequest": {"X": "[[1, 2, 3], [4, 5, 6]]", "y": "[10, 20]"},
    "InspectionRequest": {"data": '[{"a": 1, "b": "x"}]'},
}
"""A body that is accepted, by the name of its schema: field → JSON text."""

LEAKS = re.compile(
    r"Traceback|\.py\b|site-packages|/(home|work|usr|tmp)/|[a-z](Error|Exception|Warning)\b"
    r"|<class|object at 0x|\b(SELECT|INSERT|UPDATE|psycopg|sqlite3?|sqlalchemy|marshmallow"
    r"|werkzeug|flask|orjson|numpy|sklearn|Arrow[A-Z]|webapp\.)",
)

Place = tuple[str, ...]


@dataclass
class Operation:
    """A method at a path of the document, and what it takes.

    ``bodies`` maps media types to the names of their schemas, "" where there is none.
    """

    method: str
    template: str
    bodies: Mapping[str, str]
    query: tuple[str, ...]

    def __post_init__(self) -> None:
        """Derive what the census asks of it."""
        self.path = self.template.format(**PATH_VALUES)
        self.parameters = re.findall(r"\{(\w+)\}", self.template)
        self.is_probe = self.template.startswith("/health")  # accepts any query and body
        self.takes_table = CSV in self.bodies
        trains = "target" in self.query
        self.columns = ("x1", "x2", "x3", "y") if trains else ("x1", "x2", "x3")
        self.options = {"target": "y"} if trains else {}
        if "grid" in self.query:
            self.options |= {"estimator": "ridge", "grid": '{"alpha": [0.1]}', "cv": "2"}
        if self.template.endswith("/compare"):
            self.options = {"versions": "1,2"}
        self.takes_numbers = self.takes_table and not trains

    def good_file(self, artifact: bytes) -> tuple[str, bytes, str]:
        """Return what a form must hold: the name of its part, bytes, and the name of a file."""
        if self.takes_table:
            return "file", to_csv(make_table(self.columns)), "rows.csv"
        return "artifact", artifact, "model.skops"

    def valid_body(self, media_type: str, artifact: bytes) -> dict[str, Any]:
        """Return the arguments of a request that is accepted; raises KeyError for news."""
        if media_type == JSON:
            return {"data": json_object(VALID[self.bodies[JSON]]), "content_type": JSON}
        sent = {"content_type": media_type, "query_string": self.options}
        if media_type == MULTIPART:
            return {**sent, "content_type": FORM, "data": form(part(*self.good_file(artifact)))}
        return {**sent, "data": WRITERS[media_type](make_table(self.columns))}

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


def list_operations(app: Flask) -> list[Operation]:
    """Return every operation that the application's document describes."""
    found = []
    for (endpoint, method), described in api.list_operations(app).items():
        rule = next(app.url_map.iter_rules(endpoint)).rule
        content = described.get("requestBody", {}).get("content", {})
        schemas = {kind: media["schema"].get("$ref", "") for kind, media in content.items()}
        parameters = described.get("parameters", [])
        found.append(
            Operation(
                method=method,
                template=re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule),
                bodies={kind: name.rpartition("/")[2] for kind, name in schemas.items()},
                query=tuple(each["name"] for each in parameters if each["in"] == "query"),
            )
        )
    return found


@dataclass
class Census:
    """Sends inputs, holds every answer to the rules, and counts."""

    app: Flask
    client: FlaskClient
    operations: list[Operation]
    artifact: bytes
    inputs: int = 0

    def __post_init__(self) -> None:
        """Find the operations by what they take."""
        self.with_body = [(each, kind) for each in self.operations for kind in each.bodies]
        self.with_json = [each for each in self.operations if JSON in each.bodies]
        self.with_tables = [each for each in self.operations if each.takes_table]
        self.with_forms = [each for each in self.operations if MULTIPART in each.bodies]
        self.with_uploads = [each for each in self.with_forms if not each.takes_table]

    def send(
        self,
        operation: Operation | str,
        note: object,
        status: int | Collection[int],
        *,
        path: str | None = None,
        place: Place | None = None,
        **request: Any,
    ) -> TestResponse:
        """Send an input and judge the answer; ``place`` is where in ``errors`` the fault is."""
        if isinstance(operation, str):
            method, _, path = operation.partition(" ")
        else:
            method, path = operation.method, path or operation.path
        response = self.client.open(path, method=method, **request)
        self.inputs += 1
        about = f"{operation} [{str(note)[:150]}]: {response.data[:300]!r}"
        allowed = {status} if isinstance(status, int) else status
        assert response.status_code in allowed, f"{about} {response.status_code}"
        if method == "HEAD":
            assert response.data == b"", about
        elif response.status_code >= 400:
            check_problem(response, place, about)
        elif response.content_type == JSON:
            orjson.loads(response.data)  # refuses NaN and Infinity
        return response

    def send_file(
        self,
        operation: Operation,
        media_type: str,
        note: object,
        data: bytes,
        status: int | Collection[int] = 422,
        place: Place | None = None,
    ) -> None:
        """Send a table or a form that must be refused."""
        request = {"content_type": media_type, "query_string": operation.options, "place": place}
        self.send(operation, f"{media_type}: {note}", status, data=data, **request)

    def fields_of(self, schema: str, *, only_required: bool = False) -> set[str]:
        """Return the names of the fields that the document gives a schema."""
        with self.app.app_context():
            described = api.spec.to_dict()["components"]["schemas"][schema]
        return set(described.get("required", []) if only_required else described["properties"])


def check_problem(response: TestResponse, place: Place | None, about: str) -> None:
    """Check that an error has the one shape, names its place and tells nothing of the inside."""
    problem = assert_problem(response, response.status_code)
    assert len(response.data) <= 20_000 + 6 * len(problem["instance"]), about
    named = problem.get("errors")
    assert not LEAKS.search(f"{problem['detail']} {named}"), about
    for step in place or ():
        assert isinstance(named, dict), f"{about} does not name {place}"
        assert step in named, f"{about} does not name {place}"
        named = named[step]


def snapshot(app: Flask) -> dict[str, list[Any]]:
    """Return every row of every table, but for jobs: those that have failed are kept."""
    with app.app_context(), db.engine.connect() as connection:
        return {
            table.name: connection.execute(sa.select(table).order_by(*table.primary_key)).all()
            for table in Base.metadata.sorted_tables
            if table.name != "job"
        }


# --- the parts of requests ----------------------------------------------------------------


def json_object(fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """Return a JSON object of fields whose values are JSON text already."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}").encode()


def make_table(columns: Collection[str], n_rows: int = 4) -> pa.Table:
    """Return a table of numbers, none twice, so that every column can be learnt from."""
    n = len(columns)
    return pa.table(
        {
            name: [float((row * n + place) ** 2 % 97) for row in range(n_rows)]
            for place, name in enumerate(columns)
        }
    )


WRITERS: dict[str, Callable[[pa.Table], bytes]] = {
    CSV: to_csv,
    PARQUET: to_parquet,
    "application/x-parquet": to_parquet,
    ARROW: to_arrow,
    "application/vnd.apache.arrow.file": partial(to_arrow, file=True),
}


def part(name: str, data: bytes, filename: str | None = None, *lines: str) -> bytes:
    """Return a part of a form, with further header lines."""
    file = "" if filename is None else f'; filename="{filename}"'
    head = "\r\n".join([f'Content-Disposition: form-data; name="{name}"{file}', *lines])
    return head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + data


def form(*parts: bytes) -> bytes:
    """Return a form as it goes over the wire."""
    edge = b"--" + BOUNDARY.encode()
    return b"".join(edge + b"\r\n" + piece + b"\r\n" for piece in parts) + edge + b"--\r\n"
