"""Models and their versions: store, describe, activate, name, share, roll back, delete, read.

A function that changes what may be served commits, and then waits until no process can rely on
what it knew before (``webapp.db.leases``): when it returns, every worker serves the new state.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session, lazyload, selectinload, undefer_group

from webapp.audit.service import current_actor, record
from webapp.db.base import (
    Page,
    begin_read,
    begin_write,
    fetch_page,
    insert_if_absent,
    insert_or_correct,
    keep_nothing,
    utc_now,
)
from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.ml import errors
from webapp.ml.core import artifacts, plots
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.formats import FORMATS
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.signature import Signature, read_signature
from webapp.ml.registry.models import (
    MOST_ALIASES,
    MOST_TAGS,
    Activation,
    Artifact,
    Model,
    ModelAlias,
    ModelTag,
    ModelVersion,
    TrafficShare,
    VersionTag,
)

DEFAULT_MODEL = "default"
ANY_VERSION = 0  # is no row's id
MOST_LISTED = 1000  # models, where there are no pages

RowReader: TypeAlias = Callable[[Signature, Sequence[Any] | None], Dataset]
"""Returns rows with their target, as a signature has them; the other argument are the classes."""


def store_version(
    session: Session,
    leases: Leases[Any, Any],
    *,
    name: str,
    version: ModelVersion,
    artifact: bytes,
    activate: bool,
    comparison: Mapping[str, Any] | None = None,
    before_commit: Callable[[ModelVersion], object] = keep_nothing,
) -> ModelVersion:
    """Store a new version of a model, in one transaction with its artifact and activation.

    The model is created with its first version. With a ``comparison``, as ``gate.compare`` returns
    it, that decides instead of ``activate``: where another version than it was compared with has
    become active, that one stays, and a warning says so. Libraries of this process, and how the
    version differs from the active one, are noted beside what the version has of both.
    ``before_commit`` is called with the version inside the transaction.
    """
    version.libraries = {**_library_versions(), **(version.libraries or {})}
    version.warnings = [*version.warnings, *_warn_of_difference(session, name, version)]
    over: int | None = ANY_VERSION
    if comparison is not None:
        _note_comparison(version, comparison)
        activate, over = comparison["better"], comparison["over"]
    version.artifact_digest = artifacts.digest(artifact)
    version.created_by = current_actor().name
    reason = "train" if version.origin == "trained" else "upload"
    begin_write(session)
    # The lock numbers concurrent trainings one after the other, without gaps or duplicates.
    model = _lock_or_create_model(session, name)
    model.last_version += 1
    version.model, version.number = model, model.last_version
    active_id = model.active and model.active.version_id
    if activate and over not in (ANY_VERSION, active_id):
        activate = False
        message = "was not activated: another version has become active meanwhile"
        version.warnings = [*version.warnings, {"column": "", "message": message}]
    # An artifact with this digest may be there already, and damaged: it is then replaced.
    insert_or_correct(session, Artifact, {"digest": version.artifact_digest, "data": artifact})
    session.add(version)
    session.flush()
    # What was not given is read now: the version may be deleted before it is shown.
    session.refresh(version, sa.inspect(version).unloaded)
    if activate:
        _activate(session, version, reason=reason)
    details = {"version": version.number, "activated": activate}
    record(session, f"version.{reason}", f"model {name}", details)
    before_commit(version)
    session.commit()
    if activate:
        leases.wait_out()
    return version


def _warn_of_difference(
    session: Session, name: str, version: ModelVersion
) -> list[dict[str, str]]:
    """Return a warning where the active version takes other columns or values, in a list."""
    active = get_active_version(session, name)
    if active is None:
        return []
    signature, taken = read_signature(version), read_signature(active)
    found = [signature.find_difference(taken), signature.find_refused(taken)]
    differences = [difference for difference in found if difference]
    if not differences:
        return []
    message = f"differs from the active version {active.number}: it {', '.join(differences)}"
    return [{"column": "", "message": message}]


def describe_active(session: Session, name: str) -> dict[str, Any] | None:
    """Return the active version as `describe_version` does; None where there is none."""
    active = get_active_version(session, name)
    return None if active is None else describe_version(session, active)


def describe_version(session: Session, version: ModelVersion) -> dict[str, Any]:
    """Return a version as `core.gate` judges it: all that is needed to load it.

    ``fault`` is why it cannot be loaded; "" where it can.
    """
    described: dict[str, Any] = {
        "id": version.id,
        "number": version.number,
        "format": version.format,
        "signature": read_signature(version).to_json(),
        "profile": version.profile,
        "classes": version.classes,
    }
    artifact, fault = b"", ""
    try:
        artifact = read_artifact(session, version.artifact_digest)
    except errors.ArtifactUnusable as error:
        fault = error.reason
    except errors.VersionDeleted as error:
        fault = str(error)
    return {**described, "artifact": artifact, "fault": fault}


def _note_comparison(version: ModelVersion, found: Mapping[str, Any]) -> None:
    """Note in a new version's metrics how it compares with the active one, or why it does not."""
    comparison = {name: found[name] for name in ("metric", "candidate", "active", "version")}
    version.metrics = {**version.metrics, "comparison": {**comparison, "better": found["better"]}}
    if found["obstacle"]:
        message = (
            f"was not compared with the active version {found['version']}, which stays: "
            f"{found['obstacle']}"
        )
        version.warnings = [*version.warnings, {"column": "", "message": message}]


