"""What the columns of a table with kinds add to a linear model on average, for explanations.

Revision ID: c58e1f7a2d40
Revises: c3f6b18e7a40
Create Date: 2026-11-27 06:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "c58e1f7a2d40"
down_revision = "c3f6b18e7a40"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("model_version", sa.Column("mean_contributions", sa.JSON(none_as_null=True)))


def downgrade():
    op.drop_column("model_version", "mean_contributions")
