"""What Schemathesis is told of the service beside its OpenAPI document (see ``fuzz.toml``).

Bodies that are files, what no JSON Schema can say, and checks of our own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData

from tests.access.holders import bearer
from tests.tables import to_arrow, to_csv, to_parquet
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR, ESTIMATORS

JSON = "application/json"
FEATURES = 3
KEPT, SPARE = ("default", "other", "classes"), "spare"
"""Models that the calls need to the end, and one to delete."""
ARTIFACT = Path(os.environ["FUZZ_ARTIFACT"]).read_bytes()
TABLE = b"x1,x2,x3,y\n1,2,3,4\n2,3,4,5\n"
SUBMITTED: list[int] = []
"""Jobs that there are to be cancelled."""
MADE: list[int] = []
"""Versions that there are to be deleted."""
REPLAYED: set[str] = set()
"""Places that a repeat with the same `Idempotency-Key` was told of.

It gets the first answer again, 201, also when what that created has been deleted since.
"""

# They belong to HTTP itself, or stand in every answer.
COMMON_HEADERS = {
    *("allow", "cache-control", "connection", "content-length", "content-security-policy"),
    *("content-type", "cross-origin-resource-policy", "date", "referrer-policy", "retry-after"),
    *("server", "www-authenticate", "x-content-type-options", "x-frame-options", "x-request-id"),
}

# The faults, place and message, for which a request that the document allows may be refused with
# 422: what no JSON Schema can say.
BEYOND_SCHEMAS = [
    # Rows are equally long, and have the features that the model has learnt.
    r".*: has \d+ values, expected \d+",
    r".*: is missing",
    r".*: is not a feature of the model(; extra=ignore leaves it out)?",
    r".*\.feature_names: has \d+ names for \d+ features",
    r"json\.y: has \d+ values for \d+ rows of X",
    # What the columns of a table hold, and what the options say of them.
    r".*: is .*, but the values before are .*",
    r".*\.(columns|exclude)\.[^.]*: is no feature of the table",
    r".*\.exclude: leaves no column to learn from",
    r".*: holds .* values, .*",
    r".*: holds dates, expected .*",
    r".*: is neither 0 nor 1",
    r".*: is also the name of a part of the dates in .*",
    r".*: has no values(; it was left out)?",
    r".*: is not (a number|true or false|a date or time|text)\b.*",
    r"json\.(data|target): (Must not be given beside X and y|Is for data alone)\.",
    # Which files there are below the data folder, and what they hold.
    r"json\.source: Must not be given beside X, y or data\.",
    r"json\.source\b.*: .*",
    r"json\.delimiter: Is for the files of a source\.",
    r"json\.decimal: Must not be the delimiter\.",
    r"json\.target: Missing data for required field\.",
    r"json\.(X|y): Missing data for required field\.",
    r".*\.task: Is \w+, but \w+ is for \w+\.",
    r".*\.passthrough: Must be different names, none of them prediction\.",
    r".*\.passthrough: (needs|names) .*",
    r"json\.(features|instances).*: is .*, expected .*",
    # What one estimator takes is not what the next one takes.
    r".*\.params\.\w+: (is no parameter of|must be) .*",
    r".*\.params: Needs another estimator than auto\.",
    # Where a booster can be trained, shows the engine of the service.
    r".*\.estimator: is trained on (files|a Dask cluster).*",
    r".*\.y\.\d+: is .*, expected .*",
    r".*\.y: holds values that are not whole numbers of 64 bits, expected labels",
    r".*: holds .*, but the labels of the model are .*",
    r".*\.target: (is .*, a feature of the model|is needed: .*)",
    r".*\.intervals: needs a linear regression of numbers .*",
    r".*\.(grid|distributions)\b.*",
    r".*\.estimator: none of the candidates has scores: .*",
    r".*\.metric: (needs probabilities|is for two classes), .*",
    r".*\.(metric|table|target): (Is what if_better needs|Is for activate=if_better alone)\.",
    r".*\.explain: (is not possible|is answered in JSON|takes too long|gives numbers|fails) .*",
    r".*\.metric: (is none of a|needs rows to judge on).*",
    # What can be fitted, and judged, shows when it is done.
    r".*\.y: has one class only among the rows to fit",
    r".*\.X: (cannot be fitted: .*|holds values too (large|small) .*)",
    r".*\.test_size: leaves none of \d+ rows to fit",
    r".*\.cv: .* (rows|folds) .*",
    r".*: gives (a prediction|an interval) beyond the range of float64",
    r".*: has values beyond the range that the estimator takes",
    # Which characters are printable.
    r".*: must be 1 to 255 printable characters.*",
    # Which keys an object may have, and how many when those that are stored are counted too.
    r"json\.tags\..*\.key: Must be 1 to 63 of the characters .*",
    r"json\.shares\..*\.key: Must be the number of a version\.",
    r"json\.shares\..*\.value: Not a valid integer\.",  # 1.0, as below
    r"json\.tags: would be \d+ tags, at most 50 are allowed",
    # 1.0 is a whole number to JSON Schema; here it may be a slip.
    r"json\.\w+: Not a valid integer\.",
    # Which parameters go with which kind of body.
    r"query\.\w+: belongs into the JSON body",
    r"form\.\w+: is in the query and in the form",
    r"(query|form)\.target: Missing data for required field\.",
    r"(query|form)\.(delimiter|decimal): is an option of CSV alone.*",
    r"(query|form)\.decimal: Must not be the delimiter\.",
    # A key stands for one request, and is used up by it.
    r"headers\.Idempotency-Key: was used before, with another request: .*",
    # Shares make a whole, of versions that take the same columns; a shadow has none of them.
    r"json\.shares: Must add up to 100, and not to \d+\.",
    r"json\.(shares\.\d+|shadow): is unlike the active version, .*",
    r"json\.shadow: Must be a version without a share\.",
    # A version differs in nothing from itself.
    r"query\.versions: Must be different versions\.",
    # A place in a list is one that the list has named.
    r"query\.after: Is not from a `next` link of a list in this order\.",
    r"query\.page: Page numbers reach the first 10,000 items\. .*",
    # What is in a file.
    r"(\w+|json\.(data|target)): has no column .*",
    # Of records: their columns, each of which has values of one kind.
    r"json\.data\.\d+: has no values",
    r"json\.data\.\d+\..*: is (.*, but the values before are .*|not a finite number)",
    r"csv: (is not a CSV table: its header cannot be parsed|has one column).*",
    r"form\.artifact: The model version cannot be loaded: (it is not an? |onnxruntime).*",
    # What fits to the model in the file.
    r"form\.(signature|sample|expected)\b.*",
    r"form\.metrics: Has a comparison, .*",
    r"form\.artifact: .* own predict fails for rows as its signature has them\.",
]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a table of one to three features and, as predictions have none, maybe a y."""
    names = [*("x1", "x2", "x3")[: draw(st.integers(1, 3))], *["y"][: draw(st.booleans())]]
    values = st.integers(-100, 100).map(lambda value: value / 10)
    row = st.fixed_dictionaries(dict.fromkeys(names, values))
    return pa.Table.from_pylist(draw(st.lists(row, min_size=1, max_size=12)))


