"""The tables of models: a model, its versions, their artifacts, and what was active when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import Mapped, attribute_keyed_dict, mapped_column, relationship

from webapp.db.base import Base, BigInt, BigIntPrimaryKey, sorted_text, utc_now

NAME_LENGTH = 63
TAG_KEY_LENGTH = 63
TAG_VALUE_LENGTH = 255
MOST_ALIASES = 50  # of a model
MOST_SHARES = 10  # versions that share the traffic of a model
MOST_TAGS = 50  # of a model, or of a version


def take_single(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that are one value each: not the confusion matrix, say."""
    return {k: v for k, v in metrics.items() if not isinstance(v, dict | list)}


class ModelTag(Base):
    """A tag of a model: one value for each key."""

    __tablename__ = "model_tag"

    model_id: Mapped[int] = mapped_column(
        BigInt, sa.ForeignKey("model.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(sorted_text(TAG_KEY_LENGTH), primary_key=True)
    value: Mapped[str] = mapped_column(sa.String(TAG_VALUE_LENGTH))


class VersionTag(Base):
    """A tag of a version: one value for each key."""

    __tablename__ = "version_tag"

    version_id: Mapped[int] = mapped_column(
        BigInt, sa.ForeignKey("model_version.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(sorted_text(TAG_KEY_LENGTH), primary_key=True)
    value: Mapped[str] = mapped_column(sa.String(TAG_VALUE_LENGTH))


class ModelAlias(Base):
    """A name for one of a model's versions. The database refuses to delete a version with one."""

    __tablename__ = "model_alias"

    model_id: Mapped[int] = mapped_column(BigInt, sa.ForeignKey("model.id"), primary_key=True)
    name: Mapped[str] = mapped_column(sorted_text(NAME_LENGTH), primary_key=True)
    version_id: Mapped[int] = mapped_column(BigInt, sa.ForeignKey("model_version.id"), index=True)
    version_number: Mapped[int]


class TrafficShare(Base):
    """The share of its model's traffic that a version answers; NULL is that of the shadow.

    The database refuses to delete a version with one.
    """

    __tablename__ = "traffic_share"
    __table_args__ = (sa.CheckConstraint("percent BETWEEN 1 AND 100", name="percent_range"),)

    version_id: Mapped[int] = mapped_column(
        BigInt, sa.ForeignKey("model_version.id"), primary_key=True
    )
    model_id: Mapped[int] = mapped_column(BigInt, sa.ForeignKey("model.id"), index=True)
    version_number: Mapped[int]
    percent: Mapped[int | None]


class VersionNotes(Base):
    """What people have noted about a version."""

    __tablename__ = "version_notes"

    version_id: Mapped[int] = mapped_column(
        BigInt, sa.ForeignKey("model_version.id", ondelete="CASCADE"), primary_key=True
    )
    text: Mapped[str]


class Model(Base):
    """A named model. ``last_version`` is the highest version number ever given out."""

    __tablename__ = "model"
    # Workers tell a model from a deleted one of the same name by its id.
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[BigIntPrimaryKey]
    name: Mapped[str] = mapped_column(sa.String(NAME_LENGTH), unique=True)
    description: Mapped[str] = mapped_column(server_default="", default="")
    last_version: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    active: Mapped[Activation | None] = relationship(
        primaryjoin="and_(Activation.model_id == Model.id, Activation.ended_at.is_(None))",
        viewonly=True,
        lazy="selectin",
    )
    alias_rows: Mapped[list[ModelAlias]] = relationship(
        order_by=ModelAlias.name, viewonly=True, lazy="selectin"
    )
    share_rows: Mapped[list[TrafficShare]] = relationship(
        order_by=TrafficShare.version_number, viewonly=True, lazy="selectin"
    )
    tag_rows: Mapped[dict[str, ModelTag]] = relationship(
        collection_class=attribute_keyed_dict("key"),
        order_by=ModelTag.key,
        cascade="all, delete-orphan",
        passive_deletes=True,
    )
    tags: AssociationProxy[dict[str, str]] = association_proxy(
        "tag_rows", "value", creator=lambda key, value: ModelTag(key=key, value=value)
    )

    @property
    def aliases(self) -> dict[str, int]:
        """Return the numbers of the versions that have a name, by that."""
        return {row.name: row.version_number for row in self.alias_rows}

    @property
    def traffic(self) -> dict[str, Any]:
        """Return the percent of each version that answers requests without one, and the shadow.

        Where nothing is shared, the active version answers all of them.
        """
        rows = self.share_rows
        shares = {str(row.version_number): row.percent for row in rows if row.percent is not None}
        if not rows and self.active is not None:
            shares = {str(self.active.version_number): 100}
        shadows = [row.version_number for row in rows if row.percent is None]
        return {"shares": shares, "shadow": shadows[0] if shadows else None}


class Artifact(Base):
    """The bytes of a fitted estimator, apart from the metadata so that listings stay light."""

    __tablename__ = "artifact"

    digest: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    data: Mapped[bytes]


def _wide() -> Any:
    """Return a column that grows with features or classes: listings do not load it."""
    return mapped_column(deferred=True, deferred_group="wide")


class ModelVersion(Base):
    """One training of a model. A row never changes after the transaction that made it.

    Its notes and tags may change: they are rows of other tables.
    """

    __tablename__ = "model_version"
    # An id names one version for ever: workers keep scorers by it.
    __table_args__ = (
        sa.UniqueConstraint("model_id", "number"),
        sa.CheckConstraint("number >= 1", name="number_positive"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BigIntPrimaryKey]
    model_id: Mapped[int] = mapped_column(BigInt, sa.ForeignKey("model.id"))
    number: Mapped[int]
    origin: Mapped[str] = mapped_column(sa.String(16))
    task: Mapped[str] = mapped_column(sa.String(16))
    estimator: Mapped[str] = mapped_column(sa.String(64))
    model_type: Mapped[str] = mapped_column(sa.String(128))
    params: Mapped[dict[str, Any]]
    scale: Mapped[bool]
    feature_names: Mapped[list[str]] = _wide()
    signature: Mapped[dict[str, Any] | None] = _wide()
    classes: Mapped[list[Any] | None] = _wide()
    metrics: Mapped[dict[str, Any]]
    coefficients: Mapped[dict[str, Any] | None] = _wide()
    importances: Mapped[dict[str, Any] | None] = _wide()
    warnings: Mapped[list[Any]] = mapped_column(server_default="[]", default=list)
    libraries: Mapped[dict[str, Any]]
    format: Mapped[str] = mapped_column(sa.String(16), server_default="skops", default="skops")
    artifact_digest: Mapped[str] = mapped_column(sa.ForeignKey("artifact.digest"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str | None] = mapped_column(sa.String(128))
    source: Mapped[str | None] = mapped_column(sa.String(255))

    # How it was trained: unknown (NULL) of a version that was fitted elsewhere.
    evaluated_on: Mapped[str | None] = mapped_column(sa.String(16))
    n_train: Mapped[int | None] = mapped_column(BigInt)
    n_test: Mapped[int | None] = mapped_column(BigInt)
    test_size: Mapped[float | None]
    random_state: Mapped[int | None] = mapped_column(BigInt)
    refit: Mapped[bool | None]
    stratify: Mapped[bool | None]
    fit_seconds: Mapped[float | None]
    converged: Mapped[bool | None]
    data_digest: Mapped[str | None] = mapped_column(sa.String(64))
    profile: Mapped[dict[str, Any] | None] = _wide()
    interval_basis: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    judged_rows: Mapped[bytes | None] = mapped_column(deferred=True)
    mean_contributions: Mapped[list[Any] | None] = mapped_column(deferred=True)

    model: Mapped[Model] = relationship(lazy="joined", innerjoin=True)
    tag_rows: Mapped[dict[str, VersionTag]] = relationship(
        collection_class=attribute_keyed_dict("key"),
        order_by=VersionTag.key,
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="selectin",
    )
    tags: AssociationProxy[dict[str, str]] = association_proxy(
        "tag_rows", "value", creator=lambda key, value: VersionTag(key=key, value=value)
    )
    alias_rows: Mapped[list[ModelAlias]] = relationship(
        order_by=ModelAlias.name, viewonly=True, lazy="selectin"
    )
    notes_row: Mapped[VersionNotes | None] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, lazy="joined"
    )

    @property
    def aliases(self) -> list[str]:
        """Return its names."""
        return [row.name for row in self.alias_rows]

    @property
    def notes(self) -> str:
        """Return what people have noted about it, "" for nothing."""
        return "" if self.notes_row is None else self.notes_row.text

    @notes.setter
    def notes(self, text: str) -> None:
        if self.notes_row is None:
            self.notes_row = VersionNotes(text=text)
        else:
            self.notes_row.text = text

    @property
    def single_metrics(self) -> dict[str, Any]:
        """Return the metrics that are one value each."""
        return take_single(self.metrics)


class Activation(Base):
    """A version's time as the active one; the one that has not ended is active now.

    The database itself holds the rules: a partial unique index allows one active version per
    model, and a check forbids deleting it, since a deleted version leaves ``version_id`` NULL
    (its number stays, for the history).

    ``reason`` is ``train``, ``upload``, ``activate`` or ``rollback``.
    """

    __tablename__ = "activation"
    __table_args__ = (
        sa.Index(
            "uq_activation_active_model_id",
            "model_id",
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        sa.Index("ix_activation_model_id_id", "model_id", "id"),
        sa.CheckConstraint(
            "ended_at IS NOT NULL OR version_id IS NOT NULL", name="active_version_exists"
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BigIntPrimaryKey]
    model_id: Mapped[int] = mapped_column(BigInt, sa.ForeignKey("model.id"))
    version_id: Mapped[int | None] = mapped_column(
        BigInt, sa.ForeignKey("model_version.id", ondelete="SET NULL"), index=True
    )
    version_number: Mapped[int]
    reason: Mapped[str] = mapped_column(sa.String(16))
    activated_at: Mapped[datetime] = mapped_column(default=utc_now)
    activated_by: Mapped[str | None] = mapped_column(sa.String(128))
    ended_at: Mapped[datetime | None]
    previous_number: Mapped[int | None]
    # What a rollback returns to. A rollback takes over the predecessor of the activation that
    # it returns to: rolling back again goes further back, not forth.
    # Without the index, each activation that is deleted would cost a scan of the table.
    predecessor_id: Mapped[int | None] = mapped_column(
        BigInt, sa.ForeignKey("activation.id"), index=True
    )
