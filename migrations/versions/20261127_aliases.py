"""Aliases: names for versions of a model. A version that has one cannot be deleted.

Revision ID: 9e05c7d4f318
Revises: 2d6f83b1a07c
Create Date: 2026-11-27 04:20:00
"""

import sqlalchemy as sa
from alembic import op

revision = "9e05c7d4f318"
down_revision = "2d6f83b1a07c"
branch_labels = None
depends_on = None

BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Name = sa.String(63).with_variant(sa.String(63, collation="C"), "postgresql")


def upgrade():
    op.create_table(
        "model_alias",
        owner("model_id", "model"),
        sa.Column("name", Name, nullable=False),
        owner("version_id", "model_version"),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "name", name="pk_model_alias"),
    )
    op.create_index("ix_model_alias_version_id", "model_alias", ["version_id"])


def owner(name, owners):
    foreign_key = sa.ForeignKey(f"{owners}.id", name=f"fk_model_alias_{name}_{owners}")
    return sa.Column(name, BigInt, foreign_key, nullable=False)


def downgrade():
    op.drop_index("ix_model_alias_version_id", "model_alias")
    op.drop_table("model_alias")
