"""The Flask extensions; `create_app` binds them to an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import current_app
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from werkzeug.local import LocalProxy

from webapp.db.base import Base
from webapp.web.openapi import Api

if TYPE_CHECKING:
    from webapp.ml.serving import ModelServer

# Objects stay readable after a commit: views dump them without another query.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
migrate = Migrate()
api = Api()
model_server = cast("ModelServer", LocalProxy(lambda: current_app.extensions["model_server"]))
