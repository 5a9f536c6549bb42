"""What a proxy asks about an API key."""

from __future__ import annotations

from webapp.access.schemas import KeySchema
from webapp.scopes import Scope
from webapp.web.blueprint import Blueprint

# Under /health, so that it waits for no other request.
blp = Blueprint(
    "access",
    __name__,
    url_prefix="/health",
    description="Is the API key good?",
    ignores_undeclared=True,
)


@blp.route("/key", get="check_key")
@blp.allow(*Scope)
@blp.response(200, KeySchema)
def key() -> dict[str, str]:
    """Say whether the API key is good, whatever it allows.

    A proxy asks this before it takes in a large body. Where keys are not asked for, it is.
    """
    return {"status": "ok"}
