"""The names that generated clients give to the calls of the service."""

from __future__ import annotations

import keyword
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from flask.views import MethodView

from tests.faults import on_sqlite
from webapp.web.blueprint import Blueprint

pytestmark = on_sqlite


def test_every_operation_has_a_name_of_its_own_that_calls_it(client: FlaskClient) -> None:
    paths = client.get("/openapi.json").json["paths"]
    operations = {
        operation["operationId"]: (method.upper(), path)
        for path, item in paths.items()
        for method, operation in item.items()
        if method != "parameters"
    }

    def call(operation: str, json: object = None, **parameters: object) -> Any:
        method, path = operations[operation]
        return client.open(path.format(**parameters), method=method, json=json)

    assert len(operations) == sum(len(set(item) - {"parameters"}) for item in paths.values())
    for name in operations:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert not keyword.iskeyword(name)
    rows = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}
    assert call("train_model", rows, name="houses").status_code == 201
    predicted = call("predict", {"features": [1, 2, 3]}, name="houses").json["prediction"]
    batch = {"instances": [[1, 2, 3]]}
    found = call("predict_batch_with_version", batch, name="houses", number=1).json
    assert found["predictions"] == pytest.approx([predicted])
    item = call("create_item", {"name": "a"}).json["id"]
    assert call("put_item", {"name": "b"}, item_id=item).json["name"] == "b"
    assert call("update_item", {"name": "c"}, item_id=item).json["name"] == "c"
    assert call("check_liveness").status_code == 200


def test_an_operation_without_a_name_cannot_be_declared() -> None:
    class View(MethodView):
        """A view of two operations, one of which has a name."""

        def get(self) -> None:
            """Do nothing."""

        post = get

    with pytest.raises(KeyError, match="post"):
        Blueprint("nameless", __name__).route("/x", get="get_x")(View)
