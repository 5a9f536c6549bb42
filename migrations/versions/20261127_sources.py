"""Of each version, the name of the file that its rows, or the model, came in.

Revision ID: 5c8e1b46f72d
Revises: 9e05c7d4f318
Create Date: 2026-11-27 04:40:00
"""

import sqlalchemy as sa
from alembic import op

revision = "5c8e1b46f72d"
down_revision = "9e05c7d4f318"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("model_version", sa.Column("source", sa.String(255)))


def downgrade():
    op.drop_column("model_version", "source")
