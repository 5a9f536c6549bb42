"""Damaged and crafted files of all kinds of models: refused in words, or harmless."""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import skops.io

import config
from tests.ml.core.test_skops import read_zip, write_zip
from tests.ml.test_any_model import KINDS, to_json_rows
from webapp.errors import InvalidInput
from webapp.ml.core.encoding import encode_rows
from webapp.ml.core.formats import FORMATS, inspect_file
from webapp.ml.core.scoring import score
from webapp.ml.core.signature import Signature

SECONDS = 20  # for a file that was taken, and its predictions
ODD_VALUES = (-1, 0, 1, 3, 7, 1000, 10**9, 2**40, -(2**40), 0.5, None, True, "", "csr", [], [0, 9])


def find_nodes(part: Any) -> list[dict[str, Any]]:
    """Return all nodes of a schema."""
    values = part.values() if isinstance(part, dict) else part
    found = [part] if isinstance(part, dict) and "__loader__" in part else []
    for value in values:
        if isinstance(value, dict | list):
            found += find_nodes(value)
    return found


def flip_bits(members: dict[str, bytes], draw: random.Random) -> None:
    name = draw.choice(list(members))
    changed = bytearray(members[name])
    for _ in range(draw.choice([1, 2, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    members[name] = bytes(changed)


def change_numbers(members: dict[str, bytes], draw: random.Random) -> None:
    """Put numbers that lead out of everything into an array, or change its length."""
    names = [name for name in members if name.endswith(".npy")]
    if not names:
        return
    name, buffer = draw.choice(names), io.BytesIO()
    array = np.load(io.BytesIO(members[name])).copy()
    field = draw.choice(array.dtype.names) if array.dtype.names else None
    numbers = array if field is None else array[field]
    if numbers.dtype.kind in "iuf" and numbers.size and draw.random() < 0.7:
        place = draw.randrange(numbers.size)
        numbers.reshape(-1)[place] = np.array(draw.choice([-3, 1000, 2**31])).astype(numbers.dtype)
    else:
        array = draw.choice([array[:0], array[:-1], array.repeat(2)]) if array.ndim else array
    np.save(buffer, array)
    members[name] = buffer.getvalue()


def change_nodes(members: dict[str, bytes], draw: random.Random) -> None:
    """Put an odd value, or another node, in the place of a node."""
    schema = json.loads(members["schema.json"])
    nodes = find_nodes(schema)
    target = draw.choice(nodes[1:])
    if draw.random() < 0.7:
        plain = [node for node in nodes if node["__loader__"] == "JsonNode"] or nodes[1:]
        target = draw.choice(plain)
        target["content"] = json.dumps(draw.choice(ODD_VALUES))
    else:
        other = json.loads(json.dumps(draw.choice(nodes)))
        target.clear()
        target.update(other)
    members["schema.json"] = json.dumps(schema).encode()


def try_files(count: int, seed: int) -> Counter[str]:
    """Upload files, and predict with those that are taken, in this very process."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    draw, outcomes, files = random.Random(seed), Counter[str](), []  # noqa: S311 (repeatable)
    for kind in KINDS:
        fitted = kind.model.fit(kind.rows, *([] if kind.target is None else [kind.target]))
        files.append((skops.io.dumps(fitted), kind.rows))
    for _ in range(count):
        data, rows = draw.choice(files)
        members = read_zip(data)
        draw.choice([flip_bits, change_numbers, change_nodes])(members, draw)
        signal.alarm(SECONDS)  # a hang ends the process
        try:
            changed = write_zip(members, zipfile.ZIP_DEFLATED)
            try:
                described = inspect_file(None, changed, None, {"max_features": 1000})
            except InvalidInput:
                outcomes["refused"] += 1
                continue
            json.dumps(described)
            signature = Signature.from_json(described["signature"])
            loaded = FORMATS["skops"].load(changed, signature, None)
            names = list(signature.names)
            features = encode_rows(to_json_rows(rows, names)[:50], signature)
            score(loaded.scorer, features.X, features.texts)
            with suppress(InvalidInput):
                loaded.explain(features.X, features.texts)
            outcomes["taken"] += 1
        except InvalidInput:
            outcomes["rows refused"] += 1
        except MemoryError:
            outcomes["out of memory"] += 1  # the process of an upload says so
        except KeyError as error:
            if str(error) not in map(repr, rows):  # of a column that has another name now
                raise
        finally:
            signal.alarm(0)
    return outcomes


@pytest.mark.parametrize(
    ("count", "seed"),
    [(60, 1), *(pytest.param(1000, seed, marks=pytest.mark.slow) for seed in range(2, 6))],
)
def test_damaged_files_are_refused_or_harmless(count: int, seed: int) -> None:
    code = f"from {__name__} import try_files; print(dict(try_files({count}, {seed})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=config.ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert "'refused'" in done.stdout
    assert "'taken'" in done.stdout