def activate_version(
    session: Session, leases: Leases[Any, Any], *, name: str, number: int
) -> ModelVersion:
    """Make a version the active one, which answers all traffic.

    Raises VersionNotFound, and VersionUnusable when it cannot be loaded: the version that is
    active stays so.
    """
    fault = _find_loading_fault(session, get_version(session, name, number))
    begin_write(session)
    model = get_model(session, name, lock=True)
    active = model.active
    version = get_version(session, name, number)  # it may have been deleted meanwhile
    if fault:
        raise errors.VersionUnusable(name, number, fault)
    if active is None or active.version_id != version.id:
        _activate(session, version, reason="activate")
    else:
        _end_traffic(session, model)
    record(session, "version.activate", f"model {name}", {"version": number})
    session.commit()
    leases.wait_out()
    return version


def roll_back(session: Session, leases: Leases[Any, Any], *, name: str) -> ModelVersion:
    """Activate the version that was active before, and return it.

    Rolling back again goes further back. Deleted versions are skipped. Raises ModelNotFound,
    NothingToRollBack, and VersionUnusable.
    """
    checked, fault = 0, ""
    while True:
        begin_write(session)
        active = get_model(session, name, lock=True).active
        target = None if active is None else _find_rollback_target(session, active)
        if target is None:
            raise errors.NothingToRollBack(name)
        version = get_version(session, name, target.version_number)
        if version.id == checked:
            break
        checked, fault = version.id, _find_loading_fault(session, version)
    if fault:
        raise errors.VersionUnusable(name, version.number, fault)
    _activate(session, version, reason="rollback", rollback_to=target)
    record(session, "model.rollback", f"model {name}", {"version": version.number})
    session.commit()
    leases.wait_out()
    return version


def set_alias(
    session: Session, leases: Leases[Any, Any], *, name: str, alias: str, number: int
) -> ModelVersion:
    """Let an alias name a version, and no other any more; return the version.

    Raises VersionNotFound, TooManyAliases, and VersionUnusable when it cannot be loaded.
    """
    fault = _find_loading_fault(session, get_version(session, name, number))
    begin_write(session)
    model = get_model(session, name, lock=True)
    version = get_version(session, name, number)  # it may have been deleted meanwhile
    if fault:
        raise errors.VersionUnusable(name, number, fault)
    row = session.get(ModelAlias, (model.id, alias))
    if row is None:
        if len(model.alias_rows) == MOST_ALIASES:
            raise errors.TooManyAliases(name, MOST_ALIASES)
        row = ModelAlias(model_id=model.id, name=alias)
        session.add(row)
    row.version_id, row.version_number = version.id, number
    session.flush()
    session.refresh(version, ["alias_rows"])
    record(session, "alias.set", f"model {name}", {"alias": alias, "version": number})
    session.commit()
    leases.wait_out()
    return version


