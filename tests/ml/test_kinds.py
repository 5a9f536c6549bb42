"""Tables that people have: they train as they stand, and raw values predict."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from flask.testing import FlaskClient, FlaskCliRunner
from pyarrow import csv
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.faults import on_sqlite
from tests.ml.calls import ARROW, CSV, ML, notes_of, short_params
from tests.tables import WRITERS
from webapp.ml.core import features
from webapp.ml.core.estimators import CATALOGUE, load_class

pytestmark = on_sqlite

DATA = Path(__file__).resolve().parents[1] / "data"
TARGETS = [
    ("penguins", "species", "logistic_regression"),
    ("penguins", "body_mass_g", "ridge"),
    ("titanic", "survived", "logistic_regression"),
    ("titanic", "survived", "hist_gradient_boosting_classifier"),
    ("tips", "tip", "linear_regression"),
    ("auto", "mpg", "random_forest"),
    ("seattle", "weather", "random_forest_classifier"),
    ("seattle", "temp_max", "hist_gradient_boosting"),
]
TYPES = {"csv": CSV, "parquet": "application/vnd.apache.parquet", "arrow": ARROW}


def read_typed(name: str) -> pa.Table:
    options = csv.ConvertOptions(strings_can_be_null=True)
    return csv.read_csv(DATA / f"{name}.csv", convert_options=options)


def body_of(name: str, form: str) -> bytes:
    if form == "csv":
        return (DATA / f"{name}.csv").read_bytes()
    return bytes(WRITERS[form](read_typed(name)))


def train_table(client: FlaskClient, data: bytes, form: str = "csv", **options: Any) -> Any:
    query = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
    return client.post(f"{ML}/train", data=data, content_type=TYPES[form], query_string=query)


def train_csv(client: FlaskClient, text: str, **options: Any) -> dict[str, Any]:
    answer = train_table(client, text.encode(), **options)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json
    return made


def predict_records(client: FlaskClient, rows: list[Any], **options: Any) -> dict[str, Any]:
    answer = client.post(f"{ML}/predict/batch", json={"instances": rows, **options})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def load_artifact(client: FlaskClient) -> Any:
    artifact = client.get(f"{ML}/models/default/versions/1/artifact").data
    return skops.io.loads(artifact, trusted=skops.io.get_untrusted_types(data=artifact))


def warnings_of(made: dict[str, Any]) -> dict[str, str]:
    return {warning["column"]: warning["message"] for warning in made["warnings"]}


def plain_pipeline(estimator: str) -> Any:
    """Return what a user would write in a notebook."""
    final = load_class(CATALOGUE[estimator])()
    return make_pipeline(
        make_column_transformer(
            (
                make_pipeline(SimpleImputer(), StandardScaler()),
                make_column_selector(dtype_include=np.number),
            ),
            (
                make_pipeline(
                    SimpleImputer(strategy="most_frequent"),
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ),
                make_column_selector(dtype_exclude=np.number),
            ),
        ),
        final.set_params(random_state=42) if "random_state" in final.get_params() else final,
    )


@pytest.mark.parametrize(("name", "target", "estimator"), TARGETS)
def test_a_table_trains_as_it_stands_as_well_as_a_plain_pipeline_in_every_format(
    client: FlaskClient, name: str, target: str, estimator: str
) -> None:
    made = {}
    for form in TYPES:
        answer = train_table(client, body_of(name, form), form, target=target, estimator=estimator)
        assert answer.status_code == 201, answer.text
        made[form] = answer.json["model"]

    frame = pd.read_csv(DATA / f"{name}.csv").dropna(subset=[target])
    if "date" in frame:
        frame["date"] = pd.to_datetime(frame["date"]).map(pd.Timestamp.toordinal)
    X, y = frame.drop(columns=target), frame[target]
    classes = CATALOGUE[estimator].task == "classification"
    parts = train_test_split(X, y, test_size=0.2, random_state=42, stratify=y if classes else None)
    plain = plain_pipeline(estimator).fit(parts[0], parts[2]).score(parts[1], parts[3])
    metric = "accuracy" if classes else "r2_score"
    assert made["csv"]["metrics"][metric] >= plain - 0.02
    for form in ("parquet", "arrow"):
        for same in ("signature", "data_digest", "metrics", "digest", "warnings"):
            assert made[form][same] == made["csv"][same], (form, same)


@pytest.mark.parametrize(("name", "target", "estimator"), TARGETS)
def test_raw_rows_predict_alike_in_every_form_and_in_a_notebook(
    client: FlaskClient, name: str, target: str, estimator: str
) -> None:
    options = {"target": target, "estimator": estimator, "params": short_params(estimator)}
    made = train_table(client, body_of(name, "csv"), **options).json
    columns = [column["name"] for column in made["model"]["signature"]["columns"]]
    table = read_typed(name).select(columns)
    records = json.loads(table.to_pandas().to_json(orient="records", date_format="iso"))
    dates = [c["name"] for c in made["model"]["signature"]["columns"] if c["kind"] == "datetime"]
    for record in records:
        record |= {date: record[date][:10] for date in dates}

    found = predict_records(client, records)["predictions"]

    arrays = [list(record.values()) for record in records]
    assert predict_records(client, arrays)["predictions"] == found
    shuffled = table.select(columns[::-1])
    for form, content_type in TYPES.items():
        answer = client.post(
            f"{ML}/predict/batch", data=bytes(WRITERS[form](shuffled)), content_type=content_type
        )
        assert answer.json["predictions"] == found, form
    ones = [client.post(f"{ML}/predict", json={"features": row}).json for row in records[:7]]
    pairs = zip([one["prediction"] for one in ones], found[:7], strict=True)
    assert all(one == many or one == pytest.approx(many, rel=1e-12) for one, many in pairs)
    if not dates:
        pipeline = load_artifact(client)
        frame = pd.read_csv(DATA / f"{name}.csv")
        expected = pipeline.predict(frame).tolist()
        if isinstance(found[0], float):
            assert np.allclose(found, expected, rtol=1e-12, atol=0)
        else:
            assert found == expected


def test_dates_are_expanded_as_the_signature_says(client: FlaskClient) -> None:
    rows = [(f"2026-{m:02}-{d:02}T{h:02}:30:00", m * 31 + d) for m, d, h in
            [(1 + n % 12, 1 + n % 28, n % 24) for n in range(60)]]  # fmt: skip
    text = "at,y\n" + "\n".join(f"{at},{y}" for at, y in rows)
    made = train_csv(client, text, target="y", estimator="ridge")

    (column,) = made["model"]["signature"]["columns"]
    assert column["parts"] == ["days", "year", "month", "day", "weekday", "hour"]
    pipeline = load_artifact(client)
    at = pd.to_datetime(pd.Series([at for at, _ in rows]))
    frame = pd.DataFrame(
        {
            "at.days": (at - pd.Timestamp(0)) / pd.Timedelta(days=1),
            "at.year": at.dt.year,
            "at.month": at.dt.month,
            "at.day": at.dt.day,
            "at.weekday": at.dt.day_of_week,
            "at.hour": at.dt.hour,
        }
    )
    found = predict_records(client, [[at] for at, _ in rows])["predictions"]
    assert np.allclose(found, pipeline.predict(frame), rtol=1e-12)


MIXED = "sex,age,member,town,y\n" + "\n".join(
    f"{'fm'[n % 2]},{'' if n % 7 == 0 else n},{'true' if n % 3 else 'false'},"
    f"{('Bern', 'Chur', 'Thun')[n % 3]},{n % 2 * 10 + n % 3}"
    for n in range(60)
)


def test_missing_and_unseen_values_are_answered_and_reported(client: FlaskClient) -> None:
    train_csv(client, MIXED, target="y")
    rows = [
        {"sex": "f", "age": 1, "member": True, "town": "Bern"},
        {"sex": None, "age": None, "member": None, "town": "Oslo"},
    ]

    batch = predict_records(client, rows)
    one = client.post(f"{ML}/predict", json={"features": rows[1]}).json

    assert batch["unseen"] == {"1": {"town": "Oslo"}}
    assert batch["missing"] == {"1": ["sex", "age", "member"]}
    assert one["unseen"] == {"town": "Oslo"}
    assert one["missing"] == ["sex", "age", "member"]
    assert one["prediction"] == pytest.approx(batch["predictions"][1], rel=1e-12)
    blanked = predict_records(client, [rows[1] | {"town": " Oslo "}])
    assert blanked["unseen"] == {"0": {"town": "Oslo"}}
    many = predict_records(client, rows * 600)
    assert many["missing_counts"] == {"sex": 600, "age": 600, "member": 600}
    assert many["unseen"]["1199"] == {"town": "Oslo"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"age": "old"}, {"age": ["is a string, expected a number or null"]}),
        ({"sex": 1}, {"sex": ["is a whole number, expected a string"]}),
        ({"member": "perhaps"}, {"member": ["is a string, expected true, false or null"]}),
        ({"town": ["Bern"]}, {"town": ["is an array, expected a string"]}),
        ({"colour": "red"}, {"colour": ["is not a feature of the model"]}),
    ],
)
def test_a_value_of_another_kind_is_refused_by_column_and_row(
    client: FlaskClient, change: dict[str, Any], fault: Any
) -> None:
    train_csv(client, MIXED, target="y")
    good = {"sex": "f", "age": 1, "member": True, "town": "Bern"}

    one = client.post(f"{ML}/predict", json={"features": good | change})
    batch = client.post(f"{ML}/predict/batch", json={"instances": [good, good | change]})

    assert one.status_code == batch.status_code == 422
    assert one.json["errors"] == {"json": {"features": fault}}
    assert batch.json["errors"] == {"json": {"instances": {"1": fault}}}


def test_text_in_a_column_of_numbers_is_refused_at_its_row(client: FlaskClient) -> None:
    train_csv(client, MIXED, target="y")
    text = "sex,age,member,town\n" + "f,1,true,Bern\n" * 5 + "f,old,true,Bern\n"

    answer = client.post(f"{ML}/predict/batch", data=text, content_type=CSV)

    assert answer.status_code == 422
    assert answer.json["errors"] == {"csv": {"age": {"5": ["is not a number"]}}}


def test_further_columns_are_left_out_or_passed_on_where_asked(client: FlaskClient) -> None:
    train_csv(client, MIXED, target="y")
    rows = [
        {"id": n, "name": f"p{n}", "sex": "f", "age": n, "member": True, "town": "Bern", "y": 1}
        for n in range(3)
    ]
    text = pd.DataFrame(rows).to_csv(index=False)

    refused = client.post(f"{ML}/predict/batch", json={"instances": rows})
    found = predict_records(client, rows, extra="ignore", passthrough=["name", "id"])
    as_csv = client.post(
        f"{ML}/predict/batch?extra=ignore&passthrough=name,id",
        data=text,
        content_type=CSV,
        headers={"Accept": CSV},
    )

    assert refused.status_code == 422
    assert set(refused.json["errors"]["json"]["instances"]["0"]) == {"id", "name", "y"}
    assert found["passthrough"] == {"name": ["p0", "p1", "p2"], "id": [0, 1, 2]}
    assert warnings_of(found) == {"y": "is not a feature of the model; it was left out"}
    written = pd.read_csv(io.StringIO(as_csv.text))
    assert list(written.columns) == ["name", "id", "prediction"]
    assert written["name"].tolist() == ["p0", "p1", "p2"]
    assert np.allclose(written["prediction"], found["predictions"])
    assert json.loads(as_csv.headers["X-Warnings"])[0]["column"] == "y"


REMARKED = "sex,age,member,town,at,remark,y\n" + "\n".join(
    f"{'fm'[n % 2]},{'' if n % 7 == 0 else n},{'true' if n % 3 else 'false'},"
    f"{('Bern', 'Chur', 'Thun')[n % 3]},2026-01-{1 + n % 28:02},{'good bad'[n % 4 :]},{n % 5}"
    for n in range(60)
)
PLAIN_ROW = {
    "sex": "f",
    "age": 9,
    "member": True,
    "town": "Bern",
    "at": "2026-01-09",
    "remark": "good",
}


@pytest.mark.parametrize("times", [1, 300])  # with 300, JSON has more than it names by row
@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ([], set()),
        ([{"age": 99}, {"at": "1999-12-31"}], {"age", "at"}),
        ([{"sex": None, "age": None}, {"member": None, "age": None}], {"sex", "age", "member"}),
        ([{"remark": None}, {"at": None}], {"remark", "at"}),
        ([{"town": "Oslo", "sex": "x"}, {"town": "Rome"}], {"town", "sex"}),
        ([{"age": 99, "town": "Oslo"}, {"age": None, "town": None}] * 2, {"age", "town"}),
    ],
)
def test_a_table_and_the_command_line_count_the_values_that_json_names(
    client: FlaskClient,
    runner: FlaskCliRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: list[dict[str, Any]],
    noted: set[str],
    times: int,
) -> None:
    monkeypatch.setattr(features, "BATCH_ROWS", 70)  # the command line counts over blocks
    train_csv(client, REMARKED, target="y", columns={"remark": "text", "at": "datetime"})
    rows = [PLAIN_ROW, *(PLAIN_ROW | change for change in changes)] * times
    path = tmp_path / "rows.csv"
    pd.DataFrame(rows).astype({"age": "Int64"}).to_csv(path, index=False)

    expected = notes_of(predict_records(client, rows), list(PLAIN_ROW))
    found = {}
    for accept in (CSV, ARROW):
        options: Any = {"content_type": CSV, "headers": {"Accept": accept}}
        answer = client.post(f"{ML}/predict/batch", data=path.read_bytes(), **options)
        assert answer.status_code == 200, answer.text
        found[accept] = answer.headers.get("X-Warnings")
    printed = runner.invoke(args=["ml", "predict", str(path), str(tmp_path / "out.csv")])

    assert {note["column"] for note in expected} == noted
    for accept, warnings in found.items():
        assert (warnings and json.loads(warnings)) == (expected or None), accept
    lines = [f"{note['column']}: {note['message']}" for note in expected]
    assert printed.stderr.splitlines() == ["rows.csv", *lines]


def test_the_command_line_notes_the_values_of_a_single_row(
    client: FlaskClient, runner: FlaskCliRunner
) -> None:
    train_csv(client, MIXED, target="y")

    noted = runner.invoke(args=["ml", "predict", "--features", "f,99,,Oslo"])
    plain = runner.invoke(args=["ml", "predict", "--features", "f,9,true,Bern"])

    assert float(noted.stdout) is not None
    assert noted.stderr.splitlines() == [
        "age: has a value outside the range of training in 1 of 1 rows",
        "member: has no value in 1 of 1 rows",
        "town: has a value not seen in training in 1 of 1 rows",
    ]
    assert plain.stderr == ""


@pytest.mark.parametrize("accept", [CSV, ARROW])
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([f"column {n}" for n in range(3)], 3),
        (["größe", "体重", "😀", "a\x7fb", 'a"b', "a\\b"], 6),
        ([f"column {n}" for n in range(400)], 23),
        (["x" * 5000, "y"], 0),
        (["x", "😀" * 255, "y"], 1),
    ],
)
def test_a_header_of_warnings_is_short_and_ascii_whatever_the_columns_are_called(
    client: FlaskClient, names: list[str], shown: int, accept: str
) -> None:
    train_csv(client, MIXED, target="y")
    row = {"sex": "f", "age": 1, "member": True, "town": "Bern", **dict.fromkeys(names, 1)}
    table = pd.DataFrame([row]).to_csv(index=False).encode()

    def post(accept: str) -> Any:
        options: Any = {"content_type": CSV, "headers": {"Accept": accept}}
        return client.post(f"{ML}/predict/batch?extra=ignore", data=table, **options)

    header, in_json = post(accept).headers["X-Warnings"], post("application/json").json

    assert [warning["column"] for warning in in_json["warnings"]] == names
    assert re.fullmatch("[ -~]{1,2200}", header)
    warnings = json.loads(header)
    assert warnings[:shown] == in_json["warnings"][:shown]
    message = f"{shown} of {len(names)} warnings fit here; JSON has all of them"
    rest = [] if shown == len(names) else [{"column": "…", "message": message}]
    assert warnings[shown:] == rest


def test_kinds_can_be_chosen_and_columns_left_out(client: FlaskClient) -> None:
    text = "zip,id,size,y\n" + "\n".join(f"{n % 3 + 8000},{n},{n % 5},{n}" for n in range(30))

    made = train_csv(client, text, target="y", columns={"zip": "category"}, exclude="id")

    kinds = {c["name"]: c["kind"] for c in made["model"]["signature"]["columns"]}
    assert kinds == {"zip": "category", "size": "number"}
    categories = made["model"]["signature"]["columns"][0]["categories"]
    assert categories == [8000, 8001, 8002]
    found = predict_records(client, [{"zip": 8001, "size": 1}, {"zip": 9000, "size": 1}])
    assert found["unseen"] == {"1": {"zip": 9000}}
    assert list(made["model"]["coefficients"]["coefficients"])[:3] == [
        "size",
        "size=missing",
        "zip=8000",
    ]


def test_coefficients_of_raw_columns_add_up_to_the_prediction(client: FlaskClient) -> None:
    made = train_csv(client, MIXED, target="y", estimator="ridge")
    found = made["model"]["coefficients"]
    weights, row = found["coefficients"], {"sex": "m", "age": 3, "member": True, "town": "Chur"}

    total = found["intercept"] + weights["sex=m"] + 3 * weights["age"] + weights["member"]
    predicted = predict_records(client, [row, row | {"age": None}])["predictions"]

    assert predicted[0] == pytest.approx(total + weights["town=Chur"])
    without = total - 3 * weights["age"] + weights["age=missing"] + weights["town=Chur"]
    assert predicted[1] == pytest.approx(without)


def test_json_takes_mixed_rows_and_records_as_csv_does(client: FlaskClient) -> None:
    expected = train_csv(client, MIXED, target="y")["model"]
    frame = pd.read_csv(io.StringIO(MIXED))
    records = json.loads(frame.to_json(orient="records"))

    by_records = client.post(f"{ML}/train", json={"data": records, "target": "y"}).json["model"]
    rows = [[r[name] for name in ("sex", "age", "member", "town")] for r in records]
    by_rows = client.post(
        f"{ML}/train",
        json={
            "X": rows,
            "y": [r["y"] for r in records],
            "feature_names": ["sex", "age", "member", "town"],
        },
    ).json["model"]

    for made in (by_records, by_rows):
        assert made["digest"] == expected["digest"]
        assert made["signature"] == expected["signature"]
        assert made["data_digest"] == expected["data_digest"]


REVIEWS = ["The room was clean and the staff were friendly to us",
           "Far too loud at night and a long way from the station",
           "We will certainly come back here for another summer",
           "Never again will we stay in such a dirty old room"]  # fmt: skip


@pytest.mark.parametrize(
    "estimator", ["logistic_regression", "random_forest_classifier",
                  "hist_gradient_boosting_classifier"]
)  # fmt: skip
def test_free_text_trains_and_predicts(client: FlaskClient, estimator: str) -> None:
    texts = [f"{REVIEWS[n % 4]} {n}" for n in range(80)]
    text = "review,stars,good\n" + "\n".join(
        f"{t},{n % 5},{'no' if n % 2 else 'yes'}" for n, t in enumerate(texts)
    )
    made = train_csv(client, text, target="good", estimator=estimator)

    kinds = {c["name"]: c["kind"] for c in made["model"]["signature"]["columns"]}
    assert kinds == {"review": "text", "stars": "number"}
    found = predict_records(client, [[REVIEWS[0], 3], [REVIEWS[1], 3], [None, None]])
    assert found["predictions"][:2] == ["yes", "no"]
    assert found["missing"] == {"2": ["review", "stars"]}


@pytest.mark.parametrize("estimator", ["logistic_regression", "hist_gradient_boosting_classifier"])
def test_text_of_few_words_or_none_trains(client: FlaskClient, estimator: str) -> None:
    texts = [("a b c", "", "???", "good room", "bad room")[n % 5] for n in range(40)]
    text = "review,good\n" + "\n".join(f"{t},{'no' if 'b' in t else 'yes'}" for t in texts)

    train_csv(client, text, target="good", estimator=estimator, columns={"review": "text"})

    assert predict_records(client, [["new words"], [None]])["missing"] == {"1": ["review"]}


def test_boosting_learns_many_categories_from_the_mean_of_the_target(client: FlaskClient) -> None:
    text = "model,seats\n" + "\n".join(f"m{n % 100},{n % 100 * 3 % 17}" for n in range(600))

    made = train_csv(client, text, target="seats", estimator="hist_gradient_boosting")

    assert made["metrics"]["r2_score"] > 0.95


def test_sentences_that_recur_are_categories(client: FlaskClient) -> None:
    text = "comment,good\n" + "\n".join(f"{REVIEWS[n % 4]},{n % 2}" for n in range(40))

    made = train_csv(client, text, target="good")

    assert made["model"]["signature"]["columns"][0]["categories"] == sorted(REVIEWS)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a,y\n" + "\n".join(f"n{n},{n}" for n in range(30)), "another value in nearly every row"),
        ("a,y\n" + "same,1\n" * 30, "has the same value in every row"),
        ("a,y\n" + "1,\n" * 5, "has no values"),
        ("a,y\n" + "red,x\n" * 12, "has one class only"),
        ("a,y\n" + "1,2\n" * 30 + "x,2\n", '"30"'),
    ],
)
def test_a_table_that_nothing_can_be_learnt_from_is_refused_in_words(
    client: FlaskClient, text: str, faults: str
) -> None:
    answer = train_table(client, text.encode(), target="y")

    assert answer.status_code == 422
    assert faults in answer.text


def test_a_refusal_names_the_features_alone(client: FlaskClient) -> None:
    answer = train_table(client, b"a,y\n" + b",1\n" * 5 + b",\n", target="y")

    assert answer.json["errors"] == {"csv": {"a": ["has no values; it was left out"]}}


@pytest.mark.parametrize("values", [["1,5", "2"], ["1,234", "56"], ["56", "7,890,123.5"]])
def test_numbers_with_commas_are_refused_with_what_to_do(
    client: FlaskClient, values: list[str]
) -> None:
    text = "a,y\n" + "\n".join(f'"{values[n % 2]}",{n}' for n in range(30))

    answer = train_table(client, text.encode(), target="y")

    (fault,) = answer.json["errors"]["csv"]["a"].values()
    assert fault == [
        "is not a number; for decimal commas, give the option decimal=,; from thousands, leave "
        "the commas out"
    ]


@pytest.mark.parametrize("text", ["01/31/2026", "31.1.26", "31-12-2026 10:30"])
def test_dates_that_are_not_read_are_warned_of(client: FlaskClient, text: str) -> None:
    made = train_csv(
        client, "a,k,y\n" + "\n".join(f"{text},{n},{n}" for n in range(10)), target="y"
    )

    assert "only those in ISO 8601 are read" in made["warnings"][0]["message"]


def test_text_with_nanoseconds_is_a_date(client: FlaskClient) -> None:
    text = "at,y\n" + "\n".join(f"2026-01-{n + 1:02}T10:00:00.123456789Z,{n}" for n in range(28))

    (column,) = train_csv(client, text, target="y")["model"]["signature"]["columns"]

    assert column["kind"] == "datetime"
    assert "extrapolated" not in predict_records(client, [["2026-01-02T10:00:00.123456789Z"]])


@pytest.mark.parametrize("form", TYPES)
def test_dates_are_no_target_unless_asked_for(client: FlaskClient, form: str) -> None:
    table = pa.table({"a": range(20), "y": [f"2026-01-{n % 5 + 1:02}" for n in range(20)]})
    data = bytes(WRITERS[form](table))

    refused = train_table(client, data, form, target="y")
    asked = train_table(client, data, form, target="y", task="classification")

    assert "holds dates, expected numbers" in refused.json["errors"][form]["y"][0]
    assert asked.status_code == 201, asked.text


def test_a_column_called_as_a_part_of_a_date_is_named(client: FlaskClient) -> None:
    text = "d,d.year,y\n" + "\n".join(f"2026-01-{n + 1:02},{n},{n}" for n in range(20))

    answer = train_table(client, text.encode(), target="y")

    assert "part of the dates in d" in answer.json["errors"]["csv"]["d.year"][0]


def test_more_categories_than_allowed_are_refused(client: FlaskClient) -> None:
    text = "a,y\n" + "\n".join(f"{n},{n}" for n in range(1001))

    answer = train_table(client, text.encode(), target="y", columns={"a": "category"})

    assert answer.status_code == 422
    assert "has 1001 different values; a category has at most 1000" in answer.text


def test_codes_with_leading_zeros_stay_text(client: FlaskClient) -> None:
    text = "zip,y\n" + "\n".join(f"{n % 4:03},{n % 4 + n // 39}" for n in range(40))

    made = train_csv(client, text, target="y")

    assert made["model"]["signature"]["columns"][0]["categories"] == ["000", "001", "002", "003"]
    assert "leading zeros" in warnings_of(made)["zip"]
    assert predict_records(client, [["001"]])["predictions"] == [pytest.approx(1, abs=0.2)]


def test_a_batch_of_digits_alone_fits_to_categories_of_text(client: FlaskClient) -> None:
    text = "zip,y\n" + "\n".join(f"{('007', '123', 'x')[n % 3]},{n % 3}" for n in range(39))
    train_csv(client, text, target="y")

    answer = client.post(f"{ML}/predict/batch", data="zip\n123\n99\n", content_type=CSV)

    assert answer.status_code == 200, answer.text
    assert answer.json["predictions"][0] == pytest.approx(1)
    assert answer.json["unseen"] == {"1": {"zip": "99"}}


def test_numbers_are_booleans_only_if_they_are_0_or_1(client: FlaskClient) -> None:
    train_csv(client, MIXED, target="y")
    table = pa.table({"sex": ["f"] * 3, "age": [1] * 3, "member": [1, 0, 5], "town": ["Bern"] * 3})

    good, bad = (
        client.post(f"{ML}/predict/batch", data=WRITERS["arrow"](rows), content_type=ARROW)
        for rows in (table[:2], table)
    )

    assert good.status_code == 200
    assert bad.json["errors"] == {"arrow": {"member": {"2": ["is neither 0 nor 1"]}}}


def test_booleans_are_no_categories(client: FlaskClient) -> None:
    table = pa.table({"a": [True, False] * 10, "y": [1.0, 2.0] * 10})
    data = bytes(WRITERS["parquet"](table))

    answer = train_table(client, data, "parquet", target="y", columns={"a": "category"})

    assert answer.json["errors"] == {"parquet": {"a": ["holds boolean values, expected text"]}}


def test_records_of_the_target_alone_are_refused_in_words(client: FlaskClient) -> None:
    answer = client.post(f"{ML}/train", json={"data": [{"y": 1}] * 3, "target": "y"})

    assert answer.json["errors"] == {"json": {"data": ["has no column beside the target 'y'"]}}


def test_a_signature_that_differs_from_the_active_one_is_named(client: FlaskClient) -> None:
    train_csv(client, MIXED, target="y")

    made = train_csv(client, MIXED, target="y", exclude="town")

    assert warnings_of(made)[""] == "differs from the active version 1: it has no town"


def test_missing_values_that_the_active_version_takes_and_a_new_one_refuses_are_named(
    client: FlaskClient,
) -> None:
    rows = [f"{n},{n % 3},{2 * n}" for n in range(20)]
    full = "\n".join(["a,b,y", *rows])
    train_csv(client, "\n".join(["a,b,y", ",1,3", *rows]), target="y")
    assert predict_records(client, [[None, 1]])["predictions"]

    stricter = train_csv(client, full, target="y")
    refused = client.post(f"{ML}/predict/batch", json={"instances": [[None, 1]]})
    alike = train_csv(client, full, target="y")
    fewer = train_csv(client, "\n".join(["a,b,y", ",1,3", *rows]), target="y")

    expected = "differs from the active version 1: it refuses missing values of a, b"
    assert warnings_of(stricter)[""] == expected
    assert refused.status_code == 422
    assert "" not in warnings_of(alike)
    assert "" not in warnings_of(fewer)  # it takes all that the active one does


def test_what_gives_the_target_away_is_warned_of(client: FlaskClient) -> None:
    text = "alive,noise,price,survived\n" + "\n".join(
        f"{('no', 'yes')[n % 2]},{n % 7},{n % 2 * 2},{n % 2}" for n in range(60)
    )

    made = train_csv(client, text, target="survived", task="classification")

    given_away = "determines the target alone; leave it out if it is known only afterwards"
    assert warnings_of(made)["alive"] == warnings_of(made)["price"] == given_away
    assert "noise" not in warnings_of(made)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("name", "target"),
    [("penguins", "species"), ("titanic", "survived"), ("tips", "tip"), ("auto", "mpg"),
     ("seattle", "weather")],
)  # fmt: skip
def test_the_command_line_trains_and_predicts_the_same(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path, name: str, target: str, form: str
) -> None:
    path = tmp_path / f"{name}.{form}"
    path.write_bytes(body_of(name, form))
    expected = train_table(client, body_of(name, "csv"), target=target).json["model"]

    arguments = ["ml", "train", str(path), "--target", target, "--json"]
    made = json.loads(runner.invoke(args=arguments).stdout)
    shown = runner.invoke(args=["ml", "show", "1"]).stdout
    options = ["--extra", "ignore", "--passthrough", target]
    whole = runner.invoke(args=["ml", "predict", str(path), *options])

    assert made["digest"] == expected["digest"]
    assert made["signature"]["columns"][0]["name"] in shown
    written = pd.read_csv(io.StringIO(whole.stdout))
    assert list(written.columns)[:2] == [target, "prediction"]
    assert len(written) == len(pd.read_csv(DATA / f"{name}.csv"))


def test_the_command_line_predicts_for_a_line_of_values(
    client: FlaskClient, runner: FlaskCliRunner
) -> None:
    train_table(client, body_of("titanic", "csv"), target="survived")

    assert runner.invoke(args=["ml", "predict", "--features", "female,29,1st"]).stdout == "yes\n"


@pytest.mark.databases("sqlite", "postgresql")
def test_the_signature_is_shown_wherever_a_version_is(client: FlaskClient) -> None:
    made = train_csv(client, MIXED, target="y")["model"]

    shown = client.get(f"{ML}/models/default/versions/1").json["signature"]

    assert shown == made["signature"]
    assert shown["target"] == "y"
    assert shown["columns"][0] == {
        "name": "sex",
        "kind": "category",
        "missing": True,
        "categories": ["f", "m"],
    }
    assert shown["columns"][1]["kind"] == "number"
    matrix = client.post(f"{ML}/train", json={"X": [[1], [2]], "y": [1, 2]})
    assert matrix.json["model"]["signature"]["columns"] == [
        {"name": "x1", "kind": "number", "missing": False, "minimum": 1.0, "maximum": 2.0}
    ]


@pytest.mark.parametrize(("name", "target"), [("titanic", "survived"), ("tips", "tip")])
def test_auto_keeps_the_best_of_some_estimators_and_shows_the_ranking(
    client: FlaskClient, name: str, target: str
) -> None:
    answer = train_table(client, body_of(name, "csv"), target=target, estimator="auto")

    made = answer.json["model"]
    candidates = made["metrics"]["candidates"]
    assert made["estimator"] == candidates[0]["estimator"]
    assert len(candidates) == 5
    means = [candidate["mean"] for candidate in candidates]
    assert means == sorted(means, reverse=True)
    rows = pd.read_csv(DATA / f"{name}.csv").drop(columns=target)[:3]
    records = json.loads(rows.to_json(orient="records"))
    assert len(predict_records(client, records, extra="ignore")["predictions"]) == 3
    refused = train_table(
        client, body_of(name, "csv"), target=target, estimator="auto", params={"alpha": 1}
    )
    assert "Needs another estimator than auto." in refused.text


@pytest.mark.parametrize("estimator", list(CATALOGUE))
def test_every_estimator_takes_kinds_and_missing_values(
    client: FlaskClient, estimator: str
) -> None:
    classes = CATALOGUE[estimator].task == "classification"
    target = "species" if classes else "body_mass_g"
    options = {"target": target, "estimator": estimator, "params": short_params(estimator)}
    answer = train_table(client, body_of("penguins", "csv"), **options)
    assert answer.status_code == 201, answer.text
    frame = pd.read_csv(DATA / "penguins.csv")
    records = json.loads(frame.drop(columns=target).to_json(orient="records"))
    expected = load_artifact(client).predict(frame).tolist()

    for size in (1, 2, 7, 12, 13, 100):
        found = predict_records(client, records[:size])["predictions"]
        if classes:
            assert found == expected[:size]
        else:
            assert np.allclose(found, expected[:size], rtol=1e-12)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_categorical_of_pandas_is_a_category_even_of_numbers(
    client: FlaskClient, form: str
) -> None:
    grades = pd.Categorical([n % 3 + 1 for n in range(30)])
    frame = pd.DataFrame({"grade": grades, "y": [n % 3 * 5 for n in range(30)]})
    table = pa.Table.from_pandas(frame)

    answer = train_table(client, bytes(WRITERS[form](table)), form, target="y")

    (column,) = answer.json["model"]["signature"]["columns"]
    assert (column["kind"], column["categories"]) == ("category", [1, 2, 3])
    found = predict_records(client, [[1], [3], [4]])
    assert np.allclose(found["predictions"][:2], [0, 10])
    assert found["unseen"] == {"2": {"grade": 4}}


@pytest.mark.parametrize("estimator", ["random_forest", "k_neighbors"])
def test_many_rows_are_scored_in_blocks_as_few_are(client: FlaskClient, estimator: str) -> None:
    params = {"n_estimators": 3} if estimator == "random_forest" else {}
    train_csv(client, MIXED, target="y", estimator=estimator, params=params)
    frame = pd.read_csv(io.StringIO(MIXED)).drop(columns="y")
    expected = predict_records(client, json.loads(frame.to_json(orient="records")))["predictions"]
    many = pd.concat([frame] * 300).to_csv(index=False)  # 18,000 rows

    found = client.post(f"{ML}/predict/batch", data=many, content_type=CSV).json["predictions"]

    assert np.allclose(found, expected * 300, rtol=1e-12)
