"""The extensions, unbound: `create_app` binds them to an application."""

from __future__ import annotations

from typing import Any, cast

from flask import current_app
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from webapp.db.base import Base
from webapp.db.leases import Leases
from webapp.web.api import Api

# Objects stay readable after a commit: a view dumps what its service has just committed,
# without a further query.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
migrate = Migrate()
api = Api()


def model_leases() -> Leases[Any, Any]:
    """Return the leases by which this process knows which version of each model is active."""
    return cast(Leases[Any, Any], current_app.extensions["model_server"].leases)