def delete_alias(session: Session, leases: Leases[Any, Any], *, name: str, alias: str) -> None:
    """Delete an alias; its version stays. Raises ModelNotFound, and AliasNotFound."""
    begin_write(session)
    row = session.get(ModelAlias, (get_model(session, name, lock=True).id, alias))
    if row is None:
        raise errors.AliasNotFound(name, alias)
    details = {"alias": alias, "version": row.version_number}
    session.delete(row)
    record(session, "alias.delete", f"model {name}", details)
    session.commit()
    leases.wait_out()


def set_traffic(
    session: Session,
    leases: Leases[Any, Any],
    *,
    name: str,
    shares: Mapping[int, int],
    shadow: int | None = None,
) -> Model:
    """Share the requests that name no version among some, and return the model.

    ``shares`` are percents by number of the version, 100 in all. ``shadow`` is the number of one
    that predicts too, and answers nothing. Raises VersionNotFound, ModelNotTrained, InvalidInput
    where the active version takes other columns or is for another task, and VersionUnusable.
    """
    percents = {**shares} if shadow is None else {**shares, shadow: None}
    found = get_versions(session, name=name, numbers=[*percents])
    faults = {version.number: _find_loading_fault(session, version) for version in found}
    begin_write(session)
    model = get_model(session, name, lock=True)
    versions = get_versions(session, name=name, numbers=[*percents])  # as they are now
    for number, fault in faults.items():
        if fault:
            raise errors.VersionUnusable(name, number, fault)
    active = get_active_version(session, name)
    if active is None:
        raise errors.ModelNotTrained(name)
    _check_alike(active, versions, shadow=shadow)
    session.execute(sa.delete(TrafficShare).where(TrafficShare.model_id == model.id))
    session.add_all(
        TrafficShare(
            version_id=version.id,
            model_id=model.id,
            version_number=version.number,
            percent=percents[version.number],
        )
        for version in versions
    )
    session.flush()
    session.refresh(model, ["share_rows"])
    record(session, "traffic.set", f"model {name}", model.traffic)
    session.commit()
    leases.wait_out()
    return model


def end_traffic(session: Session, leases: Leases[Any, Any], *, name: str) -> None:
    """Let the active version answer all requests that name none; raises ModelNotFound."""
    begin_write(session)
    _end_traffic(session, get_model(session, name, lock=True))
    session.commit()
    leases.wait_out()


def change_model(
    session: Session,
    *,
    name: str,
    description: str | None = None,
    tags: Mapping[str, str | None] | None = None,
) -> Model:
    """Change what is said of a model, and return it: what is None stays.

    ``tags`` are those to set, or to remove where the value is None. Raises ModelNotFound, and
    InvalidInput when there would be more than ``MOST_TAGS``.
    """
    begin_write(session)
    model = get_model(session, name, lock=True)
    if description is not None:
        model.description = description
    _change_tags(model.tags, tags or {})
    changed = _name_changes(description=description, tags=tags)
    record(session, "model.change", f"model {name}", {"fields": changed})
    session.commit()
    return model


def change_version(
    session: Session,
    *,
    name: str,
    number: int,
    notes: str | None = None,
    tags: Mapping[str, str | None] | None = None,
) -> ModelVersion:
    """Change the notes and tags of a version, and return it; as ``change_model`` does.

    Raises VersionNotFound and InvalidInput.
    """
    begin_write(session)
    get_model(session, name, lock=True)
    version = get_version(session, name, number)
    if notes is not None:
        version.notes = notes
    _change_tags(version.tags, tags or {})
    details = {"version": number, "fields": _name_changes(notes=notes, tags=tags)}
    record(session, "version.change", f"model {name}", details)
    session.commit()
    return version