schemathesis.openapi.media_type("text/csv", tables().map(to_csv))
schemathesis.openapi.media_type(
    "application/vnd.apache.parquet", tables().map(to_parquet), aliases=["application/x-parquet"]
)
schemathesis.openapi.media_type("application/vnd.apache.arrow.stream", tables().map(to_arrow))
schemathesis.openapi.media_type("application/octet-stream", st.just(ARTIFACT))


@schemathesis.hook
def map_case(_context: HookContext, case: Case) -> Case:
    """Bring together what belongs together, where the document cannot say it.

    The options of a table are no parameters of JSON, which has them in its body. Where they are
    what is wrong, the body becomes a table, or they would all be refused for the same reason.
    Rows that were drawn by chance get one length; coverage keeps those that are ragged.
    """
    if case.method == "DELETE" and case.path.endswith("/models/{name}"):
        if case.path_parameters.get("name") in KEPT:
            case.path_parameters["name"] = SPARE
        return case
    if case.method == "DELETE" and case.path.endswith("/jobs/{job}") and len(SUBMITTED) < 5:
        case.path_parameters["job"] = submit_job()
        return case
    if case.method == "DELETE" and case.path.endswith("/versions/{number}") and len(MADE) < 5:
        case.path_parameters |= {"name": SPARE, "number": make_version()}
        return case
    if case.meta is None or case.media_type != JSON:
        return case
    if case.path.endswith("/traffic") and case.meta.generation.mode.is_positive:
        shadow = 3 if case.body.get("shadow") else None
        case.body = {"shares": {"1": 60, "2": 40}, "shadow": shadow}
    if case.method != "POST":
        return case
    query = case.meta.components.get(ParameterLocation.QUERY)
    if case.query and query is not None and query.mode.is_negative:
        case.body, case.media_type = TABLE, "text/csv"
        case.headers.pop("Content-Type", None)
        return case
    case.query = {}
    positive = case.meta.generation.mode.is_positive
    if positive and case.meta.phase.name != TestPhase.COVERAGE:
        judged = case.path.endswith("/evaluate")
        if (judged or case.path.endswith("/train")) and not case.body.get("target"):
            case.body = {"X": [[1, 2, 3], [4, 5, 6]], "y": [1, 2], **case.body}
        if case.path.endswith("/search"):
            case.body = make_searched(case.body)
        if case.path.endswith("/train") and "source" in case.body:
            case.body = make_sourced(case.body)
        elif judged:
            labels = case.path_parameters.get("name") == "classes"
            case.body = make_judged(case.body, labels=labels)
        else:
            case.body = make_fitting(case.body)
    return case


