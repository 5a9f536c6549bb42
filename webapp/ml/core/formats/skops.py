"""Fitted estimators as bytes and back: skops files, checked before anything is built.

A skops file is a zip archive. Its ``schema.json`` is a tree of nodes, each with a loader of skops
and the type that it builds; arrays lie beside it as .npy files. skops audits the types, not what
they contain. So every file is first brought into one form: listed loaders and types only, bounded
sizes, no memory addresses, no dates, and no state that only a fit needs. skops audits and builds
that form; ``validation.check_estimator`` then checks what compiled code would trust.
Equal fitted parameters are equal bytes, with the same scikit-learn, zlib and BLAS.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core import datasets, training
from webapp.ml.core.estimators import CATALOGUE, find_by_type, read_params, split_pipeline
from webapp.ml.core.formats.shapes import Coefficients, LoadedModel
from webapp.ml.core.pipelines import make_checked_scorer
from webapp.ml.core.preprocessing import is_typed
from webapp.ml.core.signature import Signature, matrix_signature
from webapp.ml.core.training import describe_coefficients, list_classes
from webapp.ml.core.validation import (
    MALFORMED,
    MOST_FEATURES,
    PIPELINE,
    SCALER,
    check_estimator,
    make_scorer,
)
from webapp.ml.errors import ArtifactUnusable

MAX_BYTES = 2**30  # of the members of a file when unpacked
MOST_SCHEMA_BYTES = 2**26  # skops writes about 250 for a node
# Of a schema: 1,600 trees of a forest, or 9,000 of boosting; each takes 30 µs and 1.3 kB to load.
MOST_UPLOADED_NODES = 100_000
MOST_VALUES = 2**23  # of JSON, in any file: a node has 6
MOST_MEMBERS = 2**17  # zipfile takes 4 s to read a directory of a million
DEEPEST = 60  # levels of JSON: what skops writes of the catalogue has up to 20
LONGEST_TEXT = 10_000  # characters of a JSON value: names and labels have 255
LONGEST_NPY_HEADER = 2048
NO_SKOPS_FILE = "it is not a skops file"
SKLEARN = version("scikit-learn")

_BOOSTING = "sklearn.ensemble._hist_gradient_boosting"
_ROOTS = frozenset({PIPELINE, *(row.type_name for row in CATALOGUE.values())})
"""What a file may be."""
_ESTIMATORS = _ROOTS | {
    SCALER,
    "sklearn.tree._classes.DecisionTreeRegressor",
    "sklearn.tree._classes.DecisionTreeClassifier",
    "sklearn.tree._classes.ExtraTreeRegressor",
    "sklearn.tree._classes.ExtraTreeClassifier",
    "sklearn.dummy.DummyRegressor",
    "sklearn.dummy.DummyClassifier",
    "sklearn.preprocessing._label.LabelBinarizer",
    "sklearn.preprocessing._label.LabelEncoder",
    f"{_BOOSTING}.binning._BinMapper",
}
# skops leaves these to its caller, because compiled code follows the indices in them:
# check_estimator checks those of decision trees, and grows search trees again.
_SEARCH_TREE = "sklearn.neighbors._kd_tree.KDTree"
_COUNTERS = slice(7, 11)  # of the state of a search tree: what its queries have done
_TREES = [
    "sklearn.tree._tree.Tree",
    f"{_BOOSTING}.predictor.TreePredictor",
    _SEARCH_TREE,
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
]
_SCALARS = "bool str_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
_UPLOADED = _ESTIMATORS | {
    *_TREES,
    *(f"builtins.{name}" for name in ("bool", "int", "float", "str", "list", "tuple", "dict")),
    "numpy.ndarray",
    *(f"numpy.{name}" for name in _SCALARS.split()),
}
_PREPROCESSING = {
    "sklearn.compose._column_transformer.ColumnTransformer",
    "sklearn.decomposition._truncated_svd.TruncatedSVD",
    "sklearn.feature_extraction.text.HashingVectorizer",
    "sklearn.feature_extraction.text.TfidfTransformer",
    "sklearn.impute._base.MissingIndicator",
    "sklearn.impute._base.SimpleImputer",
    "sklearn.preprocessing._encoders.OneHotEncoder",
    "sklearn.preprocessing._encoders.OrdinalEncoder",
    "sklearn.preprocessing._function_transformer.FunctionTransformer",
    "sklearn.preprocessing._target_encoder.TargetEncoder",
}
# What those hold: histogram boosting checks its categories by a function of scikit-learn's.
_PARTS = {
    *("builtins.slice", "functools.partial", "numpy.dtype"),
    *("sklearn.model_selection._split.KFold", "sklearn.model_selection._split.StratifiedKFold"),
    "sklearn.utils.validation.check_array",
    *("sklearn.preprocessing._label.LabelEncoder", "sklearn.preprocessing._label.LabelBinarizer"),
}
_STORED = _UPLOADED | _PREPROCESSING | _PARTS
_LOSSES = "sklearn._loss."  # skops lists those that it builds
_LOADERS = {
    *("DTypeNode", "FunctionNode", "PartialNode", "SliceNode"),
    *("ObjectNode", "TreeNode", "LossNode", "NdArrayNode", "TypeNode"),
    *("DictNode", "ListNode", "TupleNode", "JsonNode"),
}

# Attributes that predictions do not need, and what they are set to.
_RESET = {
    **dict.fromkeys(("n_jobs", "n_threads", "memory", "_feature_subsample_rng", "_scorer")),
    # Of gradient boosting and networks: what would go on with a fit.
    **dict.fromkeys(("_rng", "_random_state", "_optimizer", "_best_coefs", "_best_intercepts")),
    "verbose": 0,
}
# Parameters of fits: kept as numbers and words; generators, functions and sets become null.
_FIT_ONLY = frozenset({"random_state", "scoring", "oob_score", "interaction_cst"})

_NPY_HEADER = re.compile(
    rb"\{'descr': (?P<type>'[<|][fiubU]\d{1,6}'|\[[^\n]{1,1000}\]), "
    rb"'fortran_order': (?:True|False), 'shape': \((?P<shape>[\d, ]*)\), \} *\n"
)

# What zipfile and json raise, too, for bytes that make no sense to them.
_MALFORMED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, *MALFORMED)


def dumps(estimator: Any) -> bytes:
    """Return a fitted estimator as the bytes of a skops file: equal estimators, equal bytes.

    Raises ArtifactUnusable for what `loads` would not take back.
    """
    import skops.io

    # skops writes several times what is kept: only that must be within the bounds.
    written = skops.io.dumps(estimator)
    return _normalise(written, zipfile.ZIP_DEFLATED, most_schema_bytes=MAX_BYTES).getvalue()


def recognises(data: bytes) -> bool:
    """Return whether a file is a zip archive, as those of skops are."""
    return data.startswith(b"PK\x03\x04")


def load(
    data: bytes, signature: Signature, profile: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Return the model of a stored skops file: one of the catalogue, or a typed pipeline.

    ``profile`` is that of the rows it was trained on. Raises ArtifactUnusable as `read_upload`
    does.
    """
    model = loads(data)
    if is_typed(model):
        scorer = make_checked_scorer(model, signature)
    else:
        scorer = make_scorer(model, profile)
    return LoadedModel(model, signature, list_classes(model), scorer)


