"""Fitted estimators as bytes and back: skops files, checked part by part, the same every time.

A skops file is a zip archive whose `schema.json` is a tree of nodes; each names a loader of
skops and the type that it builds, and arrays lie beside it as `.npy` files. skops trusts
hundreds of types by itself, and the *contents* of those that it builds not at all. Here a
file is first rewritten: every node is read by the rules of this module, and only what they
let through, in the form that they give it, reaches skops. Nothing is built before that. What
is built is then checked again, for C code follows the indices in a tree without looking.

The rewritten form has no memory addresses, no dates, and none of the state that predictions
do not need (generators, numbers of threads). So the same fitted parameters are the same bytes.
They differ with another scikit-learn, which notes its version in them, another zlib, or
another BLAS (or number of its threads) whose sums differ in the last bit.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from webapp.ml.core.estimators import CATALOGUE
from webapp.ml.core.validation import MOST_FEATURES, PIPELINE, SCALER, check_estimator, is_count
from webapp.ml.errors import ArtifactUnusable

MAX_BYTES = 2**30
"""What the parts of a file may take when unpacked, unless the caller says otherwise."""
MOST_SCHEMA_BYTES = 2**26  # skops writes about 250 for a node
MOST_UPLOADED_NODES = 100_000  # of a schema: each takes about 30 µs and 1.3 kB of memory to load
"""Enough for 1,600 trees of a forest (60 nodes each), or 9,000 of boosting (11 each)."""
MOST_VALUES = 2**23  # of JSON, of any file: a node has 6
MOST_MEMBERS = 2**17
_DEEPEST = 32  # genuine files reach 12
_LONGEST_VALUE = 10_000  # characters of JSON: names and labels have 255
_NO_SKOPS_FILE = "it is not a skops file"

_TREE = "sklearn.tree._tree.Tree"
_BOOSTING = "sklearn.ensemble._hist_gradient_boosting"

_ROOT_TYPES = frozenset({PIPELINE, *(row.type_name for row in CATALOGUE.values())})
"""What a file may be."""
_ESTIMATOR_TYPES = frozenset(
    {
        *_ROOT_TYPES,
        SCALER,
        "sklearn.tree._classes.DecisionTreeRegressor",
        "sklearn.tree._classes.DecisionTreeClassifier",
        "sklearn.preprocessing._label.LabelEncoder",
        f"{_BOOSTING}.binning._BinMapper",
    }
)
_PLAIN_TYPES = frozenset(
    {
        f"{_BOOSTING}.predictor.TreePredictor",
        *(
            f"sklearn._loss.link.{name}"
            for name in ("Interval", "IdentityLink", "LogLink", "LogitLink", "MultinomialLogit")
        ),
        *(
            f"sklearn._loss.loss.{name}"
            for name in (
                *("HalfSquaredError", "AbsoluteError", "PinballLoss", "HalfPoissonLoss"),
                *("HalfGammaLoss", "HalfBinomialLoss", "HalfMultinomialLoss"),
            )
        ),
    }
)
_LOSS_TYPES = frozenset(
    name.replace(".loss.", "._loss.Cy") for name in _PLAIN_TYPES if ".loss." in name
)
_SCALARS = {
    **{f"numpy.int{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"numpy.uint{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
    **{f"numpy.float{8 * size}": f"f{size}" for size in (2, 4, 8)},
    "numpy.bool": "b1",
    "numpy.str_": "U",
}
_TYPES_BY_LOADER: Mapping[str, frozenset[str]] = {
    "ObjectNode": _ESTIMATOR_TYPES | _PLAIN_TYPES,
    "TreeNode": frozenset({_TREE}),
    "LossNode": _LOSS_TYPES,
    "DictNode": frozenset({"builtins.dict"}),
    "ListNode": frozenset({"builtins.list"}),
    "TupleNode": frozenset({"builtins.tuple"}),
    "JsonNode": frozenset({"builtins.str"}),
    "NdArrayNode": frozenset({"numpy.ndarray", *_SCALARS}),
}
"""All that a file may hold: loader of skops → types that it may build."""

_NEUTRAL = {
    "n_jobs": "null",
    "n_threads": "null",
    "verbose": "0",
    "memory": "null",
    "_feature_subsample_rng": "null",
    "_scorer": "null",
}
"""Attributes that predictions do not need, and what they are set to (as JSON)."""
_FIT_ONLY = frozenset({"random_state", "scoring", "oob_score", "interaction_cst"})
"""Parameters that a fit alone uses: generators, functions and sets in them become null."""

_TRUSTED = [_TREE, f"{_BOOSTING}.predictor.TreePredictor"]
"""What skops does not build by itself. It searches this list at every node: keep it short."""

_PRIVATE = frozenset(
    {
        *("_n_samples", "_n_samples_bootstrap", "_sample_weight"),
        *("_preprocessor", "_is_categorical_remapped", "_label_encoder", "_random_seed"),
        *("_feature_subsample_rng", "_n_features", "_loss", "_use_validation_data"),
        *("_bin_mapper", "_baseline_prediction", "_predictors", "_scorer"),
    }
)
"""Private attributes of fitted estimators. Not `_in_fit`: it would have raw rows read as bins."""

_NPY_HEADER = re.compile(
    rb"\{'descr': (?P<descr>'[^'\n]{2,12}'|\[[^\n]{1,1000}\]), "
    rb"'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>|\d{1,18},|\d{1,18}, \d{1,18}|\d{1,18}, \d{1,18}, \d{1,18})\), \} *\n"
)
_NPY_TYPE = re.compile(r"'(?:[<|][fiub](?P<size>[1248])|<U(?P<length>\d{1,6}))'")
_LONGEST_NPY_HEADER = 2048
_TYPE_NAME = re.compile(r"[A-Za-z_][\w.]{0,199}")
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w{0,99}")

# What the parsers of zip, JSON, npy and skops, and scikit-learn itself, raise for bytes or
# values that make no sense to them.
_MALFORMED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError),
    *(AttributeError, LookupError, TypeError, ValueError, ArithmeticError),
)


def digest(data: bytes) -> str:
    """Return the SHA-256 of an artifact in hexadecimal, its address in the database."""
    return hashlib.sha256(data).hexdigest()


def check_digest(data: bytes, expected: str) -> None:
    """Raise ArtifactUnusable where bytes are not those that were stored."""
    if digest(data) != expected:
        raise ArtifactUnusable("its bytes do not have the recorded digest")


def dumps(estimator: Any) -> bytes:
    """Return a fitted estimator as the bytes of a skops file: equal ones, equal bytes.

    Raises ArtifactUnusable for what `loads` would not take back.
    """
    import skops.io

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(estimator))) as source:
        # skops writes several times what is kept of it: only that must be within bounds.
        written = _rewrite(
            source,
            zipfile.ZIP_DEFLATED,
            max_bytes=MAX_BYTES,
            most_nodes=MOST_VALUES,
            most_schema_bytes=MAX_BYTES,
        )[0]
    return written.getvalue()


def loads(data: bytes, expected_digest: str) -> Any:
    """Return the fitted estimator of a stored skops file: one of the catalogue, scaled or not.

    Raises ArtifactUnusable when the bytes do not have the digest, and as `read_upload` does.
    """
    check_digest(data, expected_digest)
    return _load(data, max_bytes=MAX_BYTES, most_nodes=MOST_VALUES)[0]


def read_upload(
    data: bytes, *, max_bytes: int = MAX_BYTES, max_features: int = MOST_FEATURES
) -> tuple[Any, tuple[str, ...] | None]:
    """Return the fitted estimator of a skops file, and the feature names that it has learnt.

    The names are None where it was fitted on an array, and no part of the estimator: it would
    warn at every prediction from an array. ``max_bytes`` bounds what the parts of the file take
    when unpacked. It is safe to predict with the estimator; whether it predicts what it should,
    `probe.make_scorer` finds out.

    Raises ArtifactUnusable when the bytes are no skops file, when they hold a type that is not
    on the list or are of another scikit-learn, and when what they describe is no fitted
    estimator, or has more than ``max_features``.
    """
    estimator, names = _load(data, max_bytes=max_bytes, most_nodes=MOST_UPLOADED_NODES)
    if estimator.n_features_in_ > max_features:
        raise ArtifactUnusable(
            f"it has {estimator.n_features_in_} features, at most {max_features} are allowed"
        )
    return estimator, names


def _load(data: bytes, *, max_bytes: int, most_nodes: int) -> tuple[Any, tuple[str, ...] | None]:
    import skops.io

    try:
        with _open_archive(data) as source:
            rewritten, names = _rewrite(
                source, zipfile.ZIP_STORED, max_bytes=max_bytes, most_nodes=most_nodes
            )
        estimator = skops.io.load(rewritten, trusted=_TRUSTED)
    except _MALFORMED:
        raise ArtifactUnusable(_NO_SKOPS_FILE) from None
    try:
        check_estimator(estimator)
    except _MALFORMED:
        raise ArtifactUnusable("its parts do not fit together") from None
    return estimator, names


def _rewrite(
    source: zipfile.ZipFile,
    compression: int,
    *,
    max_bytes: int,
    most_nodes: int,
    most_schema_bytes: int = MOST_SCHEMA_BYTES,
) -> tuple[io.BytesIO, tuple[str, ...] | None]:
    """Return a skops file with only what is allowed, and its feature names if it has some."""
    members = _list_members(source, max_bytes)
    if members["schema.json"].file_size > most_schema_bytes:
        raise ArtifactUnusable("its schema is too long")
    schema = _parse_schema(source.read(members["schema.json"]), most_nodes)
    loader, type_name = _read_part(schema)
    if loader != "ObjectNode" or type_name not in _ROOT_TYPES:
        raise ArtifactUnusable(f"it is not an estimator of the catalogue{_name_part(schema)}")
    if type(schema["protocol"]) is not int:
        raise ArtifactUnusable(_NO_SKOPS_FILE)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        rewriter = _Rewriter(source, members, target, max_bytes, most_nodes)
        root = rewriter.rewrite(schema) | {"protocol": schema["protocol"]}
        written = json.dumps(root, separators=(",", ":")).encode()
        if len(written) > MOST_SCHEMA_BYTES:
            raise ArtifactUnusable("its schema is too long")
        _write_member(target, "schema.json", written)
    return buffer, rewriter.feature_names


def _parse_schema(text: bytes, most_nodes: int) -> Any:
    """Return a schema, if it is not too large to be parsed, rewritten and built.

    A few kilobytes can unpack to millions of nodes, and parsed they take 30 times as much.
    """
    n_nodes = text.count(b"{")
    n_values = n_nodes + text.count(b"[") + text.count(b",")
    if n_nodes > most_nodes or n_values > min(MOST_VALUES, 16 * most_nodes):
        raise ArtifactUnusable("its schema has too many nodes or values")
    return json.loads(text)


def _open_archive(data: bytes) -> zipfile.ZipFile:
    """Return a zip archive, whose directory zipfile reads whole: 4 s for a million members."""
    if data.count(b"PK\x01\x02") > MOST_MEMBERS:  # with which each entry begins
        raise ArtifactUnusable("its archive has too many members")
    return zipfile.ZipFile(io.BytesIO(data))


def _list_members(source: zipfile.ZipFile, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, if their number and sizes are within bounds.

    zipfile gives no more than the size that a member declares, so declared sizes will do.
    """
    entries = source.infolist()
    members = {entry.filename: entry for entry in entries}
    if len(members) < len(entries):
        raise ArtifactUnusable("its archive has repeated members")
    if sum(entry.file_size for entry in entries) > max_bytes:
        raise ArtifactUnusable(f"it takes more than {max_bytes} bytes when unpacked")
    if "schema.json" not in members:
        raise ArtifactUnusable(_NO_SKOPS_FILE)
    # Other methods can ask for gigabytes of memory before they give a byte.
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if any(entry.compress_type not in known or entry.flag_bits & 1 for entry in entries):
        raise ArtifactUnusable("its archive is encrypted, or compressed by another method")
    return members


