"""Of each version, how much each column matters to it.

Revision ID: c3f6b18e7a40
Revises: a4d0c7e2519b
Create Date: 2026-11-27 06:40:00
"""

import sqlalchemy as sa
from alembic import op

revision = "c3f6b18e7a40"
down_revision = "a4d0c7e2519b"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("model_version", sa.Column("importances", sa.JSON()))


def downgrade():
    op.drop_column("model_version", "importances")