def describe(
    data: bytes, *, feature_names: Sequence[str] | None, max_features: int
) -> dict[str, Any]:
    """Return what a version of an uploaded skops file has, by the names of its columns.

    Without ``feature_names``, the names that the estimator has learnt are taken. Raises
    ArtifactUnusable, and InvalidInput where the names are not right.
    """
    model, learnt_names = read_upload(data, max_features=max_features)
    make_scorer(model)  # what fails here would fail a prediction
    scaler, final = split_pipeline(model)
    entry = find_by_type(f"{type(final).__module__}.{type(final).__qualname__}")
    if entry is None:
        raise ArtifactUnusable("it is not an estimator of the catalogue")
    n_features = model.n_features_in_
    names = learnt_names if feature_names is None else feature_names
    names = datasets.default_feature_names(n_features) if names is None else names
    if len(names) != n_features:
        message = f"has {len(names)} names for {n_features} features"
        raise InvalidInput({"feature_names": [message]})
    datasets.check_feature_names(names)
    classes = list_classes(model)
    signature = matrix_signature(names, entry.task)
    return {
        "task": entry.task,
        "estimator": entry.name,
        "model_type": type(final).__name__,
        "params": read_params(entry, final),
        "scale": scaler is not None,
        "feature_names": list(names),
        "signature": signature.to_json(),
        "classes": None if classes is None else list(classes),
        "coefficients": describe_coefficients(model, signature),
    }


