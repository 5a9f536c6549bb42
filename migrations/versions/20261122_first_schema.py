"""Items; models with their versions, artifacts and activations.

Revision ID: db1529463db9
Revises: nothing
Create Date: 2026-11-22 19:53:05
"""

import sqlalchemy as sa
from alembic import op

revision = "db1529463db9"
down_revision = None
branch_labels = None
depends_on = None

BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# By code point, whatever the locale of the database.
SortedText = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")


def upgrade():
    op.create_table(
        "artifact",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artifact"),
    )
    op.create_table(
        "item",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("name", SortedText, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_item"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_item_created_at", "item", ["created_at"])
    op.create_index("ix_item_name", "item", ["name"])

    op.create_table(
        "model",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("name", name="uq_model_name"),
    )
    op.create_table(
        "model_version",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("model_id", BigInt, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("estimator", sa.String(length=64), nullable=False),
        sa.Column("model_type", sa.String(length=128), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("feature_names", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("evaluated_on", sa.String(length=16), nullable=False),
        sa.Column("n_train", BigInt, nullable=False),
        sa.Column("n_test", BigInt, nullable=False),
        sa.Column("test_size", sa.Double(), nullable=False),
        sa.Column("random_state", BigInt, nullable=False),
        sa.Column("refit", sa.Boolean(), nullable=False),
        sa.Column("fit_seconds", sa.Double(), nullable=False),
        sa.Column("libraries", sa.JSON(), nullable=False),
        sa.Column("artifact_digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("number >= 1", name=op.f("ck_model_version_number_positive")),
        sa.ForeignKeyConstraint(
            ["artifact_digest"],
            ["artifact.digest"],
            name="fk_model_version_artifact_digest_artifact",
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name="fk_model_version_model_id_model"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_version"),
        sa.UniqueConstraint("model_id", "number", name="uq_model_version_model_id_number"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_model_version_artifact_digest", "model_version", ["artifact_digest"])

    op.create_table(
        "activation",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("model_id", BigInt, nullable=False),
        sa.Column("version_id", BigInt, nullable=True),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "ended_at IS NOT NULL OR version_id IS NOT NULL",
            name=op.f("ck_activation_active_version_exists"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_activation_model_id_model"),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_version.id"],
            name="fk_activation_version_id_model_version",
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_activation"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_activation_model_id_id", "activation", ["model_id", "id"])
    op.create_index("ix_activation_version_id", "activation", ["version_id"])
    op.create_index(
        "uq_activation_active_model_id",
        "activation",
        ["model_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade():
    for table in ("activation", "model_version", "model", "item", "artifact"):
        op.drop_table(table)