def delete_version(session: Session, leases: Leases[Any, Any], *, name: str, number: int) -> None:
    """Delete a version and its artifact; its number is not used again.

    Raises VersionNotFound, VersionActive, VersionHasAliases, and VersionHasTraffic.
    """
    begin_write(session)
    model = get_model(session, name, lock=True)
    active = model.active
    version = get_version(session, name, number)
    if active is not None and active.version_id == version.id:
        raise errors.VersionActive(name, number)
    if version.aliases:
        raise errors.VersionHasAliases(name, number, version.aliases)
    if any(row.version_id == version.id for row in model.share_rows):
        raise errors.VersionHasTraffic(name, number)
    _delete_versions(session, ModelVersion.id == version.id)
    record(session, "version.delete", f"model {name}", {"version": number})
    session.commit()
    leases.wait_out()


def delete_model(
    session: Session, leases: Leases[Any, Any], *, name: str, versions: str | None = None
) -> None:
    """Delete a model with its history; with ``versions="all"``, its versions too.

    No worker serves it any more when this returns. Raises ModelNotFound, and ModelHasVersions.
    """
    begin_write(session)
    model = get_model(session, name, lock=True)
    of_model = ModelVersion.model_id == model.id
    count = session.scalar(sa.select(sa.func.count()).select_from(ModelVersion).where(of_model))
    if count and versions != "all":
        raise errors.ModelHasVersions(name, count)
    session.execute(sa.delete(Activation).where(Activation.model_id == model.id))
    session.execute(sa.delete(ModelAlias).where(ModelAlias.model_id == model.id))
    session.execute(sa.delete(TrafficShare).where(TrafficShare.model_id == model.id))
    _delete_versions(session, of_model)
    session.execute(sa.delete(Model).where(Model.id == model.id))
    record(session, "model.delete", f"model {name}", {"versions": count})
    session.commit()
    leases.wait_out()


def get_model(session: Session, name: str, *, lock: bool = False) -> Model:
    """Return a model, with ``lock`` as its only writer; raises ModelNotFound."""
    query = sa.select(Model).where(Model.name == name)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    model = session.scalar(query)
    if model is None:
        raise errors.ModelNotFound(name)
    return model


def list_models(
    session: Session, *, page: int, page_size: int, q: str = "", tag: str | None = None
) -> Page[Model]:
    """Return one page of the models, by name.

    Only those whose name or description contains the text ``q``, and that have the ``tag``
    (``key:value``).
    """
    query = sa.select(Model).order_by(Model.name).options(selectinload(Model.tag_rows))
    if q:
        find = sa.func.strpos if _is_postgresql(session) else sa.func.instr  # LIKE may ignore case
        query = query.where(sa.or_(find(Model.name, q) > 0, find(Model.description, q) > 0))
    if tag is not None:
        query = query.where(Model.tag_rows.any(_matches(ModelTag, tag)))
    return fetch_page(session, query, number=page, size=page_size)


def list_versions(
    session: Session,
    *,
    name: str,
    page: int,
    page_size: int,
    tag: str | None = None,
    estimator: str | None = None,
    sort: str = "-version",
) -> Page[ModelVersion]:
    """Return one page of a model's versions; raises ModelNotFound.

    Only those that have the ``tag`` (``key:value``), and are of the ``estimator``. ``sort`` is
    ``version``, ``created_at`` or ``metrics.NAME``, with ``-`` before it for descending. Versions
    without that metric come last, the newest first among equals.
    """
    query = sa.select(ModelVersion).where(ModelVersion.model_id == get_model(session, name).id)
    if tag is not None:
        query = query.where(ModelVersion.tag_rows.any(_matches(VersionTag, tag)))
    if estimator is not None:
        query = query.where(ModelVersion.estimator == estimator)
    query = query.order_by(_order_by(session, sort), ModelVersion.number.desc())
    return fetch_page(session, query, number=page, size=page_size)