def list_coefficients(loaded: LoadedModel) -> Coefficients | None:
    """Return the coefficients of a linear model, in units of the unscaled features."""
    return training.list_coefficients(loaded.model, loaded.signature)


def loads(data: bytes) -> Any:
    """Return the fitted estimator of a file that `dumps` wrote, or that was uploaded.

    Raises ArtifactUnusable as `read_upload` does.
    """
    return _load(data)[0]


def read_upload(
    data: bytes, *, max_features: int = MOST_FEATURES
) -> tuple[Any, tuple[str, ...] | None]:
    """Return the fitted estimator of a skops file, and the feature names that it has learnt.

    The names are None where it was fitted on an array. They are taken off the estimator, which
    would warn at every prediction from an array. It is safe to predict with the estimator;
    `validation.make_scorer` finds out whether it predicts what it should.

    Raises ArtifactUnusable when the bytes are no skops file, hold a type that is not allowed, are
    of another scikit-learn, or describe no fitted estimator, or one of more than ``max_features``.
    """
    estimator, names = _load(data, types=_UPLOADED, most_nodes=MOST_UPLOADED_NODES)
    n_features = estimator.n_features_in_
    if n_features > max_features:
        raise ArtifactUnusable(f"it has {n_features} features, at most {max_features} are allowed")
    return estimator, names


def _load(
    data: bytes, *, types: Collection[str] = _STORED, most_nodes: int = MOST_VALUES
) -> tuple[Any, tuple[str, ...] | None]:
    import skops.io

    try:
        normal = _normalise(data, zipfile.ZIP_STORED, types=types, most_nodes=most_nodes)
        estimator = skops.io.load(normal, trusted=[*_TREES, *types])
    except _MALFORMED:
        raise ArtifactUnusable(NO_SKOPS_FILE) from None
    except MemoryError:
        raise ArtifactUnusable("it needs more memory than there is") from None
    try:
        check_estimator(estimator)
        if is_typed(estimator):
            return estimator, None
        steps = [step for step in split_pipeline(estimator) if step is not None]
        learnt = [vars(step).pop("feature_names_in_", None) for step in steps]
        names = None if learnt[0] is None else tuple(learnt[0].tolist())
    except _MALFORMED:
        raise ArtifactUnusable("its parts do not fit together") from None
    if names is not None and any(type(name) is not str for name in names):
        raise ArtifactUnusable("its feature names are not strings")
    return estimator, names


