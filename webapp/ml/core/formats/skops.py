"""skops files: any scikit-learn model of types on a list, as bytes and back.

A skops file is a zip archive. Its ``schema.json`` is a tree of nodes, each with a loader of skops
and the type that it builds; arrays lie beside it as .npy files. Every file is first brought into
one form, within bounds: no memory addresses, no dates, nothing between the fields of records, and
no attributes that only a fit needs. skops audits the types of that form and builds it;
``checks.check_parts`` then checks what compiled code would trust. Equal fitted parameters are
equal bytes, with the same scikit-learn, zlib and BLAS.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from webapp.ml.core.formats import fitted
from webapp.ml.core.formats.checks import MALFORMED, check_parts
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.signature import Signature
from webapp.ml.errors import ArtifactUnusable

MAX_BYTES = 2**30  # of the members of a file when unpacked
MOST_SCHEMA_BYTES = 2**27  # skops writes about 250 for a node
# Of a schema: 3,000 trees of a forest, or 100,000 words; each takes 30 µs and 1.3 kB to load.
MOST_NODES = 200_000
MOST_VALUES = 2**23  # of JSON: a node has 6
MOST_MEMBERS = 2**17  # zipfile takes 4 s to read a directory of a million
DEEPEST = 200  # levels of JSON: a stack of pipelines has about 60
LONGEST_TEXT = 10_000  # characters of a JSON value: names and labels have 255
LONGEST_NPY_HEADER = 2048
MOST_NAMED = 20  # types in a refusal
SKLEARN = version("scikit-learn")

_DISTANCES = ("Euclidean", "Manhattan", "Chebyshev", "Minkowski")
_KERNELS = (
    *("RBF", "ConstantKernel", "WhiteKernel", "Matern", "RationalQuadratic", "ExpSineSquared"),
    *("DotProduct", "Sum", "Product", "Exponentiation", "CompoundKernel", "Hyperparameter"),
)
_MEASURES = ("accuracy", "balanced_accuracy", "f1", "precision", "recall")
TRUSTED: Mapping[str, Sequence[str]] = {
    "Compiled trees, whose indices check_parts checks": (
        "sklearn.tree._tree.Tree",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    ),
    "Search trees, which are grown again, and their metrics": (
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._ball_tree.BallTree",
        *(f"sklearn.metrics._dist_metrics.{name}Distance64" for name in _DISTANCES),
    ),
    "Parts of estimators in Python: numbers, and NumPy on them": (
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        *(f"sklearn.gaussian_process.kernels.{name}" for name in _KERNELS),
        "sklearn.impute._iterative.IterativeImputer",
        "sklearn.impute._iterative._ImputerTriplet",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.utils._bunch.Bunch",
        "sklearn.compose._column_transformer.make_column_selector",
        "numpy.dtype",
        "builtins.object",
    ),
    "Measures of predictions, which a fit has chosen a threshold by": (
        "sklearn.metrics._scorer._CurveScorer",
        *(f"sklearn.metrics._classification.{name}_score" for name in _MEASURES),
    ),
    "Splines, whose sizes check_parts checks": (
        "scipy.interpolate._bsplines.BSpline",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
    ),
    "Matrices, whose indices check_parts checks": (
        *("scipy.sparse._csr.csr_matrix", "scipy.sparse._csr.csr_array"),
        *("scipy.sparse._csc.csc_matrix", "scipy.sparse._csc.csc_array"),
    ),
    "Trees of clusters, whose centers check_parts checks": (
        "sklearn.cluster._bisect_k_means._BisectingTree",
    ),
    "What histogram boosting checks its numbers with": (
        "functools.partial",
        "sklearn.utils.validation.check_array",
    ),
}
"""Types beyond those that skops trusts, each group with its reason.

