"""The extensions, unbound: `create_app` binds them to an application."""

from __future__ import annotations

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from webapp.db.base import Base
from webapp.web.api import Api

# Objects stay readable after a commit: a view dumps what its service has just committed,
# without a further query.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
migrate = Migrate()
api = Api()
