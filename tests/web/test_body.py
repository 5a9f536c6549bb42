"""Bodies as clients send them: in chunks, packed, larger than allowed, or cut off."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web.test_api import API_PREFIX, ITEMS, JSON, ML, assert_problem
from webapp.web.parsing import SMALL_BODY

CSV = b"a,b,y\n" + b"".join(b"%d,%d,%d\n" % (a, a * a, 2 * a + 3 * a * a) for a in range(20))
FORM = "multipart/form-data; boundary=x"
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
}
FRAMINGS = ("length", "chunked")
TABLE = {"path": f"{ML}/train?target=y", "content_type": "text/csv"}


def form(data: bytes, name: str) -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--x--\r\n"


def send(
    client: FlaskClient,
    data: bytes,
    *,
    path: str = ITEMS,
    content_type: str = JSON,
    encoding: str = "identity",
    framing: str = "length",
) -> TestResponse:
    """Send a body that is packed already, as a server hands it to the application."""
    headers = {"Content-Encoding": encoding}
    environ: dict[str, Any] = {}
    if framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
        environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    return client.post(
        path, data=data, content_type=content_type, headers=headers, environ_overrides=environ
    )


WAYS = [(encoding, framing) for encoding in ENCODINGS for framing in FRAMINGS]


@pytest.mark.parametrize(("encoding", "framing"), WAYS)
def test_json_tables_and_forms_are_read_however_they_are_packed_and_framed(
    client: FlaskClient, encoding: str, framing: str
) -> None:
    digests = set()
    for data, content_type in ((CSV, "text/csv"), (form(CSV, "rows.csv"), FORM)):
        packed = ENCODINGS[encoding](data)
        how = {**TABLE, "content_type": content_type, "encoding": encoding, "framing": framing}
        response = send(client, packed, **how)
        assert response.status_code == 201, response.text
        digests.add(response.json["model"]["data_digest"])
    item = send(client, ENCODINGS[encoding](b'{"name": "a"}'), encoding=encoding, framing=framing)

    assert len(digests) == 1
    assert item.status_code == 201
    assert item.json["name"] == "a"


def test_a_form_may_hold_a_packed_file(client: FlaskClient) -> None:
    plain = send(client, form(CSV, "rows.csv"), **{**TABLE, "content_type": FORM})
    packed = form(gzip.compress(CSV), "Rows.CSV.gz")
    response = send(client, packed, **{**TABLE, "content_type": FORM})

    assert response.status_code == 201, response.text
    assert response.json["model"]["data_digest"] == plain.json["model"]["data_digest"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_body_that_is_not_whole_is_refused(client: FlaskClient, encoding: str) -> None:
    packed = ENCODINGS[encoding](CSV)
    for fault, spoilt in {
        "cut off": packed[:-1],
        "halved": packed[: len(packed) // 2],
        "a byte more": packed + b"x",
        "twice": packed + packed,
        "damaged": packed[:20] + b"\xff" + packed[21:],
        "nothing": b"",
        "plain": CSV,
    }.items():
        for framing in FRAMINGS:
            response = send(client, spoilt, **TABLE, encoding=encoding, framing=framing)
            assert encoding in assert_problem(response, 400)["detail"], fault
        if encoding == "gzip":
            data = form(spoilt, "rows.csv.gz")
            assert_problem(send(client, data, **{**TABLE, "content_type": FORM}), 400)

    assert client.get(f"{ML}/model-info").json["trained"] is False


class UnreadBody(io.BytesIO):
    """A body that must not be read."""

    def read(self, *_: Any) -> bytes:
        """Fail."""
        raise AssertionError("the body was read")


class BrokenChunks(io.BytesIO):
    """A body whose server finds a malformed chunk; its error is like none of Python's."""

    def read(self, *_: Any) -> bytes:
        """Fail."""
        raise type("InvalidChunkSize", (Exception,), {})


def test_chunks_that_are_none_are_the_clients_fault(client: FlaskClient) -> None:
    environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "wsgi.input": BrokenChunks()}
    request = {"headers": {"Transfer-Encoding": "chunked"}, "environ_overrides": environ}

    for path, content_type in (
        (ITEMS, JSON),
        (f"{ML}/predict", JSON),
        (f"{ML}/train", JSON),
        (f"{ML}/train?target=y", "text/csv"),
        (f"{ML}/train?target=y", FORM),
        (f"{ML}/models/default/versions", FORM),
    ):
        assert_problem(client.post(path, content_type=content_type, **request), 400)


