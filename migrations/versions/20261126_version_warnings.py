"""What was left out of a version's data, or converted.

Revision ID: 2f6d8b0c41ae
Revises: 8e35c0b9d2f6
Create Date: 2026-11-26 15:10:00
"""

import sqlalchemy as sa
from alembic import op

revision = "2f6d8b0c41ae"
down_revision = "8e35c0b9d2f6"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True)


def upgrade():
    # The default stays: workers of the release before go on inserting while they are replaced.
    op.add_column(
        "model_version", sa.Column("warnings", Json, nullable=False, server_default="[]")
    )


def downgrade():
    op.drop_column("model_version", "warnings")
