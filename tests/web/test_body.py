"""Bodies as clients send them: in chunks, compressed, larger than allowed, or cut off."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.bad_input.census import PATH_VALUES
from tests.faults import on_sqlite
from tests.web.test_api import ITEMS, JSON, ML, assert_problem
from webapp.web.parsing import SMALL_BODY

pytestmark = on_sqlite

CSV = b"a,b,y\n" + b"".join(b"%d,%d,%d\n" % (a, a * a, 2 * a + 3 * a * a) for a in range(20))
FORM = "multipart/form-data; boundary=x"
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
}
WAYS = [(encoding, framing) for encoding in ENCODINGS for framing in ("length", "chunked")]
TABLE = {"path": f"{ML}/train?target=y", "content_type": "text/csv"}
FORM_TABLE = {"path": f"{ML}/train?target=y", "content_type": FORM}


def form(data: bytes, name: str = "rows.csv") -> bytes:
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
    """Send a body that is compressed already, as a server hands it to the application."""
    headers = {"Content-Encoding": encoding}
    environ: dict[str, Any] = {}
    if framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
        environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    return client.post(
        path, data=data, content_type=content_type, headers=headers, environ_overrides=environ
    )


def test_json_tables_and_forms_are_read_however_they_are_compressed_and_framed(
    client: FlaskClient,
) -> None:
    digests = set()
    for encoding, framing in WAYS:
        pack, how = ENCODINGS[encoding], {"encoding": encoding, "framing": framing}
        item = send(client, pack(b'{"name": "a"}'), **how)
        assert (item.status_code, item.json["name"]) == (201, "a")
        for data, request in (
            (CSV, TABLE),
            (form(CSV), FORM_TABLE),
            (form(gzip.compress(CSV), "Rows.CSV.gz"), FORM_TABLE),
        ):
            response = send(client, pack(data), **request, **how)
            assert response.status_code == 201, response.text
            digests.add(response.json["model"]["data_digest"])

    assert len(digests) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_that_is_not_whole_is_refused(
    client: FlaskClient, encoding: str
) -> None:
    packed = ENCODINGS[encoding](CSV)
    for fault, spoilt in {
        "cut off": packed[:-1],
        "halved": packed[: len(packed) // 2],
        "a byte more": packed + b"x",
        "twice": packed + packed,
        "damaged": packed[:20] + b"\xff" + packed[21:],
        "with another sum": packed[:-5] + bytes([packed[-5] ^ 1]) + packed[-4:],
        "nothing": b"",
        "plain": CSV,
    }.items():
        for framing in ("length", "chunked"):
            response = send(client, spoilt, **TABLE, encoding=encoding, framing=framing)
            assert encoding in assert_problem(response, 400)["detail"], fault
        if encoding == "gzip":
            assert_problem(send(client, form(spoilt, "rows.csv.gz"), **FORM_TABLE), 400)

    assert client.get(f"{ML}/model-info").json["trained"] is False


def broken_body(error: Exception) -> Mock:
    """Return a body that cannot be read."""
    return Mock(spec=["read"], **{"read.side_effect": error})


def test_malformed_chunks_and_unknown_transfer_codings_are_refused(client: FlaskClient) -> None:
    broken = broken_body(Exception("a malformed chunk"))  # each server has an error of its own
    environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "wsgi.input": broken}
    for coding, status in (
        ("chunked", 400),
        *((coding, 411) for coding in ("gzip, chunked", "gzip", "chunked, chunked", "identity")),
    ):
        sent = {"headers": {"Transfer-Encoding": coding}, "environ_overrides": environ}
        for request in ({"path": ITEMS, "content_type": JSON}, TABLE, FORM_TABLE):
            assert_problem(client.post(**request, **sent), status)


def test_a_large_body_is_refused_unread_where_bodies_are_small(client: FlaskClient) -> None:
    calls = [
        (method, path.format(**PATH_VALUES))
        for path, operations in client.get("/openapi.json").json["paths"].items()
        for method, operation in operations.items()
        if isinstance(operation, dict)
        and list(operation.get("requestBody", {}).get("content", {})) == [JSON]
    ]

    unread = broken_body(AssertionError("the body was read"))
    assert {("post", ITEMS), ("post", f"{ML}/predict")} <= set(calls)
    for method, path in calls:
        environ = {"CONTENT_LENGTH": str(SMALL_BODY + 1), "wsgi.input": unread}
        response = client.open(path, method=method, content_type=JSON, environ_overrides=environ)
        assert f"{SMALL_BODY:,}" in assert_problem(response, 413)["detail"]


def test_the_limit_holds_to_the_byte_however_a_body_comes(own_app: Flask) -> None:
    client = own_app.test_client()
    rows = b"a,b\n" + b"1.0000000000000000000,2\n" * 100
    training = {"X": [[1, 2], [3, 5]], "y": [1, 2], "feature_names": ["a", "b"]}
    assert client.post(f"{ML}/train", json=training).status_code == 201
    batch = f"{ML}/predict/batch"
    item = b'{"name": "a"}'.ljust(SMALL_BODY)

    for encoding, framing in WAYS:
        pack, how = ENCODINGS[encoding], {"encoding": encoding, "framing": framing}
        for data, status in ((item, 201), (item + b" ", 413)):
            assert send(client, pack(data), **how).status_code == status
        for data, content_type in ((rows, "text/csv"), (form(rows), FORM)):
            for limit, status in ((len(data), 200), (len(data) - 1, 413)):
                own_app.config["MAX_CONTENT_LENGTH"] = limit
                sent = {"path": batch, "content_type": content_type, **how}
                assert send(client, pack(data), **sent).status_code == status
            own_app.config["MAX_CONTENT_LENGTH"] = 2 * SMALL_BODY


def test_what_unpacks_to_too_much_or_for_ever_to_nothing_is_refused(own_app: Flask) -> None:
    own_app.config["MAX_CONTENT_LENGTH"] = 100_000
    client = own_app.test_client()
    file = form(gzip.compress(b"a,y\n" + b"1,2\n" * 100_000), "rows.csv.gz")
    endless = zlib.compressobj().flush(zlib.Z_SYNC_FLUSH) + b"\x00\x00\x00\xff\xff" * 100_000

    assert len(file) < 2000
    assert_problem(send(client, file, **FORM_TABLE), 413)
    assert_problem(send(client, endless, encoding="deflate", framing="chunked"), 413)