skops itself trusts scikit-learn's estimators, the functions of NumPy and SciPy that compute
element by element, and plain data. No function on either list calls another one."""

_RESET = {**dict.fromkeys(("n_jobs", "n_threads", "memory")), "_n_threads": 1, "verbose": 0}
"""What a service decides for itself, whatever a file says."""
_FIT_ONLY = frozenset(
    {
        *("random_state", "scoring", "cv", "oob_score", "score_func"),
        *("param_grid", "param_distributions", "cv_results_", "scorer_", "_scorer"),
        *("_feature_subsample_rng", "_rng", "_random_state", "callback"),
        *("_checked_cv_orig", "_metadata_request", "_kmeans_single"),
        # Of networks: what would go on with a fit.
        *("_optimizer", "_best_coefs", "_best_intercepts"),
    }
)
"""Attributes that predictions do not need: numbers and words are kept, the rest becomes null."""

_COUNTERS = slice(7, 11)  # of the state of a search tree: what its queries have done
_TYPE_NAME = re.compile(r"[A-Za-z_][\w.]{0,199}")
_NPY_HEADER = re.compile(
    rb"\{'descr': (?P<type>'[<|][fiubUS]\d{1,6}'|\[[^\n]{1,1000}\]), "
    rb"'fortran_order': (?:True|False), 'shape': \((?P<shape>[\d, ]*)\), \} *\n"
)
# What zipfile and json raise, too, for bytes that make no sense to them.
_MALFORMED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, *MALFORMED)


def recognises(data: bytes) -> bool:
    """Return whether a file is a zip archive, as those of skops are."""
    return data.startswith(b"PK\x03\x04")


def load(
    data: bytes, signature: Signature, profile: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Return the model of a stored skops file, ready to predict.

    ``profile`` is that of the rows it was trained on. Raises ArtifactUnusable.
    """
    return fitted.prepare(loads(data), signature, profile)


def describe(data: bytes, **options: Any) -> dict[str, Any]:
    """Return what a version of an uploaded skops file has; ``options`` as `fitted.describe`."""
    model = loads(data)
    try:
        return fitted.describe(model, **options)
    except MALFORMED:
        raise ArtifactUnusable("its parts do not fit together") from None


def dumps(estimator: Any) -> bytes:
    """Return a fitted estimator as the bytes of a skops file: equal estimators, equal bytes.

    Raises ArtifactUnusable for what `loads` would not take back.
    """
    import skops.io

    # skops writes several times what is kept: only that must be within the bounds.
    return _normalise(skops.io.dumps(estimator), zipfile.ZIP_DEFLATED, writing=True)[0].getvalue()


