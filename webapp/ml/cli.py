"""`flask ml`: train, predict and look, from the command line."""

from __future__ import annotations

import csv
import sys
from typing import IO

import click
import numpy as np
from flask.cli import AppGroup

from webapp.commands import clear_errors
from webapp.errors import InvalidInput, faults_in
from webapp.extensions import db, model_server
from webapp.ml import service
from webapp.ml.core.datasets import read_csv, read_csv_features
from webapp.ml.core.estimators import CATALOGUE, DEFAULT_ESTIMATOR
from webapp.ml.core.training import TrainingSpec
from webapp.ml.models import ModelVersion
from webapp.ml.service import DEFAULT_MODEL

commands = AppGroup("ml", help="Train models, predict with them, see what serves.")


@commands.command()
@click.argument("file", type=click.File("rb"))
@click.option("--target", required=True, help="Name of the column to predict.")
@click.option(
    "--estimator",
    type=click.Choice(list(CATALOGUE)),
    default=DEFAULT_ESTIMATOR,
    show_default=True,
    help="What to fit.",
)
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
    help="Seed of the split.",
)
@click.option("--refit", is_flag=True, help="Serve a model fitted on all rows.")
@clear_errors
def train(
    file: IO[bytes],
    target: str,
    estimator: str,
    test_size: float,
    random_state: int,
    refit: bool,
) -> None:
    """Train the default model on a CSV FILE with a header ("-" is standard input).

    Every column but the target is a feature. The new version serves as soon as the command
    returns, in every worker of a running service too.

    Example: flask ml train diabetes.csv --target progression
    """
    with faults_in(file.name):
        dataset = read_csv(file, target=target)
    spec = TrainingSpec(
        estimator=estimator, test_size=test_size, random_state=random_state, refit=refit
    )
    version = service.train_model(
        db.session(), model_server, name=DEFAULT_MODEL, dataset=dataset, spec=spec
    )
    _echo_version(version)


@commands.command()
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--features", help="One row instead of a file: numbers separated by commas.")
@clear_errors
def predict(file: IO[bytes] | None, features: str | None) -> None:
    """Predict with the default model: a line per row of a CSV FILE, or one for --features.

    The header of FILE names the features, in any order.

    Examples: flask ml predict rows.csv > predictions.csv, flask ml predict --features 1,2,3
    """
    if (file is None) == (features is None):
        raise click.UsageError("Give either a FILE or --features.")
    if file is None:
        rows = _parse_features(features or "")
        predictions = service.predict(model_server, name=DEFAULT_MODEL, rows=rows)
        click.echo(repr(float(predictions.values[0])))
        return
    names = model_server.get_active(DEFAULT_MODEL).version.feature_names
    with faults_in(file.name):
        rows = read_csv_features(file, names)
    predictions = service.predict(model_server, name=DEFAULT_MODEL, rows=rows)
    writer = csv.writer(sys.stdout)
    writer.writerow(["prediction"])
    writer.writerows([repr(value)] for value in predictions.values.tolist())


@commands.command()
@clear_errors
def info() -> None:
    """Show which version of the default model serves, and how good it is."""
    version = service.get_active_version(db.session(), DEFAULT_MODEL)
    if version is None:
        click.echo(f"Model {DEFAULT_MODEL!r} is not trained.")
    else:
        _echo_version(version)


def _parse_features(text: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    try:
        row = [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput({"--features": ["must be numbers separated by commas"]}) from None
    if not np.isfinite(row).all():
        raise InvalidInput({"--features": ["must be finite numbers"]})
    return np.array([row])


def _echo_version(version: ModelVersion) -> None:
    rows = {
        "model": version.model.name,
        "version": version.number,
        "type": version.model_type,
        "features": ", ".join(version.feature_names),
        "rows": f"{version.n_train} fitted, {version.n_test} held out",
        "judged on": version.evaluated_on,
        **{name: "undefined" if m is None else m for name, m in version.metrics.items()},
        "trained at": version.created_at.isoformat(timespec="seconds"),
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")