def test_a_transfer_coding_that_no_server_takes_away_is_refused(client: FlaskClient) -> None:
    for coding in ("gzip, chunked", "gzip", "chunked, chunked", "identity"):
        response = client.post(
            ITEMS,
            data=b'{"name": "a"}',
            content_type=JSON,
            headers={"Transfer-Encoding": coding},
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert_problem(response, 411)


def small_bodies(app: Flask) -> list[tuple[str, str]]:
    """Return the method and path of every operation that takes JSON and no rows."""
    document = app.test_client().get("/openapi.json").json
    values = {"item_id": 1, "name": "default", "number": 1}
    return [
        (method, path.format(**values))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if isinstance(operation, dict)
        and list(operation.get("requestBody", {}).get("content", {})) == [JSON]
    ]


def test_a_large_body_is_refused_unread_where_bodies_are_small(app: Flask) -> None:
    client = app.test_client()
    calls = small_bodies(app)

    assert {"/api/v1/items", "/api/v1/ml/predict", "/api/v1/ml/models/default/active"} <= {
        path for _, path in calls
    }
    for method, path in calls:
        environ = {"CONTENT_LENGTH": str(SMALL_BODY + 1), "wsgi.input": UnreadBody()}
        response = client.open(path, method=method, content_type=JSON, environ_overrides=environ)
        assert f"{SMALL_BODY:,}" in assert_problem(response, 413)["detail"]


def test_the_limit_holds_to_the_byte_however_a_body_comes(client: FlaskClient) -> None:
    largest = b'{"name": "a"}'.ljust(SMALL_BODY)

    for encoding, framing in WAYS:
        for data, status in ((largest, 201), (largest + b" ", 413)):
            packed = ENCODINGS[encoding](data)
            response = send(client, packed, encoding=encoding, framing=framing)
            assert response.status_code == status, response.text


def test_tables_and_forms_are_held_to_the_large_limit(own_app: Flask) -> None:
    client = own_app.test_client()
    rows = b"a,b\n" + b"1.0000000000000000000,2\n" * 100
    training = {"X": [[1, 2], [3, 5]], "y": [1, 2], "feature_names": ["a", "b"]}
    assert client.post(f"{ML}/train", json=training).status_code == 201
    for encoding, framing in WAYS:
        for data, content_type in ((rows, "text/csv"), (form(rows, "rows.csv"), FORM)):
            for limit, status in ((len(data), 200), (len(data) - 1, 413)):
                own_app.config["MAX_CONTENT_LENGTH"] = limit
                how = {"content_type": content_type, "encoding": encoding, "framing": framing}
                packed = ENCODINGS[encoding](data)
                response = send(client, packed, path=f"{ML}/predict/batch", **how)
                assert response.status_code == status, response.text


def test_a_packed_file_of_a_form_is_held_to_the_limit_as_unpacked(own_app: Flask) -> None:
    own_app.config["MAX_CONTENT_LENGTH"] = 10_000
    data = form(gzip.compress(b"a,y\n" + b"1,2\n" * 10_000), "rows.csv.gz")

    response = send(own_app.test_client(), data, **{**TABLE, "content_type": FORM})

    assert len(data) < 1000
    assert_problem(response, 413)


def test_packed_bytes_that_unpack_to_nothing_do_not_go_on_for_ever(own_app: Flask) -> None:
    own_app.config["MAX_CONTENT_LENGTH"] = 100_000
    packer = zlib.compressobj()
    endless = packer.flush(zlib.Z_SYNC_FLUSH) + b"\x00\x00\x00\xff\xff" * 100_000

    response = send(own_app.test_client(), endless, encoding="deflate", framing="chunked")

    assert_problem(response, 413)


def test_many_files_in_a_form_are_refused_before_each_takes_a_descriptor(
    client: FlaskClient,
) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na\r\n'

    two = send(client, 2 * part + b"--x--\r\n", path=f"{ML}/train", content_type=FORM)
    many = send(client, 100 * part + b"--x--\r\n", path=f"{ML}/train", content_type=FORM)

    assert_problem(two, 422)
    assert "files" in assert_problem(many, 413)["detail"]


def test_a_body_that_is_no_object_is_answered_with_the_form_of_one(client: FlaskClient) -> None:
    for path, shown in (
        ("/ml/predict/batch", '{"instances": […]}'),
        ("/ml/predict", '{"features": […]}'),
        ("/ml/train", '{"X": […], "y": […]}'),
        ("/items", '{"name": …}'),
    ):
        for body in ('[{"a": 1.0, "b": 2.0}]', "1", "null"):
            response = client.post(API_PREFIX + path, data=body, content_type=JSON)
            assert shown in assert_problem(response, 422)["detail"]