def _normalise(
    data: bytes,
    compression: int,
    *,
    types: Collection[str] = _STORED,
    most_nodes: int = MOST_VALUES,
    most_schema_bytes: int = MOST_SCHEMA_BYTES,
) -> io.BytesIO:
    """Return a skops file with only what is allowed, in the one form that we write."""
    if data.count(b"PK\x01\x02") > MOST_MEMBERS:  # an entry of the directory begins so
        raise ArtifactUnusable("its archive has too many members")
    source, normal = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(normal, "w", compression) as target:
        members = _list_members(source)
        if members["schema.json"].file_size > most_schema_bytes:
            raise ArtifactUnusable("its schema is too long")
        text = source.read(members["schema.json"])
        n_nodes = text.count(b"{")
        n_values = n_nodes + text.count(b"[") + text.count(b",")
        if n_nodes > most_nodes or n_values > min(MOST_VALUES, 16 * most_nodes):
            # Parsed, it would take 30 times as much memory.
            raise ArtifactUnusable("its schema has too many nodes or values")
        schema = json.loads(text)
        if schema["__loader__"] != "ObjectNode" or _type_name(schema) not in _ROOTS:
            raise ArtifactUnusable(f"it is not an estimator of the catalogue{_show_type(schema)}")
        # 28 % of the nodes of boosting are arrays, and 5 % of a forest's.
        arrays = _Arrays(source, members, target, types, arrays_left=most_nodes // 3)
        written = json.dumps(_check_part(schema, arrays), separators=(",", ":")).encode()
        if len(written) > MOST_SCHEMA_BYTES:
            raise ArtifactUnusable("its schema is too long")
        _write_member(target, "schema.json", written)
    return normal


def _list_members(source: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, if their sizes are within bounds.

    zipfile gives no more than the size that a member declares, so declared sizes will do.
    """
    entries = source.infolist()
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise ArtifactUnusable(f"it takes more than {MAX_BYTES} bytes when unpacked")
    # Other methods can ask for gigabytes of memory before they give a byte.
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if any(entry.compress_type not in known or entry.flag_bits & 1 for entry in entries):
        raise ArtifactUnusable("its archive is encrypted, or compressed by another method")
    return {entry.filename: entry for entry in entries}


def _check_part(part: Any, arrays: _Arrays, depth: int = 0) -> Any:
    """Return a part of a schema with all that skops can take for a node checked."""
    if depth > DEEPEST:
        raise ArtifactUnusable("it is nested too deeply")
    if isinstance(part, list):
        return [_check_part(item, arrays, depth + 1) for item in part]
    if not isinstance(part, dict):
        return part
    if "__loader__" in part:
        part = _check_node(part, arrays)
    return {name: _check_part(value, arrays, depth + 1) for name, value in part.items()}


def _check_node(node: dict[str, Any], arrays: _Arrays) -> dict[str, Any]:
    loader, type_name = node["__loader__"], _type_name(node)
    known = type_name in arrays.types or type_name.startswith(_LOSSES)
    if loader not in _LOADERS or not known:
        raise ArtifactUnusable(f"it contains a type that is not allowed{_show_type(node)}")
    # Ids make one node stand for another: what was checked need not be what is built.
    node = {key: node[key] for key in node if key not in ("__id__", "_skops_version")}
    if loader == "JsonNode" and len(node["content"]) > LONGEST_TEXT:
        raise ArtifactUnusable("it holds a string that is too long")
    if loader == "NdArrayNode" and node["type"] == "numpy":
        node["file"] = arrays.copy(node["file"], type_name)
    if type_name == _SEARCH_TREE:
        state = node["content"]["content"]
        state[_COUNTERS] = [_json_node(0)] * 4
    if loader == "ObjectNode" and node["content"]["__loader__"] == "DictNode":
        attributes = node["content"]["content"]
        for name, value in attributes.items():
            if name in _RESET:
                attributes[name] = _json_node(_RESET[name])
            elif name in _FIT_ONLY and value["__loader__"] not in ("JsonNode", "NdArrayNode"):
                attributes[name] = _json_node(None)
        if type_name in _ESTIMATORS:
            written_by = str(json.loads(attributes["_sklearn_version"]["content"]))
            if written_by.split(".")[:2] != SKLEARN.split(".")[:2]:
                shown = written_by if re.fullmatch(r"[\w.+]{1,40}", written_by) else "unknown"
                raise ArtifactUnusable(f"it is of scikit-learn {shown}, and this is {SKLEARN}")
            # Between patch versions files are the same, but scikit-learn warns of another one.
            attributes["_sklearn_version"] = _json_node(SKLEARN)
    return node


@dataclass
class _Arrays:
    """The arrays of a skops file, copied into another: each content once, under a number."""

    source: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    target: zipfile.ZipFile
    types: Collection[str]
    arrays_left: int
    bytes_left: int = MAX_BYTES
    written: dict[bytes, str] = field(default_factory=dict)

    def copy(self, name: str, type_name: str) -> str:
        """Check an array, write it unless one like it was written, and return its new name."""
        member = self.members[name]
        # Counted at every use: skops makes an array of its own of each.
        self.bytes_left -= member.file_size
        self.arrays_left -= 1
        if self.bytes_left < 0 or self.arrays_left < 0:
            raise ArtifactUnusable("it takes too many bytes or arrays when unpacked")
        content = _check_array(self.source.read(member), type_name)
        key = hashlib.sha256(content).digest()
        if key not in self.written:
            self.written[key] = f"{len(self.written)}.npy"
            _write_member(self.target, self.written[key], content)
        return self.written[key]


def _check_array(content: bytes, type_name: str) -> bytes:
    """Return a .npy file that is as long as its header says, of a type that is allowed.

    numpy evaluates the header as Python; here it must have the one form that numpy writes
    (numpy.lib.format, "Format Version 1.0").
    """
    start = 10 + int.from_bytes(content[8:10], "little")
    header = _NPY_HEADER.fullmatch(content[10:start]) if start <= LONGEST_NPY_HEADER else None
    if content[:8] != b"\x93NUMPY\x01\x00" or header is None:
        raise ArtifactUnusable("it holds an array in an unknown format")
    description = header["type"].decode()
    record = _node_types().get(description)
    if description.startswith("[") and record is None:
        raise ArtifactUnusable("it holds an array of a type that is not allowed")
    dtype = np.dtype(description.strip("'")) if record is None else record
    shape = [int(length) for length in header["shape"].split(b",") if length.strip()]
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ArtifactUnusable("it holds an array of another size than it says")
    if dtype.kind == "U" and (np.frombuffer(content, "<u4", offset=start) > sys.maxunicode).any():
        raise ArtifactUnusable("it holds characters beyond Unicode")  # numpy takes them
    if type_name != "numpy.ndarray" and (shape or type_name != f"numpy.{dtype.type.__name__}"):
        raise ArtifactUnusable("it holds a number that is not of the type it names")
    if record is None:
        return content
    # numpy leaves between the fields what the memory held before: it would change the digest,
    # and tell others of it.
    nodes = np.frombuffer(content, record, offset=start)
    clean = np.zeros(len(nodes), record)  # zeros_like leaves what lies between the fields
    for name in record.names or ():
        clean[name] = nodes[name]
    return content[:start] + clean.tobytes()


@cache
def _node_types() -> dict[str, np.dtype[Any]]:
    """Return the types of a tree's nodes, by their description in a .npy file."""
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.neighbors import KDTree
    from sklearn.tree._tree import NODE_DTYPE

    search_nodes = KDTree([[0.0]]).get_arrays()[2]
    types = (NODE_DTYPE, PREDICTOR_RECORD_DTYPE, search_nodes.dtype)
    return {repr(np.lib.format.dtype_to_descr(dtype)): dtype for dtype in types}


def _write_member(target: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980-01-01, whatever the clock says
    entry.create_system = 3  # written alike on every system
    target.writestr(entry, content, compress_type=target.compression)


def _type_name(node: Any) -> str:
    return f"{node['__module__']}.{node['__class__']}"


def _show_type(node: Any) -> str:
    """Return `: ` and the type of a node, if it is spelled as a type can be."""
    type_name = _type_name(node)
    return f": {type_name}" if re.fullmatch(r"[A-Za-z_][\w.]{0,199}", type_name) else ""


def _json_node(value: Any) -> dict[str, Any]:
    node = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
    return node | {"content": json.dumps(value), "is_json": True}
