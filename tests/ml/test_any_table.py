"""Tables made up by chance: none is answered by a fault of ours, and formats agree.

Hypothesis makes the tables. A default run makes the same few every time; FUZZ_EXAMPLES makes as
many as wanted, drawn anew (`make fuzz`).

What must differ between formats is not made here: the last test has it.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.ml.calls import ARROW, CSV, ML, notes_of
from tests.tables import WRITERS
from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.signature import KINDS

# Scikit-learn doubts targets with many classes for few rows; so does the answer, in words.
pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
AS_USUAL = settings(
    max_examples=EXAMPLES,  # of 0.3 s: each is four trainings and nine predictions
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),  # the client outlives an example
)
TYPES = {"csv": CSV, "parquet": "application/vnd.apache.parquet", "arrow": ARROW}
REGRESSORS = {
    "linear_regression": {},
    "ridge": {},
    "hist_gradient_boosting": {"max_iter": 5},
    "random_forest": {"n_estimators": 3},
}
CLASSIFIERS = {
    "logistic_regression": {},
    "hist_gradient_boosting_classifier": {"max_iter": 5},
    "random_forest_classifier": {"n_estimators": 3},
}
ROWS = st.one_of(st.integers(1, 12), st.integers(20, 60))


@dataclass(frozen=True)
class Made:
    """A column: its values, None where one is missing, and their type in Parquet and Arrow."""

    values: list[Any]
    type: pa.DataType


Maker = Callable[[st.DrawFn, int], Made]


def characters() -> st.SearchStrategy[str]:
    return st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0\r")


# In CSV, such a word is neither a number nor a boolean, a date or missing.
WORDS = st.text(characters(), max_size=6).map(lambda text: f"w{text}")
BLANKED = st.tuples(st.sampled_from(["", " ", "\t"]), WORDS, st.sampled_from(["", " "])).map(
    "".join
)
QUOTED = st.sampled_from(
    ['a "b"', "a,b", "a\nb", "a;b", "'a'", "A", "a", "ä", "a\r\nb", "=1+1", "α β"]
)
NUMBERS = st.one_of(
    st.floats(-1e6, 1e6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 5e-324, 1e308, 1e-308, 0.1, 1.0, -1.0]),
)
MODERATE = st.floats(-1000, 1000).map(lambda value: round(value, 3))
MOMENTS = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))


def _draw(
    draw: st.DrawFn, values: st.SearchStrategy[Any], n_rows: int, missing: bool = True
) -> Any:
    if missing and draw(st.booleans()):
        values = st.one_of(st.none(), values, values, values)
    return draw(st.lists(values, min_size=n_rows, max_size=n_rows))


def make_numbers(draw: st.DrawFn, n_rows: int) -> Made:
    values = draw(st.sampled_from([MODERATE, MODERATE, NUMBERS]))
    return Made(_draw(draw, values, n_rows), pa.float64())


def make_whole_numbers(draw: st.DrawFn, n_rows: int) -> Made:
    low, high, kind = draw(
        st.sampled_from(
            [
                (0, 3, pa.int8()),
                (-1000, 1000, pa.int32()),
                (-(2**63), 2**63 - 1, pa.int64()),
                (0, 2**64 - 1, pa.uint64()),
            ]
        )
    )
    return Made(_draw(draw, st.integers(low, high), n_rows), kind)


def make_decimals(draw: st.DrawFn, n_rows: int) -> Made:
    values = st.decimals(-1000, 1000, places=2)
    return Made(_draw(draw, values, n_rows), pa.decimal128(10, 2))


def make_booleans(draw: st.DrawFn, n_rows: int) -> Made:
    return Made(_draw(draw, st.booleans(), n_rows), pa.bool_())


def make_categories(draw: st.DrawFn, n_rows: int) -> Made:
    words = draw(st.lists(st.one_of(WORDS, BLANKED, QUOTED), min_size=1, max_size=5))
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    return Made(_draw(draw, st.sampled_from([*words, ""]), n_rows), draw(st.sampled_from(kinds)))


def make_names(draw: st.DrawFn, n_rows: int) -> Made:
    return Made([f"name {n}" for n in range(n_rows)], pa.string())


def make_texts(draw: st.DrawFn, n_rows: int) -> Made:
    words = st.lists(WORDS, min_size=6, max_size=9)
    texts = words.map(lambda found: " some ".join(found))
    return Made(_draw(draw, texts, n_rows), pa.string())


def make_moments(draw: st.DrawFn, n_rows: int) -> Made:
    zone = draw(st.sampled_from([None, UTC]))
    values = MOMENTS.map(lambda moment: moment.replace(tzinfo=zone))
    return Made(_draw(draw, values, n_rows), pa.timestamp("us", zone and "UTC"))


def make_dates(draw: st.DrawFn, n_rows: int) -> Made:
    return Made(_draw(draw, MOMENTS.map(datetime.date), n_rows), pa.date32())


def make_nothing(draw: st.DrawFn, n_rows: int) -> Made:
    return Made([None] * n_rows, draw(st.sampled_from([pa.null(), pa.float64(), pa.string()])))


def make_constant(draw: st.DrawFn, n_rows: int) -> Made:
    value, kind = draw(st.sampled_from([(1.5, pa.float64()), ("same", pa.string())]))
    return Made([value] * n_rows, kind)


MAKERS: list[Maker] = [
    make_numbers,
    make_whole_numbers,
    make_decimals,
    make_booleans,
    make_categories,
    make_names,
    make_texts,
    make_moments,
    make_dates,
    make_nothing,
    make_constant,
]


def make_target(draw: st.DrawFn, n_rows: int, classes: bool) -> Made:
    if not classes:
        return Made(_draw(draw, MODERATE, n_rows), pa.float64())
    labels, kind = draw(
        st.sampled_from(
            [
                (["yes", "no"], pa.string()),
                (["ä b", "a,b", 'a"b'], pa.dictionary(pa.int32(), pa.string())),
                ([True, False], pa.bool_()),
                ([0, 1, 2], pa.int64()),
            ]
        )
    )
    return Made(_draw(draw, st.sampled_from(labels), n_rows), kind)


@dataclass(frozen=True)
class Example:
    """A table, whose last column is the target, and how to train on it."""

    columns: dict[str, Made]
    options: dict[str, Any]

    def to_table(self) -> pa.Table:
        """Return the table with the types of its columns."""
        return pa.table({n: pa.array(c.values, c.type) for n, c in self.columns.items()})

    def to_records(self) -> list[dict[str, Any]]:
        """Return the rows as JSON objects."""
        columns = [map(as_json, column.values) for column in self.columns.values()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def as_json(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


@st.composite
def examples(draw: st.DrawFn) -> Example:
    n_rows, classes = draw(ROWS), draw(st.booleans())
    makers = draw(st.lists(st.sampled_from(MAKERS), min_size=1, max_size=4))
    columns = {f"c{place}": maker(draw, n_rows) for place, maker in enumerate(makers)}
    estimators = CLASSIFIERS if classes else REGRESSORS
    estimator = draw(st.sampled_from(list(estimators)))
    options = {
        "estimator": estimator,
        "target": "y",
        "params": estimators[estimator],
        "refit": draw(st.booleans()),
    }
    return Example({**columns, "y": make_target(draw, n_rows, classes)}, options)


def train(client: FlaskClient, example: Example, form: str) -> TestResponse:
    if form == "json":
        return client.post(f"{ML}/train", json={"data": example.to_records(), **example.options})
    query = {k: v if isinstance(v, str) else json.dumps(v) for k, v in example.options.items()}
    data = WRITERS[form](example.to_table())
    return client.post(f"{ML}/train", data=data, content_type=TYPES[form], query_string=query)


def check_answer(answer: TestResponse) -> None:
    """Fail for any answer but success and a refusal that says what is wrong."""
    assert answer.status_code in (200, 201, 422), answer.text
    if answer.status_code == 422:
        assert answer.json["errors"], answer.text


def warnings_of(answer: TestResponse) -> list[dict[str, Any]]:
    """Return all but that the signature differs from the one before."""
    return [warning for warning in answer.json["warnings"] if warning["column"]]


@on_sqlite
def test_formats_give_one_model_and_one_prediction(client: FlaskClient) -> None:
    @AS_USUAL
    @given(examples())
    def check(example: Example) -> None:
        answers = {form: train(client, example, form) for form in (*TYPES, "json")}
        for answer in answers.values():
            check_answer(answer)
        made = answers["csv"]
        for form, answer in answers.items():
            assert answer.status_code == made.status_code, (form, answer.text, made.text)
        if made.status_code == 422:
            return
        for form, answer in answers.items():
            for same in ("signature", "data_digest", "digest", "metrics"):
                assert answer.json["model"][same] == made.json["model"][same], (form, same)
            assert warnings_of(answer) == warnings_of(made), form
        check_predictions(client, example, made.json["model"])

    check()


def check_predictions(client: FlaskClient, example: Example, version: dict[str, Any]) -> None:
    columns = version["signature"]["columns"]
    names = [column["name"] for column in columns]
    url = f"{ML}/models/default/versions/{version['version']}"
    features = Example({name: example.columns[name] for name in names}, {})
    records = features.to_records()
    found = {}
    for form, media_type in TYPES.items():
        data = WRITERS[form](features.to_table())
        found[form] = client.post(f"{ML}/predict/batch", data=data, content_type=media_type)
    found["records"] = client.post(f"{ML}/predict/batch", json={"instances": records})
    rows = [list(record.values()) for record in records]
    found["rows"] = client.post(f"{ML}/predict/batch", json={"instances": rows})
    expected = found["csv"]
    assert expected.status_code == 200, expected.text
    for form, answer in found.items():
        assert answer.status_code == 200, (form, answer.text)
        for name in ("predictions", "probabilities", "missing", "unseen", "extrapolated"):
            assert answer.json.get(name) == expected.json.get(name), (form, name)
    as_table = client.post(
        f"{ML}/predict/batch", data=data, content_type=media_type, headers={"Accept": CSV}
    )
    warned = json.loads(as_table.headers.get("X-Warnings", "[]"))
    shown = [warning for warning in warned if warning["column"] != "…"]  # as many as fit
    noted = notes_of(expected.json, names)
    assert shown == (noted[: len(shown)] if len(shown) < len(warned) else noted)
    predictions = expected.json["predictions"]
    for row, record in list(enumerate(records))[:5]:
        single = client.post(f"{ML}/predict", json={"features": record})
        assert single.status_code == 200, single.text
        agree([single.json["prediction"]], predictions[row : row + 1])
    agree(predict_by_artifact(client, url, features, columns), predictions)
    check_nothing(client, features)


def check_nothing(client: FlaskClient, features: Example) -> None:
    """Fail unless a row without any value is answered alike in every form and type."""
    record = dict.fromkeys(features.columns)
    by_record = client.post(f"{ML}/predict/batch", json={"instances": [record]})
    typed = pa.table({name: pa.nulls(1, c.type) for name, c in features.columns.items()})
    untyped = pa.table({name: pa.nulls(1) for name in features.columns})
    for form, media_type in TYPES.items():
        for table in (typed, untyped):
            data = WRITERS[form](table)
            answer = client.post(f"{ML}/predict/batch", data=data, content_type=media_type)
            assert answer.status_code == by_record.status_code, (form, answer.text)
            for name in ("predictions", "missing"):
                assert answer.json.get(name) == by_record.json.get(name), (form, name)


def agree(found: Any, expected: list[Any]) -> None:
    if isinstance(expected[0], str):
        assert list(map(str, found)) == expected
    else:
        assert np.allclose(np.asarray(found, dtype=float), expected, rtol=1e-9, atol=1e-9)


def predict_by_artifact(client: FlaskClient, url: str, features: Example, columns: Any) -> Any:
    """Predict as in a notebook: with the artifact alone, from a data frame."""
    artifact = client.get(f"{url}/artifact").data
    model = skops.io.loads(artifact, trusted=skops.io.get_untrusted_types(data=artifact))
    frame = {}
    for column in columns:
        values = pd.Series(features.columns[column["name"]].values, dtype=object)
        if column["kind"] in ("category", "text"):
            cleaned = [(value or "").strip() or np.nan for value in values]
            values = pd.Series(cleaned, dtype=object)
        elif column["kind"] == "datetime":
            frame |= expand_dates(column["name"], values)
            continue
        else:
            values = values.astype(float)
        frame[column["name"]] = values
    frame = pd.DataFrame(frame)
    return model.predict(frame if hasattr(model, "feature_names_in_") else frame.to_numpy())


def expand_dates(name: str, values: pd.Series) -> dict[str, pd.Series]:
    at = pd.to_datetime(values, utc=True)
    return {
        f"{name}.days": (at - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1),
        f"{name}.year": at.dt.year,
        f"{name}.month": at.dt.month,
        f"{name}.day": at.dt.day,
        f"{name}.weekday": at.dt.day_of_week,
        f"{name}.hour": at.dt.hour,
    }


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
ODD = [
    *("NA", "null", "NaN", "1", "007", "1e400", "1,5", "true", "False", "0", "-", "inf"),
    *("2026-01-31", "2026-01-31T10:30:00Z", "2026-01-31 10:30", "9999-12-31", "0001-01-01"),
    *("2026/01/31", "24:00", "2026-13-01", "\0", "\r", "\n", '"', "'", ",", "", " ", "x" * 300),
]
JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    ANY_TEXT,
    st.sampled_from(ODD),
)
# Each gives columns of one kind, most of the time.
COLUMN_VALUES = [
    st.integers(0, 2),
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1e308, -1e308, 5e-324]),
    st.booleans(),
    ANY_TEXT,
    st.sampled_from(ODD),
    st.sampled_from(["a", "b", "\0", "\x1f"]),
    MOMENTS.map(datetime.isoformat),
    st.dates().map(date.isoformat),
    JSON_VALUES,
]
ANY_NAMES = st.one_of(st.sampled_from(["a.year", "y", "x=1"]), ANY_TEXT)
OPTIONS = st.fixed_dictionaries(
    {"estimator": st.sampled_from([None, *CATALOGUE])},
    optional={
        "task": st.sampled_from(["regression", "classification"]),
        "columns": st.dictionaries(st.just("a"), st.sampled_from(KINDS)),
        "exclude": st.lists(st.just("b"), max_size=1),
        "cv": st.sampled_from([0, 2, 3]),
        "scale": st.booleans(),
        "test_size": st.sampled_from([0, 0.2, 0.9]),
        "stratify": st.booleans(),
    },
)


@st.composite
def any_records(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw columns whose values may not fit together; the last is the target, most of the time."""
    n_rows = draw(ROWS)
    names = draw(st.lists(ANY_NAMES, max_size=2, unique=True))
    columns = {}
    for name in dict.fromkeys(["a", "b", *names, "y"]):
        values = draw(st.sampled_from(COLUMN_VALUES))
        few = draw(st.lists(values, min_size=1, max_size=4))  # as in a category
        if name == "y" and draw(st.integers(0, 3)):
            few = draw(st.sampled_from([["v", "w"], [0, 1, 2], [False, True], [-1.5, 2.5, 0.1]]))
        chosen = draw(st.sampled_from([st.sampled_from(few), st.sampled_from(few), values]))
        columns[name] = _draw(draw, chosen, n_rows)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def to_csv(records: list[dict[str, Any]]) -> bytes:
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return lines.getvalue().encode()


