"""`flask ml`: train, predict, activate and look, from the command line."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click
import numpy as np
from flask import current_app
from flask.cli import AppGroup

from webapp.commands import clear_errors
from webapp.errors import InvalidInput, faults_in
from webapp.extensions import db, model_server
from webapp.ml.core import tables
from webapp.ml.core.costs import FitLimits
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR
from webapp.ml.core.tables import DEFAULT_DIALECT, CsvDialect, Format, Limits
from webapp.ml.core.training import MOST_FOLDS, TrainingSpec
from webapp.ml.inference import service as inference
from webapp.ml.inference.answers import make_columns
from webapp.ml.registry import service as registry
from webapp.ml.registry.models import ModelVersion
from webapp.ml.registry.schemas import ModelSchema, VersionSchema, VersionSummarySchema
from webapp.ml.registry.service import DEFAULT_MODEL
from webapp.ml.training import service as training

commands = AppGroup("ml", help="Train models, predict with them, see and choose what serves.")
PAGE = {"page": 1, "page_size": 1000}

model_option = click.option(
    "--model", "name", default=DEFAULT_MODEL, show_default=True, help="Which model."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
delimiter_option = click.option(
    "--delimiter",
    type=click.Choice(tables.DELIMITERS),
    default=DEFAULT_DIALECT.delimiter,
    help="What separates the columns of CSV: , ; | or a tab.",
)
decimal_option = click.option(
    "--decimal",
    type=click.Choice(tables.DECIMALS),
    default=DEFAULT_DIALECT.decimal,
    help="The decimal point of CSV: . or ,",
)
number_argument = click.argument("number", type=click.IntRange(min=1), metavar="VERSION")


@commands.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", required=True, help="Name of the column to predict.")
@model_option
@click.option(
    "--estimator",
    type=click.Choice(list(CATALOGUE)),
    default=DEFAULT_ESTIMATOR,
    show_default=True,
    help="What to fit.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter of the estimator; may be given again.",
)
@click.option("--scale", is_flag=True, help="Standardise the features first.")
@click.option(
    "--test-size",
    type=click.FloatRange(0, 1, max_open=True),
    default=TrainingSpec.test_size,
    show_default=True,
    help="Share of the rows held out to judge the model.",
)
@click.option(
    "--random-state",
    type=click.IntRange(0, 2**32 - 1),
    default=TrainingSpec.random_state,
    show_default=True,
    help="Seed of the split, and of what the estimator draws.",
)
@click.option("--cv", type=click.IntRange(0, MOST_FOLDS), default=0, help="Cross-validate.")
@click.option("--refit", is_flag=True, help="Serve a model fitted on all rows.")
@click.option("--activate/--no-activate", default=True, help="Whether it serves from now on.")
@delimiter_option
@decimal_option
@json_option
@clear_errors
def train(
    file: Path,
    target: str,
    name: str,
    params: Sequence[str],
    activate: bool,
    delimiter: str,
    decimal: str,
    as_json: bool,
    **spec: Any,
) -> None:
    """Train a model on a FILE with a header: CSV, Parquet or Arrow, told by its suffix.

    Every column but the target is a feature. The new version serves as soon as the command
    returns, in every worker of a running service too.

    Example: flask ml train diabetes.csv --target progression --estimator ridge --param alpha=0.1
    """
    check_name(name)
    with file.open("rb") as source, faults_in(file.name):
        dataset = tables.read_dataset(
            source,
            format=format_of(file),
            target=target,
            task=CATALOGUE[spec["estimator"]].task,
            limits=Limits.from_settings(current_app.config),
            dialect=CsvDialect(delimiter, decimal),
        )
    rows, columns = dataset.X.shape
    with ticking(f"Fitting {spec['estimator']} on {rows} x {columns}"):
        version = training.train_model(
            db.session(),
            model_server,
            name=name,
            dataset=dataset,
            spec=TrainingSpec(params=parse_params(params), **spec),
            activate=activate,
            limits=FitLimits.from_settings(current_app.config),
        )
    echo_version(version, as_json=as_json)


@commands.command()
@click.argument(
    "source", metavar="[IN]", required=False, type=click.Path(exists=True, path_type=Path)
)
@click.argument("out", metavar="[OUT]", type=click.File("wb", atomic=True), default="-")
@model_option
@click.option("--version", "number", type=click.IntRange(min=1), help="Not the active version.")
@click.option("--features", help="One row instead of a file: numbers separated by commas.")
@delimiter_option
@decimal_option
@clear_errors
def predict(
    source: Path | None,
    out: IO[bytes],
    name: str,
    number: int | None,
    features: str | None,
    delimiter: str,
    decimal: str,
) -> None:
    """Predict a line of OUT (CSV, by default standard output) per row of IN.

    IN is CSV, Parquet or Arrow; its header names the features, in any order. It may be larger
    than memory. With --features, a single row comes from the command line.

    Examples: flask ml predict rows.parquet predictions.csv, flask ml predict --features 1,2,3
    """
    if (source is None) == (features is None):
        raise click.UsageError("Give either IN or --features.")
    if source is None:
        rows = parse_features(features or "")
        predictions = inference.predict_one(model_server, name=name, number=number, features=rows)
        click.echo(str(predictions.scores.values[0]))
        return
    names = model_server.get_version(name, number).version.feature_names
    with (
        source.open("rb") as stream,
        faults_in(source.name),
        click.progressbar(length=source.stat().st_size, label=source.name, file=sys.stderr) as bar,
    ):
        batches = tables.iterate_features(
            stream,
            format=format_of(source),
            names=names,
            dialect=CsvDialect(delimiter, decimal),
        )
        for index, batch in enumerate(batches):
            predictions = inference.predict(model_server, name=name, number=number, rows=batch.X)
            out.writelines(tables.write_csv(make_columns(predictions), header=index == 0))
            bar.update(stream.tell() - bar.pos)
    for warning in batch.warnings:
        click.echo(f"{warning.column}: {warning.message}", err=True)


@commands.command()
@json_option
@clear_errors
def models(as_json: bool) -> None:
    """List the models and what serves of each."""
    found = ModelSchema(many=True).dump(registry.list_models(db.session(), **PAGE).objects)
    echo_table(found, ["name", "active_version", "last_version", "created_at"], as_json=as_json)


@commands.command()
@model_option
@json_option
@clear_errors
def versions(name: str, as_json: bool) -> None:
    """List the versions of a model, the newest first."""
    active = registry.get_active_version(db.session(), name)
    page = registry.list_versions(db.session(), name=name, **PAGE)
    rows = VersionSummarySchema(many=True).dump(page.objects)
    for row in rows:
        row["active"] = active is not None and row["version"] == active.number
    columns = ["version", "active", "origin", "estimator", "n_train", "created_at"]
    echo_table(rows, columns, as_json=as_json)


@commands.command()
@number_argument
@model_option
@json_option
@clear_errors
def show(number: int, name: str, as_json: bool) -> None:
    """Show a version: how it was made, and how good it is."""
    echo_version(registry.get_version(db.session(), name, number), as_json=as_json)


@commands.command()
@model_option
@json_option
@clear_errors
def info(name: str, as_json: bool) -> None:
    """Show which version serves, and how good it is."""
    version = registry.get_active_version(db.session(), name)
    if version is not None:
        echo_version(version, as_json=as_json)
    elif as_json:
        click.echo("null")
    else:
        click.echo(f"Model {name!r} is not trained.")


@commands.command()
@number_argument
@model_option
@clear_errors
def activate(number: int, name: str) -> None:
    """Make a version serve; when the command returns, every worker serves it."""
    registry.activate_version(db.session(), model_server, name=name, number=number)
    click.echo(f"Model {name!r}: version {number} serves.")


@commands.command()
@model_option
@clear_errors
def rollback(name: str) -> None:
    """Make the version serve that was active before."""
    version = registry.roll_back(db.session(), model_server, name=name)
    click.echo(f"Model {name!r}: version {version.number} serves.")


@commands.command("export")
@number_argument
@click.argument("out", type=click.File("wb", atomic=True))
@model_option
@clear_errors
def export_artifact(number: int, out: IO[bytes], name: str) -> None:
    """Write a version to OUT as a skops file."""
    out.write(registry.get_artifact(db.session(), name, number).data)


@commands.command("import")
@click.argument("file", type=click.File("rb"))
@model_option
@click.option("--activate", is_flag=True, help="Serve it from now on.")
@json_option
@clear_errors
def import_artifact(file: IO[bytes], name: str, activate: bool, as_json: bool) -> None:
    """Register a model that was fitted elsewhere: FILE is what skops.io.dump wrote."""
    check_name(name)
    version = registry.register_version(
        db.session(),
        model_server,
        name=name,
        data=file.read(),
        max_features=current_app.config["MAX_COLUMNS"],
        activate=activate,
    )
    echo_version(version, as_json=as_json)


def check_name(name: str) -> None:
    """Raise InvalidInput for a name that no URL can carry."""
    if not registry.NAME.fullmatch(name):
        raise InvalidInput({"--model": [f"must match {registry.NAME.pattern}"]})


def format_of(path: Path) -> Format:
    """Return the format that a file's suffix tells; raises InvalidInput."""
    found = tables.format_of_suffix(path.name)
    if found is None:
        known = ", ".join(s for row in tables.FORMATS.values() for s in row.suffixes)
        raise InvalidInput({path.name: [f"has none of the suffixes {known}"]})
    return found