def list_activations(
    session: Session, *, name: str, page: int, page_size: int
) -> Page[Activation]:
    """Return one page of a model's activations, the latest first; raises ModelNotFound."""
    query = sa.select(Activation).where(Activation.model_id == get_model(session, name).id)
    query = query.order_by(Activation.id.desc())
    return fetch_page(session, query, number=page, size=page_size)


def list_active_versions(session: Session) -> Sequence[tuple[str, int]]:
    """Return name and active version's number of the first ``MOST_LISTED`` models by name."""
    begin_read(session)
    query = (
        sa.select(Model.name, Activation.version_number)
        .join(Activation, Activation.model_id == Model.id)
        .where(Activation.ended_at.is_(None))
        .order_by(Model.name)
        .limit(MOST_LISTED)
    )
    return [(name, number) for name, number in session.execute(query)]


def has_versions(session: Session, name: str) -> bool:
    """Return whether a model has ever had a version."""
    begin_read(session)
    return bool(session.scalar(sa.select(Model.last_version).where(Model.name == name)))


def list_shadows(session: Session) -> Sequence[tuple[str, int]]:
    """Return name and shadow's number of the first ``MOST_LISTED`` models by name."""
    query = (
        sa.select(Model.name, TrafficShare.version_number)
        .join(TrafficShare, TrafficShare.model_id == Model.id)
        .where(TrafficShare.percent.is_(None))
        .order_by(Model.name)
        .limit(MOST_LISTED)
    )
    return [(name, number) for name, number in session.execute(query)]


def get_active_version(session: Session, name: str) -> ModelVersion | None:
    """Return the active version of a model, None where there is none."""
    return session.scalar(
        sa.select(ModelVersion)
        .options(undefer_group("wide"))  # it may be deleted before it is shown
        .join(ModelVersion.model)
        .join(Activation, Activation.version_id == ModelVersion.id)
        .where(Model.name == name, Activation.ended_at.is_(None))
    )


def get_version(
    session: Session, name: str, number: int, *, is_shown: bool = True
) -> ModelVersion:
    """Return a version; raises VersionNotFound.

    Unless ``is_shown``, its tags and the like are not read: five queries of six.
    """
    query = (
        sa.select(ModelVersion)
        .options(undefer_group("wide"))  # it may be deleted before it is shown
        .join(ModelVersion.model)
        .where(Model.name == name, ModelVersion.number == number)
    )
    version = session.scalar(query if is_shown else query.options(lazyload("*")))
    if version is None:
        raise errors.VersionNotFound(name, number)
    return version


def get_plot(session: Session, name: str, number: int, plot: str) -> bytes:
    """Return a plot of a version, in SVG; raises VersionNotFound, and PlotNotFound."""
    version = get_version(session, name, number)
    rows = session.scalar(sa.select(ModelVersion.judged_rows).filter_by(id=version.id))
    shown = plots.Shown(
        classes=None if version.classes is None else tuple(version.classes),
        rows=rows,
        coefficients=json.dumps(version.coefficients) if version.coefficients else None,
        importances=json.dumps(version.importances) if version.importances else None,
    )
    drawable = [name for name in plots.PLOTS if not shown.why_not(name)]
    if plot not in drawable:
        why = shown.why_not(plot) if plot in plots.PLOTS else "no plot is called so"
        known = f"there are {', '.join(drawable)}" if drawable else "there are none"
        raise errors.PlotNotFound(plot, f"{why}; {known}")
    return plots.draw_plot(plot, shown)


def get_versions(session: Session, *, name: str, numbers: Sequence[int]) -> list[ModelVersion]:
    """Return versions of a model in the order of ``numbers``; raises VersionNotFound."""
    query = (
        sa.select(ModelVersion)
        .options(undefer_group("wide"))
        .join(ModelVersion.model)
        .where(Model.name == name, ModelVersion.number.in_(numbers))
    )
    found = {version.number: version for version in session.scalars(query)}
    if missing := [number for number in numbers if number not in found]:
        raise errors.VersionNotFound(name, missing[0])
    return [found[number] for number in numbers]


