"""Evaluations of versions on rows that someone has posted.

Revision ID: 2d6f83b1a07c
Revises: a1d7c3f09e52
Create Date: 2026-11-27 04:10:00
"""

import sqlalchemy as sa
from alembic import op

revision = "2d6f83b1a07c"
down_revision = "a1d7c3f09e52"
branch_labels = None
depends_on = None

BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
VERSION = "fk_evaluation_version_id_model_version"


def upgrade():
    version = sa.ForeignKey("model_version.id", name=VERSION, ondelete="CASCADE")
    op.create_table(
        "evaluation",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("version_id", BigInt, version, nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("n_rows", BigInt, nullable=False),
        sa.Column("data_digest", sa.String(64), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(128), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_evaluation"),
    )
    op.create_index("ix_evaluation_version_id_id", "evaluation", ["version_id", "id"])


def downgrade():
    op.drop_index("ix_evaluation_version_id_id", "evaluation")
    op.drop_table("evaluation")
