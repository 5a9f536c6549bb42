"""Count items when they are listed: the table of counts and its triggers go.

Revision ID: e1f8a3c65b20
Revises: 2f6d8b0c41ae
Create Date: 2026-11-26 15:10:00
"""

from alembic import context

revision = "e1f8a3c65b20"
down_revision = "2f6d8b0c41ae"
branch_labels = None
depends_on = None


def items_at_size():
    """Return the revision that made them."""
    return context.script.get_revision("b7e2d4f18a35").module


def upgrade():
    items_at_size().drop_blocks()


def downgrade():
    items_at_size().create_blocks()
