"""Who holds an API key, told apart from others that have had the name.

Revision ID: 8e35c0b9d2f6
Revises: d4a96b1c07e8
Create Date: 2026-11-26 15:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "8e35c0b9d2f6"
down_revision = "d4a96b1c07e8"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("api_key", sa.Column("holder_id", sa.String(12), nullable=True))
    # Which keys were rotated is not told by the table: as before, who has a name is its holder.
    op.execute(
        "UPDATE api_key SET holder_id = (SELECT key_id FROM api_key AS first "
        "WHERE first.name = api_key.name ORDER BY first.id LIMIT 1)"
    )
    with op.batch_alter_table("api_key") as table:
        table.alter_column("holder_id", existing_type=sa.String(12), nullable=False)


def downgrade():
    with op.batch_alter_table("api_key") as table:
        table.drop_column("holder_id")
