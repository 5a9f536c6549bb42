"""The Flask extensions; `create_app` binds them to an application."""

from __future__ import annotations

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from webapp.db.base import Base
from webapp.web.openapi import Api

# Objects stay readable after a commit: views dump them without another query.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
migrate = Migrate()
api = Api()
