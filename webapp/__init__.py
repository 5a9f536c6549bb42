"""The composition root: `create_app` builds everything; importing builds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import product
from typing import Any

from flask import Flask
from sqlalchemy.engine import make_url
from werkzeug.middleware.proxy_fix import ProxyFix

import config
from webapp import cli
from webapp.access import cli as access_cli
from webapp.access import guard
from webapp.audit import routes as audit_routes
from webapp.db.engine import configure_engine, engine_options
from webapp.extensions import api, db, migrate
from webapp.items import routes as items_routes
from webapp.jobs import cli as jobs_cli
from webapp.jobs.processes import LocalExecutor, TaskExecutor
from webapp.jobs.runner import OUTCOMES, Runner
from webapp.jobs.service import count_jobs
from webapp.ml import cli as ml_cli
from webapp.ml import routes as ml_routes
from webapp.ml.blueprint import is_long
from webapp.ml.evaluation import service as evaluation
from webapp.ml.inference.service import make_server
from webapp.ml.registry.service import list_active_versions, list_shadows
from webapp.ml.search import service as search
from webapp.ml.training import service as training
from webapp.ml.upload import service as upload
from webapp.observability import health, metrics
from webapp.observability import log as logs
from webapp.observability.observer import Observe, Observer
from webapp.ui import docs
from webapp.web import browser, limits, problems
from webapp.web.openapi import OPENAPI_VERSION
from webapp.web.parsing import refuse_undeclared
from webapp.web.request import Application

API_PREFIX = "/api/v1"
API_VERSION = "1.0.0"
PRELOADED = (  # for work in child processes
    *("webapp.ml.training.work", "webapp.ml.search.work"),
    *("webapp.ml.upload.work", "webapp.ml.evaluation.work"),
    *("sklearn.model_selection", "skops.io", "pandas"),
    *("pyarrow.csv", "pyarrow.parquet"),
)


def create_app(overrides: Mapping[str, Any] | None = None) -> Flask:
    """Return the application.

    ``overrides`` win over the environment: settings of ``config.py`` by name, or Flask's own.
    Raises config.ConfigError, naming the setting, when one is missing or unusable. Opens no
    connection: the database is first asked when a request or command needs it.
    """
    app = Application(__name__, instance_path=str(config.ROOT / "instance"), static_folder=None)
    configure(app, overrides or {})
    with app.app_context():  # the engine is the application's
        register_extensions(app)
        register_model_server(app)
        register_jobs(app)
        register_blueprints(app)
        register_checks(app)
        register_commands(app)
        register_observation(app)
    return app


def configure(app: Application, overrides: Mapping[str, Any]) -> None:
    """Load the settings and derive from them what Flask and its extensions read."""
    settings = config.load_settings(overrides)
    url = make_url(settings["DATABASE_URL"])
    app.config.update(
        TESTING=settings["APP_ENV"] == "testing",
        SQLALCHEMY_DATABASE_URI=url,
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(
            url,
            # Each thread holds one connection, and may ask for a lease on another.
            pool_size=2 * settings["WEB_THREADS"] + 2,
            timeout=settings["DATABASE_TIMEOUT"],
        ),
        API_TITLE="webapp",
        API_VERSION=API_VERSION,
        OPENAPI_VERSION=OPENAPI_VERSION,
    )
    app.config.update({**overrides, **settings})  # settings as they were checked
    app.url_map.strict_slashes = False  # both forms answer, neither redirects
    app.url_map.merge_slashes = False
    logs.configure(level=settings["LOG_LEVEL"], form=settings["LOG_FORMAT"])
    if hops := settings["PROXY_HOPS"]:
        # Every proxy adds to X-Forwarded-For; the other headers come from the nearest one.
        app.behind_proxies = partial(
            ProxyFix, x_for=hops, x_proto=1, x_host=1, x_port=1, x_prefix=1
        )
        app.wsgi_app = app.behind_proxies(app.wsgi_app)  # type: ignore[method-assign] # Flask's documented way


def register_extensions(app: Flask) -> None:
    """Bind the database, the migrations and the API; add headers and errors to all answers."""
    db.init_app(app)
    migrate.init_app(app, db, directory=str(config.ROOT / "migrations"))
    api.init_app(app, spec_kwargs={"info": {"description": docs.DESCRIPTION}})
    configure_engine(db.engine, timeout=app.config["DATABASE_TIMEOUT"])
    browser.init_app(app)
    problems.init_app(app)


def register_model_server(app: Flask) -> None:
    """Give the application its model server, which predicts with the active versions."""

    def note_shadow(model: str, number: int, outcome: Sequence[float]) -> None:
        if app.config["METRICS"]:
            app.extensions["metrics"].count_shadow(model, number, outcome)

    with app.app_context():
        app.extensions["model_server"] = make_server(
            db.engine,
            lease=app.config["MODEL_LEASE_MS"] / 1000,
            capacity=app.config["MODEL_CACHE_SIZE"],
            note_shadow=note_shadow,
        )


def register_jobs(app: Flask) -> None:
    """Give the application what does its jobs; `start` lets it begin with those in the queue."""

    def note(kind: str, outcome: str, seconds: float) -> None:
        if app.config["METRICS"]:
            app.extensions["metrics"].count_job(kind, outcome, seconds)

    def note_again(kind: str) -> None:
        if app.config["METRICS"]:
            app.extensions["metrics"].count_lost_job(kind)

    server = app.extensions["model_server"]
    leases = server.leases
    with app.app_context():
        engine = db.engine
    cores = config.usable_cores()
    app.config["TRAINING_PROCESSES"] = app.config["TRAINING_PROCESSES"] or max(1, cores - 1)
    of_trainings = {
        **training.make_kinds(leases, app.config),
        search.KIND: search.make_kind(leases, app.config),
    }
    of_uploads = {
        upload.KIND: upload.make_kind(leases, app.config),
        evaluation.KIND: evaluation.make_kind(server, app.config),
    }
    # They wait for no training, and need libraries that the workers of a cluster may not have.
    inspector = LocalExecutor("uploads", cores, PRELOADED)
    runners = {
        "jobs": (make_executor(app), of_trainings),
        "uploads": (inspector, of_uploads),
    }
    for name, (executor, kinds) in runners.items():
        app.extensions[name] = Runner(
            engine,
            executor,
            kinds,
            keep=timedelta(days=app.config["JOB_KEEP_DAYS"]),
            note=note,
            note_again=note_again,
        )


def make_executor(app: Flask) -> TaskExecutor:
    """Return what does the work of jobs: child processes of this host, or a Dask cluster."""
    address = app.config["TRAINING_ENGINE"]
    if address == "local":
        return LocalExecutor("trainings", app.config["TRAINING_PROCESSES"], PRELOADED)
    try:
        from webapp.jobs.dask import DaskExecutor
    except ModuleNotFoundError:
        message = "TRAINING_ENGINE needs the packages of requirements/dask.txt"
        raise config.ConfigError(message) from None
    tls = None
    if address.startswith("tls://"):
        authority, certificate, key = (app.config[name] for name in config.TLS_FILES)
        tls = authority, certificate, key
    return DaskExecutor(address, PRELOADED, tls=tls)


def register_blueprints(app: Application) -> None:
    """Register the items and ml blueprints, health, and the pages for people."""
    for blueprint in (items_routes.blp, ml_routes.blp, audit_routes.blp):
        prefix = API_PREFIX + str(blueprint.url_prefix)
        api.register_blueprint(blueprint, url_prefix=prefix)
    api.register_blueprint(health.blp)
    api.register_blueprint(guard.blp)
    app.register_blueprint(docs.blp)
    if app.config["METRICS"]:
        app.register_blueprint(metrics.blp)
    app.is_long = is_long


def register_checks(app: Flask) -> None:
    """Check each request before its view: API key, then rate limit, then what it declares."""
    guard.init_app(app, db.engine, lease=app.config["MODEL_LEASE_MS"] / 1000)
    limits.init_app(app)
    refuse_undeclared(app, api.list_operations(app))


def register_commands(app: Flask) -> None:
    """Register the `flask` commands."""
    ours = (ml_cli.commands, jobs_cli.commands, access_cli.commands)
    for command in (cli.seed, cli.backup, cli.audit, *ours):
        app.cli.add_command(command)


def register_observation(app: Flask) -> None:
    """Log, count and trace each request; the last step, so that no answer is missed."""
    observers: list[Observe] = []
    if app.config["METRICS"]:
        app.extensions["metrics"] = metrics.Metrics(
            db.engine,
            cache=lambda: app.extensions["model_server"].cache,
            active_versions=list_active_versions,
            shadows=list_shadows,
            jobs=lambda session: dict(zip(metrics.JOB_GAUGES, count_jobs(session), strict=True)),
            workers=app.config["WEB_CONCURRENCY"],
            outcomes=api.list_outcomes(app),
            job_outcomes=[
                *product(app.extensions["jobs"].kinds, OUTCOMES),
                *product(app.extensions["uploads"].kinds, OUTCOMES),
            ],
        )
        observers.append(app.extensions["metrics"].count_request)
    if app.config["ACCESS_LOG"]:
        observers.append(logs.log_request)
    if app.config["OTEL"]:
        try:
            from webapp.observability import traces
        except ModuleNotFoundError:
            message = "OTEL needs the packages of requirements/traces.txt"
            raise config.ConfigError(message) from None
        observers.append(traces.describe_span)
        traces.trace_statements(db.engine)
    if observers:
        app.wsgi_app = Observer(app.wsgi_app, observers)  # type: ignore[method-assign] # as above
    if app.config["OTEL"]:
        app.wsgi_app = traces.TracedApplication(app.wsgi_app)  # type: ignore[method-assign] # as above
