"""Of each version, the first of the rows that it was judged by: plots are drawn from them.

Revision ID: a1d7c3f09e52
Revises: 4b8f2e60c9d3
Create Date: 2026-11-27 04:15:00
"""

import sqlalchemy as sa
from alembic import op

revision = "a1d7c3f09e52"
down_revision = "4b8f2e60c9d3"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("model_version", sa.Column("judged_rows", sa.LargeBinary()))


def downgrade():
    op.drop_column("model_version", "judged_rows")
