"""ONNX models, which onnxruntime runs on the CPU.

A model is a program. Its operators are those of ONNX itself, it reads no other file, it ends, and
how much memory it takes depends on the number of rows alone: what could do otherwise is refused by
name before onnxruntime gets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Texts, describe_label
from webapp.ml.core.formats.checks import MALFORMED, MOST_FEATURES
from webapp.ml.core.formats.elsewhere import Upload, import_library
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.scoring import Scores
from webapp.ml.core.signature import Column, Kind, Signature, Task
from webapp.ml.core.training import MOST_CLASSES
from webapp.ml.errors import ArtifactUnusable

NO_MODEL = "it is not an ONNX model"
BLOCK_ROWS = 1024  # at a time: 10,000 neighbours of so many rows take 80 MB
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
LONGEST_REASON = 300  # characters of what onnxruntime says

_TYPES: Mapping[str, tuple[Any, Kind]] = {
    "tensor(float)": (np.float32, "number"),
    "tensor(double)": (np.float64, "number"),
    "tensor(int64)": (np.int64, "number"),
    "tensor(int32)": (np.int32, "number"),
    "tensor(bool)": (np.bool_, "boolean"),
    "tensor(string)": (np.object_, "text"),
}
"""The types of inputs, and what kind of column they are: text is any text, categories among it."""
_ENDLESS = frozenset({"Loop", "SequenceMap"})  # a Scan ends with its input
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)
_SIZES: Mapping[str, tuple[int, ...]] = {
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    **dict.fromkeys(("ConstantOfShape", "BlackmanWindow", "HammingWindow", "HannWindow"), (0,)),
    **dict.fromkeys(("Expand", "Tile", "Pad", "OneHot", "Upsample", "CenterCropPad"), (1,)),
    "Col2Im": (1,),
    "MelWeightMatrix": (0, 1),
}
"""Operators that make arrays of any size, and which of their inputs say the size."""
_LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
_LABEL_TYPES = ("tensor(int64)", "tensor(string)")
_MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")
_SCORE_TYPES = ("tensor(float)", "tensor(double)", *_MAPS)
_SECOND_FIELDS = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)  # tags of ModelProto


@dataclass(frozen=True)
class _Input:
    """An input of a model: an array of (n_rows, width), or of (n_rows,) where it is flat."""

    name: str
    type_name: str
    width: int
    flat: bool


@dataclass(frozen=True)
class _File:
    """A model that onnxruntime has loaded, and its nodes and constants as messages of protobuf."""

    session: Any
    nodes: Sequence[Any]
    constants: Mapping[str, Any]
    params: Mapping[str, Any]


def recognises(data: bytes) -> bool:
    """Return whether a file begins as ONNX's do: with a small version, and then more fields."""
    return len(data) > 2 and data[0] == 0x08 and 0 < data[1] < 64 and data[2] in _SECOND_FIELDS