def loads(data: bytes) -> Any:
    """Return the fitted estimator of a skops file; it is safe to call.

    Raises ArtifactUnusable when the bytes are no skops file, hold types that are not allowed
    (which it names, and where they are), are of another scikit-learn, or hold parts that do not
    fit together.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        normal, schema, types = _normalise(data, zipfile.ZIP_STORED)
        # Those that are there: skops compares each node with all of them.
        trusted = [name for names in TRUSTED.values() for name in names if name in types]
        try:
            model = skops.io.load(normal, trusted=trusted)
        except UntrustedTypesFoundException:
            refused = set(skops.io.get_untrusted_types(data=normal.getvalue())) - set(trusted)
            raise ArtifactUnusable(_describe_refused(schema, refused)) from None
        del normal, schema
    except _MALFORMED:
        raise ArtifactUnusable("it is not a skops file that can be read") from None
    except MemoryError:
        raise ArtifactUnusable("it needs more memory than there is") from None
    try:
        check_parts(model)
    except MALFORMED:
        raise ArtifactUnusable("its parts do not fit together") from None
    return model


def _normalise(
    data: bytes, compression: int, *, writing: bool = False
) -> tuple[io.BytesIO, dict[str, Any], set[str]]:
    """Return a skops file in the one form that we write, its schema, and the types in it."""
    if data.count(b"PK\x01\x02") > MOST_MEMBERS:  # an entry of the directory begins so
        raise ArtifactUnusable("its archive has too many members")
    source, normal = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(normal, "w", compression) as target:
        members = _list_members(source)
        entry = members["schema.json"]
        if entry.file_size > (MAX_BYTES if writing else MOST_SCHEMA_BYTES):
            raise ArtifactUnusable("its schema is too long")
        text = source.read(entry)
        n_nodes = text.count(b"{")
        n_values = n_nodes + text.count(b"[") + text.count(b",")
        if n_nodes > MOST_NODES or n_values > MOST_VALUES:
            # Parsed, it would take 30 times as much memory.
            raise ArtifactUnusable("its schema has too many nodes or values")
        schema = json.loads(text)
        del text
        if not str(schema["__module__"]).startswith("sklearn."):
            raise ArtifactUnusable(f"it is not a scikit-learn estimator{_show_type(schema)}")
        normaliser = _Normaliser(source, members, target)
        normaliser.clean(schema)
        written = json.dumps(schema, separators=(",", ":")).encode()
        _write_member(target, "schema.json", written)
    return normal, schema, normaliser.types


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


@dataclass
class _Normaliser:
    """Cleans the nodes of a schema in place, and copies the files that they name.

    Each content is written once, under a number, and ids of objects become numbers as well.
    """

    source: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    target: zipfile.ZipFile
    bytes_left: int = MAX_BYTES
    written: dict[bytes, str] = field(default_factory=dict)
    copied: dict[tuple[str, str], str] = field(default_factory=dict)
    ids: dict[Any, int] = field(default_factory=dict)
    types: set[str] = field(default_factory=set)

    def clean(self, part: Any, depth: int = 0) -> None:
        """Clean a node and all inside it, or the values of a list or mapping."""
        if depth > DEEPEST:
            raise ArtifactUnusable("it is nested too deeply")
        if isinstance(part, dict):
            if "__loader__" in part:
                self._clean_node(part)
            values = part.values()
        else:
            values = part
        for value in values:
            if isinstance(value, dict | list):
                self.clean(value, depth + 1)

    def _clean_node(self, node: dict[str, Any]) -> None:
        loader, type_name = node["__loader__"], f"{node['__module__']}.{node['__class__']}"
        self.types.add(type_name)
        node.pop("_skops_version", None)
        found = node.pop("__id__", None)
        # Objects are shared, as the members of an ensemble by their names; that small values
        # are, depends on the interpreter.
        if found is not None and loader in ("ObjectNode", "CachedNode"):
            node["__id__"] = self.ids.setdefault(found, len(self.ids) + 1)
        if loader == "JsonNode" and len(node["content"]) > LONGEST_TEXT:
            raise ArtifactUnusable("it holds a string that is too long")
        if "file" in node:
            node["file"] = self._copy(node["file"], type_name)
        content = node.get("content")
        if loader == "ObjectNode" and content:
            if content["__loader__"] == "DictNode":
                self._clean_attributes(content["content"])
            elif node["__class__"] in ("KDTree", "BallTree"):
                content["content"][_COUNTERS] = [_json_node(0)] * 4

    def _clean_attributes(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            if name in _RESET:
                attributes[name] = _json_node(_RESET[name])
            elif name in _FIT_ONLY and value["__loader__"] not in ("JsonNode", "NdArrayNode"):
                attributes[name] = _json_node(None)
        if "_sklearn_version" in attributes:
            written_by = str(json.loads(attributes["_sklearn_version"]["content"]))
            if written_by.split(".")[:2] != SKLEARN.split(".")[:2]:
                shown = written_by if re.fullmatch(r"[\w.+]{1,40}", written_by) else "unknown"
                raise ArtifactUnusable(f"it is of scikit-learn {shown}, and this is {SKLEARN}")
            # Between patch versions files are the same, but scikit-learn warns of another one.
            attributes["_sklearn_version"] = _json_node(SKLEARN)

    def _copy(self, name: str, type_name: str) -> str:
        """Check a file, write it unless one like it was written, and return its new name."""
        member = self.members[name]
        # Counted at every use: skops makes an array of its own of each.
        self.bytes_left -= member.file_size + LONGEST_NPY_HEADER
        if self.bytes_left < 0:
            raise ArtifactUnusable("it takes too many bytes or arrays when unpacked")
        if (name, type_name) in self.copied:
            return self.copied[name, type_name]
        content, suffix = self.source.read(member), name.rpartition(".")[2]
        if suffix == "npz":
            content = self._copy_archive(content)
        else:
            content, suffix = _check_array(content, type_name), "npy"
        key = hashlib.sha256(content).digest()
        if key not in self.written:
            self.written[key] = f"{len(self.written)}.{suffix}"
            _write_member(self.target, self.written[key], content)
        self.copied[name, type_name] = self.written[key]
        return self.written[key]

    def _copy_archive(self, content: bytes) -> bytes:
        """Return an archive of arrays, as SciPy writes a sparse matrix, in one form."""
        inner, copy = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
        members = _list_members(inner)
        self.bytes_left -= sum(entry.file_size for entry in members.values())
        if self.bytes_left < 0 or len(members) > 10:
            raise ArtifactUnusable("it takes too many bytes or arrays when unpacked")
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
            for name, entry in sorted(members.items()):
                _write_member(target, name, _check_array(inner.read(entry), "numpy.ndarray"))
        return copy.getvalue()


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


def _describe_refused(schema: Any, refused: set[str]) -> str:
    """Return which types are not allowed, and where each is first."""
    places: dict[str, str] = {}
    for place, node in _iterate_nodes(schema, "model"):
        name = f"{node['__module__']}.{node['__class__']}"
        for found in {name, f"{name}.{_method_of(node)}"} & refused:
            places.setdefault(found, place)
    named = [
        (name if _TYPE_NAME.fullmatch(name) else "a type")
        + (f" at {_to_ascii(places[name])}" if name in places else "")
        for name in sorted(refused)
    ]
    more = f", and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f"it contains types that are not allowed: {', '.join(named[:MOST_NAMED])}{more}"


def _to_ascii(place: str) -> str:
    """Return a place that may be shown: names of attributes can be anything in a file."""
    return place[:200].encode("ascii", "backslashreplace").decode()


def _method_of(node: dict[str, Any]) -> str:
    content = node.get("content")
    return str(content.get("func")) if isinstance(content, dict) else ""


def _iterate_nodes(part: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the nodes of a schema with their places in Python's words: ``model.steps[0][1]``."""
    if isinstance(part, list):
        for number, item in enumerate(part):
            yield from _iterate_nodes(item, f"{place}[{number}]")
    elif isinstance(part, dict) and "__loader__" in part:
        yield place, part
        content = part.get("content")
        if part["__loader__"] == "ObjectNode" and isinstance(content, dict):
            named = content.get("content")
            for name, value in named.items() if isinstance(named, dict) else ():
                yield from _iterate_nodes(value, f"{place}.{name}")
            if isinstance(named, list):
                yield from _iterate_nodes(named, place)
        elif part["__loader__"] == "DictNode" and isinstance(content, dict):
            for name, value in content.items():
                yield from _iterate_nodes(value, f"{place}[{name!r}]")
        else:
            for value in (content, part.get("attrs"), part.get("__reduce__")):
                yield from _iterate_nodes(value, place)
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from _iterate_nodes(value, f"{place}.{name}")


def _show_type(node: Any) -> str:
    """Return `: ` and the type of a node, if it is spelled as a type can be."""
    type_name = f"{node['__module__']}.{node['__class__']}"
    return f": {type_name}" if _TYPE_NAME.fullmatch(type_name) else ""


def _json_node(value: Any) -> dict[str, Any]:
    node = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
    return node | {"content": json.dumps(value), "is_json": True}
