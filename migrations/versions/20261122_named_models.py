"""What a version knows of its training, classes and coefficients; the way back of a rollback.

Revision ID: 3a1c90d2f4b7
Revises: db1529463db9
Create Date: 2026-11-22 21:05:00
"""

import sqlalchemy as sa
from alembic import op

revision = "3a1c90d2f4b7"
down_revision = "db1529463db9"
branch_labels = None
depends_on = None

BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# Known of every version that there is so far: each was trained here, by linear regression.
PRESENT_VALUES = {"origin": "trained", "task": "regression"}
NEW_COLUMNS = {
    "classes": sa.JSON(none_as_null=True),
    "coefficients": sa.JSON(none_as_null=True),
    "created_by": sa.String(128),
    "converged": sa.Boolean(),
    "data_digest": sa.String(64),
    "profile": sa.JSON(none_as_null=True),
    "interval_basis": sa.JSON(none_as_null=True),
}
UNKNOWN_OF_UPLOADS = {
    "evaluated_on": sa.String(16),
    "n_train": BigInt,
    "n_test": BigInt,
    "test_size": sa.Double(),
    "random_state": BigInt,
    "refit": sa.Boolean(),
    "fit_seconds": sa.Double(),
}


def upgrade():
    with op.batch_alter_table("model_version") as batch:
        for name, value in PRESENT_VALUES.items():
            batch.add_column(sa.Column(name, sa.String(16), nullable=False, server_default=value))
        batch.add_column(
            sa.Column("scale", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        for name, type_ in NEW_COLUMNS.items():
            batch.add_column(sa.Column(name, type_, nullable=True))
        for name, type_ in UNKNOWN_OF_UPLOADS.items():
            batch.alter_column(name, existing_type=type_, nullable=True)
    with op.batch_alter_table("model_version") as batch:
        for name in (*PRESENT_VALUES, "scale"):
            batch.alter_column(name, server_default=None)

    with op.batch_alter_table("activation") as batch:
        batch.add_column(
            sa.Column("reason", sa.String(16), nullable=False, server_default="train")
        )
        batch.add_column(sa.Column("activated_by", sa.String(128), nullable=True))
        batch.add_column(sa.Column("previous_number", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("predecessor_id", BigInt, nullable=True))
        batch.create_foreign_key(
            "fk_activation_predecessor_id_activation", "activation", ["predecessor_id"], ["id"]
        )
    with op.batch_alter_table("activation") as batch:
        batch.alter_column("reason", server_default=None)
    # Until now each activation followed the one before it.
    earlier = (
        "FROM activation AS b WHERE b.model_id = activation.model_id AND b.id < activation.id"
    )
    op.execute(f"UPDATE activation SET predecessor_id = (SELECT max(b.id) {earlier})")
    op.execute(
        "UPDATE activation SET previous_number = (SELECT b.version_number FROM activation AS b "
        "WHERE b.id = activation.predecessor_id)"
    )


def downgrade():
    with op.batch_alter_table("activation") as batch:
        batch.drop_constraint("fk_activation_predecessor_id_activation", type_="foreignkey")
        for name in ("reason", "activated_by", "previous_number", "predecessor_id"):
            batch.drop_column(name)
    # A version that was uploaded cannot say how it was trained; what it must say is made up.
    for name, value in {"evaluated_on": "'unknown'", "refit": "false"}.items():
        op.execute(f"UPDATE model_version SET {name} = {value} WHERE {name} IS NULL")
    for name in ("n_train", "n_test", "test_size", "random_state", "fit_seconds"):
        op.execute(f"UPDATE model_version SET {name} = 0 WHERE {name} IS NULL")
    with op.batch_alter_table("model_version") as batch:
        for name, type_ in UNKNOWN_OF_UPLOADS.items():
            batch.alter_column(name, existing_type=type_, nullable=False)
        for name in (*NEW_COLUMNS, *PRESENT_VALUES, "scale"):
            batch.drop_column(name)