def get_artifact(session: Session, name: str, number: int) -> Artifact:
    """Return the artifact of a version; raises VersionNotFound, and ArtifactUnusable."""
    artifact = session.get(Artifact, get_version(session, name, number).artifact_digest)
    if artifact is None:  # another transaction has deleted both meanwhile
        raise errors.VersionNotFound(name, number)
    artifacts.check_digest(artifact.data, artifact.digest)
    return artifact


def load_model(session: Session, version: ModelVersion) -> LoadedModel:
    """Return the model of a version, ready to predict; raises as `read_artifact` does.

    Loading takes seconds. The session gives up its locks first: on SQLite they would keep out
    all other writers.
    """
    digest, kind = version.artifact_digest, FORMATS[version.format]
    signature, profile, classes = read_signature(version), version.profile, version.classes
    begin_read(session)
    return kind.restore(read_artifact(session, digest), signature, profile, classes)


def read_artifact(session: Session, digest: str) -> bytes:
    """Return the bytes of an artifact.

    Raises VersionDeleted, and ArtifactUnusable where they are damaged.
    """
    data = session.scalar(sa.select(Artifact.data).where(Artifact.digest == digest))
    if data is None:
        raise errors.VersionDeleted
    artifacts.check_digest(data, digest)
    return data


def get_coefficients(session: Session, name: str, number: int) -> dict[str, Any]:
    """Return all coefficients of a linear model, in units of the unscaled features.

    coefficients: (n_functions, n_features), intercepts: (n_functions,). A regression is one
    function; a classification has one per class in ``classes``: of two classes only the second.

    Raises VersionNotFound, VersionDeleted, CoefficientsNotFound, and ArtifactUnusable.
    """
    version = get_version(session, name, number)
    kind, model_type = FORMATS[version.format], version.model_type
    entry = CATALOGUE.get(version.estimator)
    if entry is None or not entry.is_linear:  # to load a large forest takes seconds
        raise errors.CoefficientsNotFound(name, number, model_type)
    loaded = load_model(session, version)
    found = kind.list_coefficients(loaded)
    if found is None:  # of text, there are as many as words
        raise errors.CoefficientsNotFound(name, number, model_type)
    names, coefficients, intercepts = found
    classes = loaded.classes
    return {
        "feature_names": list(names),
        "classes": classes[1:] if classes is not None and len(classes) == 2 else classes,
        "intercepts": intercepts,
        "coefficients": coefficients,
    }


@cache  # it reads files
def _library_versions() -> Mapping[str, str]:
    """Return the versions of Python and of the libraries that fit and store models."""
    libraries = ("scikit-learn", "numpy", "scipy", "skops")
    versions = {name: metadata.version(name) for name in libraries}
    return {"python": platform.python_version(), **versions}


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _matches(table: type[ModelTag | VersionTag], tag: str) -> sa.ColumnElement[bool]:
    """Return the condition for rows of a tag: ``key:value``."""
    key, _, value = tag.partition(":")
    return sa.and_(table.key == key, table.value == value)


def _order_by(session: Session, sort: str) -> Any:
    """Return the order that ``sort`` names; a metric that is no number counts as none."""
    name, direction = sort.removeprefix("-"), sa.desc if sort.startswith("-") else sa.asc
    if name in ("version", "created_at"):
        return direction(ModelVersion.number if name == "version" else ModelVersion.created_at)
    key = name.removeprefix("metrics.")
    metric = ModelVersion.metrics[key]
    # An upload may bring any JSON as a metric, such as text, which PostgreSQL cannot cast.
    json_type = sa.func.json_type(ModelVersion.metrics, f'$."{key}"')
    found = sa.func.json_typeof(metric) if _is_postgresql(session) else json_type
    is_number = found.in_(["number", "integer", "real"])
    return direction(sa.case((is_number, metric.as_float()))).nulls_last()


