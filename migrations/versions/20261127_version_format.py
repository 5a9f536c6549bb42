"""The format of a version's artifact: those that there are, are skops files.

Revision ID: a4d0c7e2519b
Revises: a1d7c3f09e52
Create Date: 2026-11-27 03:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "a4d0c7e2519b"
down_revision = "5c8e1b46f72d"
branch_labels = None
depends_on = None


def upgrade():
    # Workers of the release before go on inserting while they are replaced: the server fills it.
    op.add_column(
        "model_version",
        sa.Column("format", sa.String(16), nullable=False, server_default="skops"),
    )


def downgrade():
    op.drop_column("model_version", "format")