def post_csv(client: FlaskClient, path: str, rows: Any, options: dict[str, Any]) -> TestResponse:
    query = {
        name: ",".join(value)
        if name == "exclude"
        else value
        if isinstance(value, str)
        else json.dumps(value)
        for name, value in options.items()
        if value is not None
    }
    return client.post(f"{ML}/{path}", data=to_csv(rows), content_type=CSV, query_string=query)


@on_sqlite
def test_no_table_and_no_option_is_answered_by_a_fault_of_the_service(client: FlaskClient) -> None:
    @settings(AS_USUAL, max_examples=2 * EXAMPLES)
    @given(any_records(), OPTIONS, any_records())
    def check(records: Any, options: dict[str, Any], others: Any) -> None:
        target = {"target": "y"}
        rows = [list(record.values()) for record in records]
        matrix = {"X": [row[:-1] for row in rows], "y": [row[-1] for row in rows]}
        names = list(records[0])[:-1]
        answers = [
            client.post(f"{ML}/inspect", json={"data": records, **target}),
            post_csv(client, "inspect", records, target),
            client.post(f"{ML}/train", json={**matrix, "feature_names": names, **options}),
            client.post(f"{ML}/train", json={"data": records, **options, **target}),
            post_csv(client, "train", records, {**options, **target}),
        ]
        for answer in answers:
            check_answer(answer)
        if all(answer.status_code == 422 for answer in answers[2:]):
            return
        for sent in (records, others):
            instances = [{n: v for n, v in record.items() if n != "y"} for record in sent]
            for rows in (instances, [list(row.values()) for row in instances]):
                given = {"instances": rows, "extra": "ignore"}
                check_answer(client.post(f"{ML}/predict/batch", json=given))
                check_answer(client.post(f"{ML}/predict", json={"features": rows[0]}))
            check_answer(post_csv(client, "predict/batch", sent, {"extra": "ignore"}))

    check()


@on_sqlite
@pytest.mark.parametrize(
    ("values", "typed", "expected"),
    [
        (["1", "2"], pa.string(), ["number", "category", "category"]),
        (["NA", "x"], pa.string(), [["x"], ["NA", "x"], ["NA", "x"]]),
        ([7, 9], pa.dictionary(pa.int8(), pa.int64()), ["number", "number", "category"]),
        (["007", "1"], pa.string(), ["category"] * 3),
        (["true", "False"], pa.string(), ["boolean"] * 3),
        (["2026-01-31", "2026/02/01"], pa.string(), ["datetime"] * 3),
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_csv_has_no_types_and_parquet_no_dictionaries_of_numbers(
    client: FlaskClient, values: list[Any], typed: Any, expected: list[Any], missing: bool
) -> None:
    made = Made([*values, None if missing else values[0]] * 10, typed)
    example = Example({"a": made, "y": Made([1.0, 2.0, 4.0] * 10, pa.float64())}, {"target": "y"})

    for form, kind in zip(TYPES, expected, strict=True):
        answer = train(client, example, form)
        (column,) = answer.json["model"]["signature"]["columns"]
        assert kind in (column["kind"], column.get("categories")), form
