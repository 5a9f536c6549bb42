"""What columns a version takes, and whether its hold-out was stratified.

Of versions that there are, the columns come from the names and ranges of their features.

On SQLite, ids of versions and activations are never given out twice again, as workers rely on: an
earlier revision, which made these tables anew, had lost that.

Revision ID: 7c1e94d2ab60
Revises: e1f8a3c65b20
Create Date: 2026-11-27 00:30:00
"""

import sqlalchemy as sa
from alembic import op

revision = "7c1e94d2ab60"
down_revision = "e1f8a3c65b20"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True)
BATCH = 100  # a version of many features has megabytes of them

version = sa.table(
    "model_version",
    sa.column("id", sa.BigInteger),
    sa.column("task", sa.String),
    sa.column("feature_names", Json),
    sa.column("profile", Json),
    sa.column("signature", Json),
)


def upgrade():
    # Workers of the release before go on inserting while they are replaced: it may be null.
    op.add_column("model_version", sa.Column("signature", Json, nullable=True))
    op.add_column("model_version", sa.Column("stratify", sa.Boolean, nullable=True))
    connection, last = op.get_bind(), 0
    query = sa.select(version.c.id, version.c.task, version.c.feature_names, version.c.profile)
    while rows := connection.execute(
        query.where(version.c.id > last).order_by(version.c.id).limit(BATCH)
    ).all():
        for row in rows:
            found = {"signature": describe(row.task, row.feature_names, row.profile)}
            connection.execute(version.update().where(version.c.id == row.id).values(found))
        last = rows[-1].id
    if connection.dialect.name == "sqlite":
        for table in ("model_version", "activation"):
            with op.batch_alter_table(
                table, recreate="always", table_kwargs={"sqlite_autoincrement": True}
            ):
                pass


def describe(task, names, profile):
    ranges = profile or {}
    none = [None] * len(names)
    columns = [
        {"name": name, "kind": "number", "missing": False, "minimum": low, "maximum": high}
        for name, low, high in zip(
            names, ranges.get("min", none), ranges.get("max", none), strict=True
        )
    ]
    return {"columns": columns, "target": None, "task": task}


def downgrade():
    op.drop_column("model_version", "stratify")
    op.drop_column("model_version", "signature")