def submit_job() -> int:
    """Return a job that takes long enough to be cancelled."""
    rows = [[i % 97, i % 89, i % 83] for i in range(5000)]
    body = {"X": rows, "y": [i % 79 for i in range(5000)], "estimator": "random_forest"}
    headers = {**bearer(os.environ["FUZZ_KEY"]), "Prefer": "respond-async"}
    url = f"{os.environ['FUZZ_URL']}/api/v1/ml/models/later/train"
    SUBMITTED.append(requests.post(url, json=body, headers=headers, timeout=30).json()["id"])
    return SUBMITTED[-1]


def make_version() -> int:
    """Return a version that is not the active one, and can be deleted."""
    body = {"X": [[1, 2, 3], [4, 5, 6]], "y": [1, 2]}
    headers = bearer(os.environ["FUZZ_KEY"])
    url = f"{os.environ['FUZZ_URL']}/api/v1/ml/models/{SPARE}/train"
    for _ in range(2):  # the later one is active
        answer = requests.post(url, json=body, headers=headers, timeout=30)
        MADE.append(answer.json()["model"]["version"])
    return MADE[-2]


def make_fitting(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body whose rows have the three features of the first models, and each a y."""
    body = dict(body)
    if isinstance(body.get("features"), list):
        body["features"] = repeat(body["features"], FEATURES)
    if "instances" in body and isinstance(body["instances"][0], list):
        body["instances"] = [repeat(row, FEATURES) for row in body["instances"]]
    if "X" in body and "y" in body:
        for name in ("data", "target", "columns", "exclude", "task"):
            body.pop(name, None)
        body["X"] = [repeat(row, FEATURES) for row in body["X"]]
        body["y"] = repeat(body["y"], len(body["X"]))
        body.pop("feature_names", None)
        params = set(body.get("params", ()))
        fitting = [
            row.name for row in CATALOGUE.values() if params <= {p.name for p in row.parameters}
        ]
        if not fitting:  # they are a booster's, which is trained on files
            body["params"], fitting = {}, list(CATALOGUE)
        if (body.get("estimator") or fitting[0]) not in fitting:
            body["estimator"] = fitting[0]
        if ESTIMATORS[body.get("estimator") or DEFAULT_ESTIMATOR].task == "classification":
            body["y"] = [f"class {index % 2}" for index in range(len(body["y"]))]
        elif isinstance(body["y"][0], str):
            body["y"] = list(map(len, body["y"]))
    return body


def make_searched(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body with rows for two folds, and candidates that its estimator takes."""
    given = ("params", "task", "columns", "exclude", "data", "target", "feature_names")
    kept = {name: value for name, value in body.items() if name not in given}
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 10], [2, 1, 1], [3, 3, 5], [6, 4, 9]]
    kept |= {"X": rows, "y": [10, 20, 33, 5, 12, 25], "cv": 2}
    return {**kept, "estimator": "ridge", "grid": {"alpha": [0.1, 1]}, "distributions": None}