def parse_params(pairs: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as parameters; a value is JSON, or plain text."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise InvalidInput({"--param": [f"{pair!r} is not of the form NAME=VALUE"]})
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


def parse_features(text: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return numbers separated by commas as a matrix of one row."""
    try:
        row = [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput({"--features": ["must be numbers separated by commas"]}) from None
    if not np.isfinite(row).all():
        raise InvalidInput({"--features": ["must be finite numbers"]})
    return np.array([row])


@contextmanager
def ticking(what: str) -> Iterator[None]:
    """Tell a person at a terminal, every second, how long something has taken."""
    done = threading.Event()
    started = time.monotonic()

    def tick() -> None:
        while not done.wait(1):
            click.echo(f"\r{what}: {time.monotonic() - started:.0f} s", nl=False, err=True)

    ticker = threading.Thread(target=tick, daemon=True)
    visible = sys.stderr.isatty()
    if visible:
        ticker.start()
    try:
        yield
    finally:
        done.set()
        if visible:
            ticker.join()
            click.echo(err=True)


def echo_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool
) -> None:
    """Print rows: all of them as JSON, or some columns as a table."""
    if as_json:
        click.echo(json.dumps(rows))
        return
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def echo_version(version: ModelVersion, *, as_json: bool) -> None:
    """Print a version: all of it as JSON, or what a person wants to know as a table."""
    if as_json:
        click.echo(json.dumps(VersionSchema().dump(version)))
        return
    rows = {
        "model": version.model.name,
        "version": version.number,
        "origin": version.origin,
        "type": version.model_type,
        "parameters": ", ".join(f"{key}={value}" for key, value in version.params.items()),
        "features": ", ".join(version.feature_names),
        "classes": ", ".join(map(str, version.classes or ())) or None,
        "fitted rows": version.n_train,
        "held out": version.n_test,
        "warnings": "; ".join(f"{w['column']}: {w['message']}" for w in version.warnings) or None,
        "judged on": version.evaluated_on,
        **version.metrics,
        "digest": version.artifact_digest,
        "made at": version.created_at.isoformat(timespec="seconds"),
        "made by": version.created_by,
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    words = {True: "yes", False: "", None: "-"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