def _change_tags(tags: MutableMapping[str, str], changes: Mapping[str, str | None]) -> None:
    for key, value in changes.items():
        if value is None:
            tags.pop(key, None)
        else:
            tags[key] = value
    if len(tags) > MOST_TAGS:
        message = f"would be {len(tags)} tags, at most {MOST_TAGS} are allowed"
        raise InvalidInput({"tags": [message]}, source="json")


def _name_changes(**values: object) -> list[str]:
    return sorted(name for name, value in values.items() if value is not None)


def _lock_or_create_model(session: Session, name: str) -> Model:
    """Return a model with this transaction as its only writer."""
    while True:
        values = {"name": name, "last_version": 0, "created_at": utc_now()}
        insert_if_absent(session, Model, values)
        with suppress(errors.ModelNotFound):  # another transaction has deleted it meanwhile
            return get_model(session, name, lock=True)


def _delete_versions(session: Session, which: sa.ColumnElement[bool]) -> None:
    """Delete versions, and the artifacts that no other version has."""
    digests = sa.select(ModelVersion.artifact_digest).where(which)
    # A transaction that is storing a version with the same artifact holds it: wait, and then see
    # that version. In order, so that two deletions never wait for each other.
    artifacts_of_them = sa.select(Artifact.digest).where(Artifact.digest.in_(digests))
    held = session.scalars(artifacts_of_them.order_by(Artifact.digest).with_for_update()).all()
    session.execute(sa.delete(ModelVersion).where(which))
    used = sa.select(ModelVersion.id).where(ModelVersion.artifact_digest == Artifact.digest)
    for digest in held:
        session.execute(sa.delete(Artifact).where(Artifact.digest == digest, ~used.exists()))


def _find_loading_fault(session: Session, version: ModelVersion) -> str:
    """Return why a version cannot be loaded; "" where it can."""
    try:
        load_model(session, version)
    except (errors.ArtifactUnusable, errors.VersionDeleted) as error:
        return str(error)
    return ""


def _check_alike(
    active: ModelVersion, versions: Sequence[ModelVersion], *, shadow: int | None
) -> None:
    """Raise InvalidInput unless all take the columns of the active version, for its task."""
    expected, faults = read_signature(active), {}
    for version in versions:
        if difference := read_signature(version).find_difference(expected):
            message = f"is unlike the active version, {active.number}: it {difference}"
            faults[version.number] = [message]
    if faults:
        of_shadow = {"shadow": faults.pop(shadow)} if shadow in faults else {}
        of_shares = {"shares": {str(n): fault for n, fault in faults.items()}} if faults else {}
        raise InvalidInput({**of_shares, **of_shadow}, source="json")


def _end_traffic(session: Session, model: Model) -> None:
    """Share a model's traffic no longer, where it is shared."""
    if model.share_rows:
        session.execute(sa.delete(TrafficShare).where(TrafficShare.model_id == model.id))
        record(session, "traffic.end", f"model {model.name}", model.traffic)


def _find_rollback_target(session: Session, active: Activation) -> Activation | None:
    """Return the nearest predecessor whose version exists, and is another than the active."""
    target = active
    while target.predecessor_id is not None:
        target = session.get_one(Activation, target.predecessor_id)
        if target.version_id is not None and target.version_number != active.version_number:
            return target
    return None


def _activate(
    session: Session, version: ModelVersion, *, reason: str, rollback_to: Activation | None = None
) -> None:
    """Make a version the active one, of all traffic."""
    _end_traffic(session, version.model)
    now, active = utc_now(), version.model.active
    if active is not None:
        active.ended_at = now
        session.flush()  # before the INSERT: a unique index allows one active version
    session.add(
        Activation(
            model_id=version.model_id,
            version_id=version.id,
            version_number=version.number,
            reason=reason,
            activated_at=now,
            activated_by=current_actor().name,
            previous_number=active and active.version_number,
            # The next rollback goes further back, not forth.
            predecessor_id=rollback_to.predecessor_id if rollback_to else active and active.id,
        )
    )