def make_sourced(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body that trains on a file of the data folder, which is there."""
    for name in ("X", "y", "data", "feature_names", "columns", "exclude", "delimiter", "decimal"):
        body.pop(name, None)
    return {**body, "source": "rows.csv", "target": "y"}


def make_judged(body: dict[str, Any], *, labels: bool) -> dict[str, Any]:
    """Return a body whose rows are numbers, and whose y is what the model predicts."""
    if "X" not in body or "y" not in body:
        return body
    numbers = range(FEATURES * len(body["X"]))
    X = [list(numbers[start : start + FEATURES]) for start in numbers[::FEATURES]]
    y = [["high", "low"][row[0] % 2] if labels else row[0] for row in X]
    return {"X": X, "y": y, "extra": body.get("extra", "refuse")}


def repeat(values: list[Any], length: int) -> list[Any]:
    """Return a list of that length, cut or with the values again."""
    return [values[index % len(values)] for index in range(length)]


@schemathesis.hook
def filter_failure(
    _context: HookContext, failure: Failure, case: Case, response: Response
) -> bool:
    """Keep a failure, unless no JSON Schema can say why, or what was repeated may be gone."""
    if response.status_code == 414:  # the server's own answer: the application was not reached
        return False
    if isinstance(failure, EnsureResourceAvailability):
        return not any(f"{case.formatted_path}/".startswith(place) for place in REPLAYED)
    if not isinstance(failure, RejectedPositiveData):
        return True
    if response.status_code == 412:  # whether `If-Match` holds is for the item to say
        return False
    faults = list(faults_in(json.loads(response.content).get("errors", {})))
    beyond_schemas = re.compile("|".join(BEYOND_SCHEMAS), re.DOTALL)
    return not (faults and all(map(beyond_schemas.fullmatch, faults)))


def faults_in(faults: Any, place: str = "") -> Iterator[str]:
    """Yield the faults of a problem's ``errors``: place, colon, message."""
    if isinstance(faults, dict):
        for key, inner in faults.items():
            yield from faults_in(inner, f"{place}.{key}" if place else key)
    else:
        yield from (f"{place}: {message}" for message in faults)


@schemathesis.check
def note_replayed(_ctx: CheckContext, response: Response, _case: Case) -> None:
    """Note the place of what a repeat has not created."""
    if "idempotency-replayed" in response.headers:
        REPLAYED.update(f"{place}/" for place in response.headers.get("location", []))


@schemathesis.check
def every_status_is_named(_ctx: CheckContext, response: Response, case: Case) -> None:
    """``default`` allows any status: whatever a documented method answers must be named."""
    documented = case.operation.definition.raw["responses"]
    if case.method == case.operation.method.upper():
        assert str(response.status_code) in documented, f"{response.status_code} is not named"


@schemathesis.check
def every_header_is_named(_ctx: CheckContext, response: Response, case: Case) -> None:
    """Schemathesis checks the headers that are documented; here, that no other is sent."""
    documented = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    names = {name.lower() for name in documented.get("headers", {})}
    others = {name.lower() for name in response.headers} - names - COMMON_HEADERS
    assert not others, f"Headers that are not documented: {sorted(others)}"


@schemathesis.check
class EveryOperationSucceeds:
    """Every operation answers 2xx at least once, or it would be tested for its refusals only."""

    def __init__(self) -> None:
        self.called: set[str] = set()
        self.succeeded: set[str] = set()

    def after_response(self, _ctx: CheckContext, response: Response, case: Case) -> None:
        """Note an answer."""
        self.called.add(case.operation.label)
        if 200 <= response.status_code < 300 and case.method == case.operation.method.upper():
            self.succeeded.add(case.operation.label)

    def after_run(self, _ctx: CheckContext) -> None:
        """Name the operations that never succeeded."""
        never = sorted(self.called - self.succeeded)
        assert not never, f"Never answered 2xx: {', '.join(never)}"