def load(
    data: bytes, signature: Signature, profile: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Return the model of a stored file; raises ArtifactUnusable."""
    return _prepare(_read_file(data), signature)


def describe(data: bytes, **options: Any) -> dict[str, Any]:
    """Return what a version of an uploaded file has; ``options`` as `fitted.describe`."""
    file, upload = _read_file(data), Upload(**options)
    given = upload.feature_names or (upload.signature or {}).get("columns")
    columns, learnt = _describe_inputs(file, len(given) if isinstance(given, list) else 0)
    loaded = _prepare(file, upload.make_signature(columns, learnt, _find_task(file.session)))
    description = upload.describe(loaded, estimator="onnx", params=file.params)
    _try_block(loaded)
    return description


def _try_block(loaded: LoadedModel) -> None:
    """Raise ArtifactUnusable where a block of rows takes more memory than this process may."""
    texts = np.full((BLOCK_ROWS, len(loaded.signature.text_names)), "text", dtype=object)
    try:
        loaded.scorer(np.zeros((BLOCK_ROWS, len(loaded.signature.inputs))), texts)
    except ValueError:
        raise ArtifactUnusable(f"it fails for {BLOCK_ROWS} rows") from None


def _read_file(data: bytes) -> _File:
    onnx, protobuf = import_library("onnx"), import_library("google.protobuf.message")
    try:
        model = onnx.ModelProto.FromString(data)
    except protobuf.DecodeError:
        raise ArtifactUnusable(NO_MODEL) from None
    if model.training_info:
        raise ArtifactUnusable("it has a graph for training, which is not served")
    if model.functions:
        raise ArtifactUnusable(
            "it has functions of its own, which are not served: apply "
            "onnx.inliner.inline_local_functions"
        )
    messages = list(_iterate(model.graph))
    tensors = [part for part in messages if isinstance(part, onnx.TensorProto)]
    if any(t.external_data or t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
        raise ArtifactUnusable("it keeps data in another file: save all in one")
    nodes = [part for part in messages if isinstance(part, onnx.NodeProto)]
    _check_operators(nodes)
    _check_sizes(nodes, [value.name for value in model.graph.input])
    return _File(
        session=_start_session(data),
        nodes=nodes,
        constants={tensor.name: tensor for tensor in model.graph.initializer},
        params={
            "producer": _show(model.producer_name),
            "opsets": {
                one.domain or "ai.onnx": one.version
                for one in model.opset_import
                if one.domain in DOMAINS
            },
        },
    )


def _iterate(message: Any) -> Iterator[Any]:
    """Yield a message of protobuf, and all that it holds, however deeply, in order."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _iterate(part)


def _check_operators(nodes: Sequence[Any]) -> None:
    """Raise ArtifactUnusable that lists all operators that are not allowed."""
    refused = {
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in nodes
        if node.domain not in DOMAINS or node.op_type in _ENDLESS | _RANDOM
    }
    if refused:
        shown = ", ".join(sorted(_show(name) for name in refused))
        raise ArtifactUnusable(f"it has operators that are not allowed: {shown}")


def _check_sizes(nodes: Sequence[Any], inputs: Sequence[str]) -> None:
    """Raise ArtifactUnusable where a value that is sent would say how large an array is made."""
    sent, before = set(inputs), 0
    while len(sent) > before:  # a second time: nodes need not be in order
        before = len(sent)
        for node in nodes:
            graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            sent.update(value.name for graph in graphs for value in graph.input)
            if graphs or (
                node.op_type not in ("Shape", "Size") and not sent.isdisjoint(node.input)
            ):
                sent.update(node.output)
    sent.discard("")  # what is left out is called so
    for node in nodes:
        places = _SIZES.get(node.op_type, ())
        if any(place < len(node.input) and node.input[place] in sent for place in places):
            raise ArtifactUnusable(f"its {node.op_type} makes arrays of a size that a value says")


def _show(text: Any) -> str:
    """Return a text in a message; protobuf gives bytes where it is no UTF-8."""
    return "".join(char for char in str(text)[:LONGEST_REASON] if char.isprintable())


def _start_session(data: bytes) -> Any:
    library = import_library("onnxruntime")
    options = library.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep what the largest request took
    options.log_severity_level = 4  # what is wrong is raised
    try:
        return library.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        # "[ONNXRuntimeError] : 1 : FAIL : ", the message, with a place in its source before it.
        reason = re.sub(r"/\S+:\d+ .*?\) (?=[A-Z])", "", str(error).rpartition(" : ")[2])
        message = f"onnxruntime {library.__version__} says: {_show(reason).rstrip('.')}"
        raise ArtifactUnusable(message) from None
    except MemoryError:
        raise ArtifactUnusable("it needs more memory than there is") from None


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises, which has no class in common."""
    state = import_library("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    others = ("NoModel", "NoSuchFile", "RuntimeException", "EngineError", "EPFail")
    return (*(getattr(state, name) for name in (*names, *others)), *MALFORMED)


def _list_inputs(session: Any, n_names: int) -> list[_Input]:
    """Return the inputs of a model; ``n_names`` is the width of one that does not say its own."""
    found = []
    for one in session.get_inputs():
        name, shape = _show(one.name), one.shape
        if one.type not in _TYPES:
            raise ArtifactUnusable(f"its input {name} is a {one.type}, which is not served")
        if len(shape) not in (1, 2) or (isinstance(shape[0], int) and shape[0] != 1):
            raise ArtifactUnusable(
                f"its input {name} has the shape {shape}: rows of features, and any number of "
                "rows, are served"
            )
        width = shape[1] if len(shape) == 2 else 1
        if not isinstance(width, int):
            if not n_names:
                message = "are needed: the file does not say how many features it takes"
                raise InvalidInput({"feature_names": [message]})
            width = n_names
        found.append(_Input(one.name, one.type, width, len(shape) == 1))
    if not 1 <= sum(one.width for one in found) <= MOST_FEATURES:
        raise ArtifactUnusable("its number of features is out of range")
    return found


def _describe_inputs(file: _File, n_names: int) -> tuple[list[Column], list[str]]:
    """Return the columns, and the names that the inputs of one column each have."""
    inputs = _list_inputs(file.session, n_names)
    gaps = _takes_gaps(file.nodes)
    columns: list[Column] = []
    names: list[str] = []
    for one in inputs:
        dtype, kind = _TYPES[one.type_name]
        missing = kind == "text" or (gaps and dtype in (np.float32, np.float64))
        columns += [Column("", kind, missing=missing)] * one.width
        many = [f"{one.name}.{place}" for place in range(1, one.width + 1)]
        names += [one.name] if one.width == 1 else many
    return columns, names if len(inputs) > 1 else []


def _takes_gaps(nodes: Sequence[Any]) -> bool:
    """Return whether something in a model is made for missing values."""
    return any(
        node.op_type in ("Imputer", "IsNaN")
        or any(a.name == "nodes_missing_value_tracks_true" and any(a.ints) for a in node.attribute)
        for node in nodes
    )


def _find_label(session: Any) -> str | None:
    """Return the name of the output that is a label; None of a regression."""
    labels = [one.name for one in session.get_outputs() if one.type in _LABEL_TYPES]
    return labels[0] if labels else None


def _find_task(session: Any) -> Task:
    """Return what a model is for: skl2onnx gives outlier detectors one score beside the label."""
    if _find_label(session) is None:
        return "regression"
    shapes = [one.shape for one in session.get_outputs() if one.type in _SCORE_TYPES]
    single = [shape for shape in shapes if len(shape) == 2 and shape[1] == 1]
    return "outliers" if single else "classification"


def _prepare(file: _File, signature: Signature) -> LoadedModel:
    session = file.session
    inputs = _list_inputs(session, len(signature.columns))
    label = _find_label(session)
    others = [one for one in session.get_outputs() if one.name != label]
    scores = [one.name for one in others if one.type in _SCORE_TYPES]
    if len(scores) != len(others) or len(scores) > 1 or (label is None and not scores):
        shown = ", ".join(f"{_show(one.name)} ({one.type})" for one in session.get_outputs())
        raise ArtifactUnusable(
            f"its outputs are {shown}: numbers, or a label and its probabilities, are served"
        )
    fixed = any(isinstance(one.shape[0], int) for one in session.get_inputs())
    run = _Runner(
        session, inputs, [*([label] if label else []), *scores], 1 if fixed else BLOCK_ROWS
    )
    if label is None:
        return LoadedModel(session, signature, None, partial(_score_numbers, run))
    if signature.task == "outliers":
        return LoadedModel(session, signature, None, partial(_score_outliers, run))
    texts = np.full((2, len(signature.text_names)), "", dtype=object)
    try:
        tried = run(np.zeros((2, len(signature.inputs))), texts)
    except ValueError:
        raise ArtifactUnusable("it fails for a row of zeros") from None
    classes = _find_classes(file, *tried)
    found = None if len(tried) == 1 else _as_matrix(tried[1], classes)
    likely = found is not None and found.shape == (2, len(classes)) and _are_probabilities(found)
    return LoadedModel(
        session, signature, classes, partial(_score_labels, run, classes, probable=likely)
    )


def _find_classes(file: _File, labels: Any, scores: Any = None) -> tuple[Any, ...]:
    """Return the labels in the order of their scores, from the parts of the file that have them.

    Raises ArtifactUnusable where none has as many as there are scores.
    """
    if isinstance(scores, list):
        classes = tuple(scores[0])
    else:
        found = list(_list_labels(file))
        if scores is not None:
            found = [values for values in found if len(values) == scores.shape[-1]]
            if not found and labels.dtype.kind == "i":
                found = [tuple(range(scores.shape[-1]))]
        if not found:
            raise ArtifactUnusable("it does not say which labels it can predict")
        classes = found[-1]
    if not 2 <= len(classes) <= MOST_CLASSES or any(map(describe_label, classes)):
        raise ArtifactUnusable("its labels are not two or more printable texts or whole numbers")
    return classes


def _list_labels(file: _File) -> Iterator[tuple[Any, ...]]:
    """Yield what the nodes have for labels: in attributes, or in a constant that they look up."""
    numpy_helper = import_library("onnx.numpy_helper")
    for node in file.nodes:
        for attribute in node.attribute:
            if attribute.name in _LABELS and (attribute.ints or attribute.strings):
                texts = (value.decode(errors="replace") for value in attribute.strings)
                yield tuple(attribute.ints) or tuple(texts)
        constant = file.constants.get(node.input[0]) if node.input else None
        if node.op_type in ("ArrayFeatureExtractor", "Gather") and constant is not None:
            yield tuple(numpy_helper.to_array(constant).ravel().tolist())


def _as_matrix(scores: Any, classes: tuple[Any, ...]) -> Matrix:
    """Return scores as float64, (n_rows, n_classes); a ZipMap gives them by label."""
    if isinstance(scores, list):
        scores = [[row[label] for label in classes] for row in scores]
    return np.asarray(scores, dtype=np.float64)


def _are_probabilities(scores: Matrix) -> bool:
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, rtol=0, atol=1e-3))


@dataclass(frozen=True)
class _Runner:
    """Runs a model for rows, some at a time; raises ValueError where onnxruntime fails."""

    session: Any
    inputs: Sequence[_Input]
    outputs: Sequence[str]
    most_rows: int

    def __call__(self, X: Matrix, texts: Texts | None = None) -> list[Any]:
        """Return the outputs: arrays of n_rows, or a list with an object for each row."""
        blocks = []
        for start in range(0, len(X), self.most_rows):
            rows = slice(start, start + self.most_rows)
            feed = self._make_feed(X[rows], None if texts is None else texts[rows], start)
            try:
                blocks.append(self.session.run(self.outputs, feed))
            except _runtime_errors():
                raise ValueError("onnxruntime fails for these rows") from None
        if len(blocks) == 1:
            return list(blocks[0])
        joined = zip(*blocks, strict=True)
        return [
            list(chain.from_iterable(parts))
            if isinstance(parts[0], list)
            else np.concatenate(parts)
            for parts in joined
        ]

    def _make_feed(self, X: Matrix, texts: Texts | None, first_row: int) -> dict[str, Any]:
        feed, number, text = {}, 0, 0
        for one in self.inputs:
            dtype, kind = _TYPES[one.type_name]
            if kind == "text" and texts is not None:
                values = texts[:, text : text + one.width].copy()
                values[values == None] = ""  # noqa: E711 (elementwise)
                text += one.width
            else:
                values = _convert(X[:, number : number + one.width], dtype, first_row)
                number += one.width
            feed[one.name] = values.ravel() if one.flat else values
        return feed


def _convert(X: Matrix, dtype: Any, first_row: int) -> Any:
    """Return numbers in the type of an input; raises InvalidInput, by row, for what is none."""
    kind = np.dtype(dtype).kind
    if kind == "i":
        limit = float(np.iinfo(dtype).min)
        whole = (np.floor(X) == X) & (limit <= X) & (-limit > X)
        if not whole.all():
            row = int(np.argmin(whole.all(axis=1))) + first_row
            raise InvalidInput(
                {str(row): [f"has a value that is no whole number of {dtype.__name__}"]}
            )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(X, dtype=dtype)
    if kind == "f" and np.isinf(values).any():
        raise ValueError("values are beyond float32")
    return values


def _score_numbers(run: _Runner, X: Matrix, texts: Texts | None = None) -> Scores:
    (values,) = run(X, texts)
    values = values.astype(np.float64)
    return Scores(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values)


def _score_outliers(run: _Runner, X: Matrix, texts: Texts | None = None) -> Scores:
    labels, scores = run(X, texts)
    decision = np.reshape(scores, len(X)).astype(np.float64)
    return Scores(np.reshape(labels, len(X)), are_labels=True, decision=decision)


def _score_labels(
    run: _Runner,
    classes: tuple[Any, ...],
    X: Matrix,
    texts: Texts | None = None,
    *,
    probable: bool,
) -> Scores:
    labels, *scores = run(X, texts)
    probabilities = _as_matrix(scores[0], classes) if probable else None
    return Scores(np.reshape(labels, len(X)), probabilities, are_labels=True)