def _write_member(target: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980-01-01, whatever the clock says
    entry.create_system = 3  # written alike on every system
    target.writestr(entry, content, compress_type=target.compression)


class _Rewriter:
    """Copies the nodes of a schema, and the arrays that they name, by the rules for each.

    Ids are left out: they make one node stand for another, so that what was checked need not
    be what is built. Genuine files describe each object in full wherever it is used.
    """

    def __init__(
        self,
        source: zipfile.ZipFile,
        members: Mapping[str, zipfile.ZipInfo],
        target: zipfile.ZipFile,
        max_bytes: int,
        most_nodes: int,
    ) -> None:
        self.feature_names: tuple[str, ...] | None = None
        self._source = source
        self._members = members
        self._target = target
        self._bytes_left = max_bytes
        self._arrays_left = most_nodes // 3  # 28 % of the nodes of boosting, 5 % of a forest's
        self._written: dict[bytes, str] = {}
        self._depth = 0
        self._rules: Mapping[str, Callable[[Any], dict[str, Any]]] = {
            "ObjectNode": self._rewrite_object,
            "TreeNode": self._rewrite_tree,
            "LossNode": self._rewrite_loss,
            "DictNode": self._rewrite_dict,
            "ListNode": self._rewrite_items,
            "TupleNode": self._rewrite_items,
            "JsonNode": self._rewrite_json,
            "NdArrayNode": self._rewrite_array,
        }

    def rewrite(self, node: Any) -> dict[str, Any]:
        """Return a node as it may reach skops; raises ArtifactUnusable or one of _MALFORMED."""
        loader, type_name = _read_part(node)
        if type_name not in _TYPES_BY_LOADER.get(loader, ()):
            raise ArtifactUnusable(f"it contains a type that is not allowed{_name_part(node)}")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ArtifactUnusable("it is nested too deeply")
        content = self._rules[loader](node)
        self._depth -= 1
        return {
            "__class__": node["__class__"],
            "__module__": node["__module__"],
            "__loader__": loader,
        } | content

    def _rewrite_object(self, node: Any) -> dict[str, Any]:
        attributes = node["content"]
        type_name = _read_part(node)[1]
        is_estimator = type_name in _ESTIMATOR_TYPES
        if _read_part(attributes)[0] == "JsonNode" and not is_estimator:  # it has no attributes
            return {"content": self._rewrite_none(attributes)}
        _expect(attributes, "DictNode")
        values = dict(attributes["content"])
        if is_estimator:
            _check_version(_read_json(values["_sklearn_version"]))
            del values["_sklearn_version"]
            self._take_feature_names(values)
        for name in values:
            _check_attribute(type_name, name)
        rewritten = {name: self._rewrite_attribute(name, value) for name, value in values.items()}
        if is_estimator:
            # As if it were written by the version that reads it, which else would warn.
            rewritten["_sklearn_version"] = _json_node(json.dumps(_sklearn_version()))
        return {"content": _dict_node(rewritten)}

    def _rewrite_attribute(self, name: str, value: Any) -> dict[str, Any]:
        if name in _NEUTRAL:
            return _json_node(_NEUTRAL[name])
        if name in _FIT_ONLY and _read_part(value)[0] not in ("JsonNode", "NdArrayNode"):
            return _json_node("null")
        return self.rewrite(value)

    def _take_feature_names(self, values: dict[str, Any]) -> None:
        names = values.pop("feature_names_in_", None)
        if names is not None and self.feature_names is None:
            _expect(names, "NdArrayNode")
            self._rewrite_strings(names)
            self.feature_names = tuple(map(_read_json, names["content"]))

    def _rewrite_tree(self, node: Any) -> dict[str, Any]:
        args = node["__reduce__"]["args"]
        state = node["content"]
        _expect(args, "TupleNode")
        _expect(state, "DictNode")
        n_features, n_classes, n_outputs = args["content"]
        parts = state["content"]
        if parts.keys() != {"max_depth", "node_count", "nodes", "values"}:
            raise ArtifactUnusable("it holds a tree with unknown parts")
        # The tree is built by copying memory as these say; scikit-learn compares the rest.
        n_nodes = _read_json(parts["node_count"])
        fits = (
            is_count(n_nodes)
            and is_count(_read_json(n_features))
            and _read_json(n_outputs) == 1
            and self._read_shape(n_classes) == (1,)
            and self._read_shape(parts["nodes"]) == (n_nodes,)
        )
        if not fits:
            raise ArtifactUnusable("it holds a tree whose parts do not fit together")
        return {"__reduce__": {"args": self.rewrite(args)}, "content": self.rewrite(state)}

    def _rewrite_loss(self, node: Any) -> dict[str, Any]:
        args, state = node["__reduce__"]["args"], node["content"]
        _expect(args, "TupleNode")
        if state["content"] or any(_read_part(arg)[0] != "JsonNode" for arg in args["content"]):
            raise ArtifactUnusable("it holds a loss with a state of its own")
        return {"__reduce__": {"args": self.rewrite(args)}, "content": self.rewrite(state)}

    def _rewrite_dict(self, node: Any) -> dict[str, Any]:
        types = [_read_part(key_type)[1] for key_type in node["key_types"]["content"]]
        keys = [_read_key(*pair) for pair in zip(types, node["content"], strict=True)]
        values = map(self.rewrite, node["content"].values())
        content = dict(zip((key for _, key in keys), values, strict=True))
        return _dict_node(content, [kind for kind, _ in keys])

    def _rewrite_items(self, node: Any) -> dict[str, Any]:
        return {"content": [self.rewrite(item) for item in _read_list(node["content"])]}

    def _rewrite_json(self, node: Any) -> dict[str, Any]:
        if type(_read_json(node)) in (list, dict):
            raise ArtifactUnusable(_NO_SKOPS_FILE)
        return {"content": node["content"], "is_json": True}

    def _rewrite_none(self, node: Any) -> dict[str, Any]:
        if _read_json(node) is not None:
            raise ArtifactUnusable(_NO_SKOPS_FILE)
        return _json_node("null")

    def _rewrite_array(self, node: Any) -> dict[str, Any]:
        if node["type"] == "json":
            return self._rewrite_strings(node)
        if node["type"] != "numpy":
            raise ArtifactUnusable(_NO_SKOPS_FILE)
        content = self._read_member(node["file"])
        descr, shape = _check_npy(content)
        type_name = _read_part(node)[1]
        code = _SCALARS.get(type_name)
        if code and (shape or not descr[2:-1].startswith(code)):
            raise ArtifactUnusable("it holds a number that is not of the type it names")
        if descr[0] == "[":
            content = _clear_padding(content, descr)
        return {"type": "numpy", "file": self._write_array(content)}

    def _rewrite_strings(self, node: Any) -> dict[str, Any]:
        """Return an array of objects, which may be strings only: (n_strings,)."""
        _expect(node["shape"], "TupleNode")
        items = [self.rewrite(item) for item in _read_list(node["content"])]
        shape = [_read_json(length) for length in node["shape"]["content"]]
        if shape != [len(items)] or any(type(_read_json(item)) is not str for item in items):
            raise ArtifactUnusable("it holds an array of objects that are not strings")
        return {"type": "json", "content": items, "shape": self.rewrite(node["shape"])}

    def _read_shape(self, node: Any) -> tuple[int, ...]:
        _expect(node, "NdArrayNode")
        with self._source.open(self._members[node["file"]]) as member:
            return _read_npy_header(member.read(_LONGEST_NPY_HEADER))[1]

    def _read_member(self, name: str) -> bytes:
        # Counted at every use: skops makes an array of its own of each.
        member = self._members[name]
        self._bytes_left -= member.file_size
        self._arrays_left -= 1
        if self._bytes_left < 0 or self._arrays_left < 0:
            raise ArtifactUnusable("it takes too many bytes or arrays when unpacked")
        return self._source.read(member)

    def _write_array(self, content: bytes) -> str:
        """Write an array once, whatever the number of its copies, and return its name."""
        key = hashlib.sha256(content).digest()
        if key not in self._written:
            self._written[key] = f"{len(self._written)}.npy"
            _write_member(self._target, self._written[key], content)
        return self._written[key]


def _check_npy(content: bytes) -> tuple[str, tuple[int, ...]]:
    """Return type and shape of an array that is as long as they say."""
    descr, shape, start = _read_npy_header(content)
    if math.prod(shape) * _item_size(descr) != len(content) - start:
        raise ArtifactUnusable("it holds an array of another size than it says")
    return descr, shape


def _read_npy_header(content: bytes) -> tuple[str, tuple[int, ...], int]:
    """Return type, shape and end of the header of a .npy file (format 1.0).

    numpy evaluates the header as Python; here it has the one form that numpy writes.
    Source: numpy.lib.format, "Format Version 1.0".
    """
    if content[:8] != b"\x93NUMPY\x01\x00":
        raise ArtifactUnusable("it holds an array in an unknown format")
    end = 10 + int.from_bytes(content[8:10], "little")
    header = _NPY_HEADER.fullmatch(content[10:end]) if end <= _LONGEST_NPY_HEADER else None
    if header is None:
        raise ArtifactUnusable("it holds an array in an unknown format")
    shape = tuple(int(length) for length in header["shape"].decode().split(",") if length.strip())
    return header["descr"].decode(), shape, end


def _item_size(descr: str) -> int:
    simple = _NPY_TYPE.fullmatch(descr)
    if simple:
        return int(simple["size"] or 0) or 4 * int(simple["length"])
    if descr not in _node_types():
        raise ArtifactUnusable("it holds an array of a type that is not allowed")
    return _node_types()[descr].itemsize


def _clear_padding(content: bytes, descr: str) -> bytes:
    """Return an array of nodes with zeros between their fields.

    numpy leaves there what the memory held before: it would change the digest, and leak.
    """
    dtype = _node_types()[descr]
    padding = np.ones(dtype.itemsize, dtype=bool)
    for field, offset, *_ in (dtype.fields or {}).values():
        padding[offset : offset + field.itemsize] = False
    if not padding.any():
        return content
    start = _read_npy_header(content)[2]
    nodes = np.frombuffer(content, dtype=np.uint8, offset=start).reshape(-1, dtype.itemsize)
    return content[:start] + np.where(padding, np.uint8(0), nodes).tobytes()


@cache
def _node_types() -> dict[str, np.dtype[Any]]:
    """Return the types of a tree's nodes, by their description in a .npy file."""
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.tree._tree import NODE_DTYPE

    types = (NODE_DTYPE, PREDICTOR_RECORD_DTYPE)
    return {repr(np.lib.format.dtype_to_descr(dtype)): dtype for dtype in types}


def _read_part(node: Any) -> tuple[str, str]:
    return node["__loader__"], f"{node['__module__']}.{node['__class__']}"


def _name_part(node: Any) -> str:
    """Return `: ` and the type of a node, if it is spelled as a type can be."""
    type_name = _read_part(node)[1]
    return f": {type_name}" if _TYPE_NAME.fullmatch(type_name) else ""


def _expect(node: Any, loader: str) -> None:
    if _read_part(node)[0] != loader:
        raise ArtifactUnusable(_NO_SKOPS_FILE)


def _read_key(type_name: str, key: str) -> tuple[str, str]:
    """Return a mapping's key as the name of a type of Python's, and text.

    skops would read the text "false" as True: booleans become the whole numbers they equal.
    """
    kind = type_name.rpartition(".")[2].rstrip("0123456789_").removeprefix("u")
    known = kind in ("str", "int", "float", "bool")
    if not known or (type_name not in _SCALARS and type_name != f"builtins.{kind}"):
        raise ArtifactUnusable("it contains a mapping whose keys are not strings or numbers")
    return ("int", str(int(json.loads(key)))) if kind == "bool" else (kind, key)


def _read_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ArtifactUnusable(_NO_SKOPS_FILE)
    return value


def _read_json(node: Any) -> Any:
    _expect(node, "JsonNode")
    if len(node["content"]) > _LONGEST_VALUE:
        raise ArtifactUnusable("it holds a string that is too long")
    return json.loads(node["content"])


def _json_node(content: str) -> dict[str, Any]:
    part = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
    return part | {"content": content, "is_json": True}


def _dict_node(content: dict[str, Any], key_types: list[str] | None = None) -> dict[str, Any]:
    types = [
        {"__class__": name, "__module__": "builtins", "__loader__": "TypeNode"}
        for name in key_types or ["str"] * len(content)
    ]
    part = {"__module__": "builtins"}
    return (
        part
        | {"__class__": "dict", "__loader__": "DictNode", "content": content}
        | {"key_types": part | {"__class__": "list", "__loader__": "ListNode", "content": types}}
    )


def _check_version(written_by: Any) -> None:
    """Refuse another minor version of scikit-learn; between patches, files are the same."""
    ours = _sklearn_version()
    if str(written_by).split(".")[:2] != ours.split(".")[:2]:
        theirs = written_by if re.fullmatch(r"[\w.+]{1,40}", str(written_by)) else "unknown"
        raise ArtifactUnusable(f"it is of scikit-learn {theirs}, and this is {ours}")


def _sklearn_version() -> str:
    import sklearn

    version: str = sklearn.__version__
    return version


def _check_attribute(type_name: str, name: str) -> None:
    """Refuse attributes that a fitted object does not have, or that would replace a method."""
    fitted = name.endswith("_") or type_name in _PLAIN_TYPES
    known = name in _PRIVATE or (
        _ATTRIBUTE.fullmatch(name)
        and not name.startswith("_")
        and (fitted or name in _init_params(type_name))
    )
    if not known or hasattr(inspect.getattr_static(_load_type(type_name), name, None), "__get__"):
        place = f"{type_name}.{name}" if _ATTRIBUTE.fullmatch(name) else type_name
        raise ArtifactUnusable(f"it holds an unknown attribute: {place}")


@cache
def _load_type(type_name: str) -> Any:
    module, _, name = type_name.rpartition(".")
    return getattr(importlib.import_module(module), name)


@cache
def _init_params(type_name: str) -> frozenset[str]:
    # Of the bases too: a Lasso is an ElasticNet with an l1_ratio.
    bases = [base for base in _load_type(type_name).__mro__ if "__init__" in vars(base)]
    return frozenset(name for base in bases[:-1] for name in inspect.signature(base).parameters)
