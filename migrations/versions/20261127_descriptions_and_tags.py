"""A description of each model, notes on a version, and tags of both; models can be deleted.

On SQLite, ids of models are never given out twice: by them, workers tell a model from a deleted
one of the same name.

Revision ID: 4b8f2e60c9d3
Revises: 7c1e94d2ab60
Create Date: 2026-11-27 01:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "4b8f2e60c9d3"
down_revision = "7c1e94d2ab60"
branch_labels = None
depends_on = None

BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PREDECESSORS = "ix_activation_predecessor_id"
Key = sa.String(63).with_variant(sa.String(63, collation="C"), "postgresql")


def upgrade():
    if op.get_context().dialect.name == "sqlite":
        with op.batch_alter_table(
            "model", recreate="always", table_kwargs={"sqlite_autoincrement": True}
        ):
            pass
    # The default stays: workers of the release before go on inserting while they are replaced.
    op.add_column("model", sa.Column("description", sa.Text(), nullable=False, server_default=""))
    create_tags("model_tag", "model")
    create_tags("version_tag", "model_version")
    op.create_table(
        "version_notes",
        owner("version_notes", "version_id", "model_version"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_version_notes"),
    )
    op.create_index(PREDECESSORS, "activation", ["predecessor_id"])


def create_tags(table, owners):
    name = f"{owners.removeprefix('model_')}_id"
    op.create_table(
        table,
        owner(table, name, owners),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint(name, "key", name=f"pk_{table}"),
    )


def owner(table, name, owners):
    constraint = f"fk_{table}_{name}_{owners}"
    foreign_key = sa.ForeignKey(f"{owners}.id", name=constraint, ondelete="CASCADE")
    return sa.Column(name, BigInt, foreign_key, nullable=False)


def downgrade():
    op.drop_index(PREDECESSORS, "activation")
    for table in ("version_notes", "version_tag", "model_tag"):
        op.drop_table(table)
    op.drop_column("model", "description")
