"""Shares of a model's traffic, and its shadow. A version that has one cannot be deleted.

Revision ID: b7e92c4f1a60
Revises: c58e1f7a2d40
Create Date: 2026-11-27 06:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "b7e92c4f1a60"
down_revision = "c58e1f7a2d40"
branch_labels = None
depends_on = None

BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade():
    op.create_table(
        "traffic_share",
        owner("version_id", "model_version"),
        owner("model_id", "model"),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("version_id", name="pk_traffic_share"),
        sa.CheckConstraint(
            "percent BETWEEN 1 AND 100", name=op.f("ck_traffic_share_percent_range")
        ),
    )
    op.create_index("ix_traffic_share_model_id", "traffic_share", ["model_id"])


def owner(name, owners):
    foreign_key = sa.ForeignKey(f"{owners}.id", name=f"fk_traffic_share_{name}_{owners}")
    return sa.Column(name, BigInt, foreign_key, nullable=False)


def downgrade():
    op.drop_index("ix_traffic_share_model_id", "traffic_share")
    op.drop_table("traffic_share")
