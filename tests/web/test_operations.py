"""The names that generated clients give to the calls of the service."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask.views import MethodView

from tests.web.test_api import ML, assert_problem
from webapp.web.blueprint import Blueprint


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield method, path, operation


def make_client(document: dict[str, Any]) -> type:
    """Return a client class as a generator makes it: a method for each operation."""

    def make_method(method: str, path: str) -> Any:
        def call(client: FlaskClient, json: object = None, **parameters: object) -> Any:
            return client.open(path.format(**parameters), method=method.upper(), json=json)

        return call

    methods = [
        (operation["operationId"], make_method(method, path))
        for method, path, operation in operations(document)
    ]
    assert len(dict(methods)) == len(methods), "two operations have one name"
    return type("Client", (), {name: staticmethod(call) for name, call in methods})


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return client.get("/openapi.json").json


def test_every_operation_has_a_name_in_snake_case(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        name = operation.get("operationId", "")
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), (method, path, name)
        assert not keyword.iskeyword(name)


def test_a_generated_client_reads_well_and_works(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    service = make_client(document)
    rows = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}

    trained = service.train_model(client, rows, name="houses")
    predicted = service.predict(client, {"features": [1, 2, 3]}, name="houses")
    batch = service.predict_batch_with_version(
        client, {"instances": [[1, 2, 3]]}, name="houses", number=1
    )
    item = service.create_item(client, {"name": "a"})

    assert trained.status_code == 201
    assert batch.json["predictions"] == pytest.approx([predicted.json["prediction"]])
    assert service.get_item(client, item_id=item.json["id"]).json["name"] == "a"
    assert service.check_liveness(client).status_code == 200


def test_an_operation_without_a_name_cannot_be_declared() -> None:
    blp = Blueprint("nameless", __name__)

    class View(MethodView):
        """A view of two operations, one of which has a name."""

        def get(self) -> None:
            """Do nothing."""

        def post(self) -> None:
            """Do nothing."""

    with pytest.raises(KeyError, match="post"):
        blp.route("/x", get="get_x")(View)


def test_a_name_that_no_model_can_have_is_told_the_rule(app: Flask, client: FlaskClient) -> None:
    for name in ("My_Model", "a%20b", "-a", "x" * 64, "%C3%A9", "a%0A", "."):
        for path in (f"/models/{name}", f"/models/{name}/versions/1"):
            detail = assert_problem(client.get(ML + path), 404)["detail"]
            assert "1 to 63 characters of a-z, 0-9" in detail, name
        assert (
            "63"
            in assert_problem(client.post(f"{ML}/models/{name}/train", json={}), 404)["detail"]
        )
