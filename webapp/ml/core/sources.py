"""Tables in many files below one root, a folder or an object store: found, and read one by one.

The root is the operator's, and so are its credentials; a pattern, the client's, leads nowhere
else. Object stores need fsspec and a package for each, which are imported when they are asked for.
"""

from __future__ import annotations

import importlib
import math
import os
import secrets
import shutil
import tempfile
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

from webapp.errors import Faults, InvalidInput, faults_in
from webapp.ml.core.kinds import find_kind
from webapp.ml.core.tables import FORMATS, format_of_suffix
from webapp.ml.core.tables.reading import leave_text, open_table, parse_errors
from webapp.ml.core.tables.shapes import (
    Columns,
    CsvDialect,
    Format,
    Source,
    Table,
    kind_of,
    list_names,
)

MOST_PARTS = 10_000
LONGEST_PATTERN = 255  # as long as what a version says of its source
MAGIC = "*?["
HIDDEN = (".", "_")  # as pyarrow.dataset and Spark have it: _SUCCESS, ._part.crc
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
IN_FLIGHT = 64  # parts that an executor is given at once
FLOAT = 8  # bytes
GONE = (
    "is not there any more, or was never there for the worker that reads it: workers of a cluster "
    "need the same files at the same path"
)
SPLIT_BYTES = 2**27  # of a Parquet file, for a process: some seconds of work

T = TypeVar("T")
Report: TypeAlias = Callable[[int, int], object]
"""Is told how many parts are done, and of how many."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine; ``root`` is its real path. Names below it are POSIX paths."""

    root: str

    def find(self, pattern: Sequence[str]) -> list[tuple[str, int]]:
        """Return names and sizes of the files that a pattern matches, or of a folder's files.

        Raises InvalidInput where a link on the way leads out of the root.
        """
        found = set(self._match(self.root, pattern))
        return [
            (os.path.relpath(path, self.root).replace(os.sep, "/"), os.path.getsize(path))
            for path in found
        ]

    def _match(self, folder: str, pattern: Sequence[str]) -> Iterator[str]:
        # Not by glob: it follows a link out of the root before anything could be checked.
        head, *rest = pattern
        if head == "**":
            yield from self._match(folder, rest or ["*"])
        with os.scandir(folder) as opened:
            entries = list(opened)
        for entry in entries:
            if entry.name.startswith(HIDDEN) and not head.startswith(HIDDEN):
                continue
            if head == "**":
                if entry.is_dir(follow_symlinks=False):
                    yield from self._match(entry.path, pattern)
            elif fnmatchcase(entry.name, head):
                self._check(entry.path)
                if entry.is_file() and not rest:
                    yield entry.path
                elif entry.is_dir() and (rest or not has_magic(head)):
                    yield from self._match(entry.path, rest or ["*"])

    def open(self, name: str) -> BinaryIO:
        """Open a file to read."""
        path = os.path.join(self.root, name)
        self._check(path)
        return open(path, "rb")

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return os.path.lexists(os.path.join(self.root, name))

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """Write a file, which is there when the block ends without an error."""
        path = os.path.join(self.root, name)
        folder = os.path.dirname(path)
        self._check(folder)
        os.makedirs(folder, exist_ok=True)
        unfinished = os.path.join(folder, f".{secrets.token_hex(8)}")
        try:
            with open(unfinished, "xb") as file:
                yield file
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise

    def _check(self, path: str) -> None:
        """Raise InvalidInput where the real path is not below the root."""
        if os.path.commonpath([self.root, os.path.realpath(path)]) != self.root:
            name = os.path.relpath(path, self.root)
            raise InvalidInput([f"{name!r} is a link that leads out of the data folder"])


@dataclass(frozen=True)
class ObjectStore:
    """What lies below a URL such as s3://bucket/folder, by fsspec."""

    root: str

    def _connect(self) -> tuple[Any, str]:
        """Return fsspec's file system, and the path of the root in it; raises InvalidInput."""
        protocol = self.root.partition("://")[0]
        try:
            fsspec = importlib.import_module("fsspec")
            system, path = fsspec.core.url_to_fs(self.root)
        except ImportError:
            needed = " and ".join(["fsspec", *filter(None, [PACKAGES.get(protocol)])])
            message = f"lies at {protocol}://, for which an operator must install {needed}"
            raise InvalidInput([message]) from None
        return system, path.rstrip("/")

    def find(self, pattern: Sequence[str]) -> list[tuple[str, int]]:
        """Return names and sizes of the files that a pattern matches, or of a folder's files."""
        system, root = self._connect()
        system.invalidate_cache()
        path = "/".join([root, *pattern])
        if not has_magic(pattern[-1]) and system.isdir(path):
            path += "/*"
        found = system.glob(path, detail=True).values()
        names = [(info["name"].removeprefix(f"{root}/"), info) for info in found]
        return [
            (name, int(info["size"]))
            for name, info in names
            if info["type"] == "file" and not name.rpartition("/")[2].startswith(HIDDEN)
        ]

    def open(self, name: str) -> BinaryIO:
        """Open a file to read."""
        system, root = self._connect()
        return cast(BinaryIO, system.open(f"{root}/{name}", "rb"))

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        system, root = self._connect()
        return bool(system.exists(f"{root}/{name}"))

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """Write a file, which is there when the block ends without an error."""
        system, root = self._connect()
        with tempfile.TemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            with system.open(f"{root}/{name}", "wb") as stored:
                shutil.copyfileobj(file, stored)


Store: TypeAlias = LocalFolder | ObjectStore


def open_store(root: str) -> Store:
    """Return what lies at a root: a URL with "://", or a path of this machine."""
    root = root.removeprefix("file://")  # fsspec would follow links out of it
    return ObjectStore(root) if "://" in root else LocalFolder(os.path.realpath(root))


@dataclass(frozen=True)
class Part:
    """A file of a source, or some row groups of Parquet; it can be sent to another process.

    ``first_row``: how many rows of the file come before.
    """

    store: Store
    name: str
    size: int
    dialect: CsvDialect
    groups: tuple[int, int] | None = None
    first_row: int = 0

    @property
    def format(self) -> Format:
        """Return the format that its suffix stands for."""
        return format_of_suffix(self.name) or FORMATS["csv"]

    @contextmanager
    def open(self) -> Iterator[Source]:
        """Open it as a table; what cannot be read is an InvalidInput by the name of the file."""
        with faults_in(self.name):
            with _errors_of_files():
                try:
                    file = self.store.open(self.name)
                except FileNotFoundError:
                    raise InvalidInput([GONE]) from None
            with file:
                yield Source(file, self.format, self.dialect, name=self.name, groups=self.groups)

    def split(self) -> list[Part]:
        """Return a Parquet file as parts of whole row groups, each of about 128 MB."""
        n_parts = math.ceil(self.size / SPLIT_BYTES)
        if self.format.name != "parquet" or n_parts < 2:
            return [self]
        with self.open() as source, parse_errors(source.format):
            metadata = read_parquet_metadata(source)
        n_groups = metadata.num_row_groups
        rows = [metadata.row_group(number).num_rows for number in range(n_groups)]
        n_parts = max(1, min(n_parts, n_groups))
        cuts = [n_groups * number // n_parts for number in range(n_parts + 1)]
        return [
            replace(
                self, size=self.size // n_parts, groups=(start, end), first_row=sum(rows[:start])
            )
            for start, end in pairwise(cuts)
        ]


@dataclass(frozen=True)
class Head:
    """What the first rows of the largest part tell of a source.

    ``kinds`` is by column, None where a model could learn nothing from it; ``gaps`` are columns
    with missing values. ``n_rows`` is of all parts, estimated by their sizes.
    """

    kinds: dict[str, str | None]
    gaps: frozenset[str]
    n_rows: int

    @property
    def n_bytes(self) -> int:
        """Return how much memory all values would take as float64."""
        return FLOAT * self.n_rows * len(self.kinds)


@dataclass(frozen=True)
class DataSource:
    """Files with the same columns; ``base`` is the folder below which their pattern varies."""

    store: Store
    base: str
    parts: tuple[Part, ...]

    @property
    def n_bytes(self) -> int:
        """Return the size of all files."""
        return sum(part.size for part in self.parts)

    def read_head(self, wanted: Collection[str] = ()) -> Head:
        """Read the names in the first part, and first rows of the largest that has any.

        Columns that pandas calls an index are left out unless they are ``wanted``. Raises
        InvalidInput.
        """
        with faults_in("source"):
            with self._open_table(self.parts[0], wanted) as (_, table):
                names = table.schema.names
            for part in sorted(self.parts, key=lambda part: part.size, reverse=True):
                with self._open_table(part, wanted) as (source, table):
                    check_columns(table.schema.names, names)
                    rows = next((batch for batch in table.batches if len(batch)), None)
                    if rows is not None:
                        n_rows = _count_rows(source, rows, part.size)
                        break
            else:
                raise InvalidInput(["has no rows"])
            found = Columns(rows, table.untyped, source.dialect.decimal)
            read_kinds = {name: find_kind(rows[name], found) for name in names}
        return Head(
            kinds={name: kind for name, (_, kind) in read_kinds.items()},
            gaps=frozenset(name for name, (values, _) in read_kinds.items() if values.null_count),
            n_rows=round(n_rows * self.n_bytes / part.size),
        )

    def split(self) -> list[Part]:
        """Return parts of files, so that several processes can read a large one."""
        with faults_in("source"):
            return [piece for part in self.parts for piece in part.split()]

    @contextmanager
    def _open_table(self, part: Part, wanted: Collection[str]) -> Iterator[tuple[Source, Table]]:
        with part.open() as source, parse_errors(source.format):
            yield source, open_table(source, set(wanted), leave_text)

    def read_all(self, wanted: Collection[str] = ()) -> tuple[Columns, list[int]]:
        """Return the columns of all parts, in memory, and how many rows each part has.

        Raises InvalidInput.
        """
        import pyarrow as pa

        found: list[Columns] = []
        with faults_in("source"):
            for part in self.parts:
                with self._open_table(part, wanted) as (source, table):
                    names = table.schema.names
                    check_columns(names, found[0].rows.column_names if found else names)
                    rows = pa.Table.from_batches(list(table.batches), table.schema)
                found.append(Columns(rows, table.untyped, source.dialect.decimal, table.warnings))
            first = found[0]
            tables = [columns.rows.select(first.rows.column_names) for columns in found]
            try:
                rows = _join(tables)
            except pa.ArrowException:
                raise InvalidInput(self._find_unlike(tables)) from None
        return replace(first, rows=rows), list(map(len, tables))

    def _find_unlike(self, tables: Sequence[Any]) -> Faults:
        """Return what to say of columns that cannot be joined, by the first file that is unlike.

        Types may differ, or one type for all does not take a value.
        """
        import pyarrow as pa

        def is_unlike(n_tables: int) -> bool:
            try:
                _join(columns[:n_tables])
            except pa.ArrowException:
                return True
            return False

        faults = dict[str, Any]()
        for name in tables[0].column_names:
            columns = [table.select([name]) for table in tables]
            number = bisect_left(range(1, len(tables) + 1), True, key=is_unlike)
            if number < len(tables):
                kind = kind_of(columns[number].schema.field(name).type)
                message = f"has {kind} values that do not go with those of the files before"
                by_column = faults.setdefault(self.parts[number].name, {})
                by_column[name] = [f"{message}: write one type in all files"]
        return faults


def _join(tables: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive")


def _is_by_row(faults: Faults) -> bool:
    return isinstance(faults, Mapping) and all(map(str.isdecimal, faults))


@contextmanager
def faults_by_part(parts: Sequence[Part], n_rows: Sequence[int]) -> Iterator[None]:
    """Put the faults of an InvalidInput by column and row under the name of the row's file.

    The parts are whole files of so many rows, which are numbered through.
    """
    try:
        yield
    except InvalidInput as error:
        faults: Any = error.faults
    else:
        return
    if isinstance(faults, Mapping) and all(map(_is_by_row, faults.values())):
        ends, by_part = list(accumulate(n_rows)), dict[str, Any]()
        for column, rows in faults.items():
            for row, fault in rows.items():
                place = bisect_right(ends, int(row))
                number = str(int(row) - ends[place] + n_rows[place])
                by_part.setdefault(parts[place].name, {}).setdefault(column, {})[number] = fault
        faults = by_part
    raise InvalidInput(faults)


def open_source(root: str, pattern: str, *, dialect: CsvDialect | None = None) -> DataSource:
    """Return the files below a root that a pattern such as "sales/2026/*.parquet" matches.

    The pattern is relative: a file, a folder, whose tables are meant, or with ``*``, ``?``,
    ``[…]`` and ``**``. All are sorted by name, and of one format. Raises InvalidInput.
    """
    with faults_in("source"):
        pieces = split_path(pattern)
        store = open_store(root)
        with _errors_of_files():
            found = sorted(store.find(pieces))
        parts = tuple(
            Part(store, *row, dialect or CsvDialect()) for row in found if format_of_suffix(row[0])
        )
        if not parts:
            suffixes = ", ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
            raise InvalidInput([f"{pattern!r} matches no file that ends with {suffixes}"])
        if len(parts) > MOST_PARTS:
            raise InvalidInput([f"{pattern!r} matches more than {MOST_PARTS} files"])
        if len(formats := {part.format.name for part in parts}) > 1:
            message = f"{pattern!r} matches files of different formats: "
            raise InvalidInput([message + ", ".join(sorted(formats))])
    fixed: list[str] = []
    for piece in pieces[:-1]:
        if has_magic(piece):
            break
        fixed.append(piece)
    if len(fixed) == len(pieces) - 1 and all(part.name != pattern for part in parts):
        fixed += [] if has_magic(pieces[-1]) else pieces[-1:]  # the folder that it names
    return DataSource(store, "/".join(fixed), parts)


def split_path(path: str) -> list[str]:
    """Return the pieces of a relative POSIX path; raises InvalidInput for any other."""
    pieces = path.split("/")
    if len(path) > LONGEST_PATTERN or not path.isprintable():
        raise InvalidInput([f"must be at most {LONGEST_PATTERN} printable characters"])
    if "\\" in path or ":" in pieces[0] or not all(pieces) or {".", ".."}.intersection(pieces):
        message = "must be a path below the data folder, such as sales/2026/*.parquet"
        raise InvalidInput([f"{message}: without .., a drive or a leading /"])
    return pieces


def has_magic(piece: str) -> bool:
    """Return whether a piece of a path stands for several names."""
    return any(sign in piece for sign in MAGIC)


def check_columns(given: Sequence[str], expected: Sequence[str]) -> None:
    """Raise InvalidInput where a part has other columns than the others have."""
    missing = [name for name in expected if name not in given]
    further = [name for name in given if name not in expected]
    words = [f"has no column {list_names(missing)}"] if missing else []
    words += [f"also has the columns {list_names(further)}"] if further else []
    if words:
        raise InvalidInput([f"{' and '.join(words)}, unlike the other files"])


def map_parts(
    function: Callable[[Part], T],
    parts: Sequence[Part],
    *,
    executor: Executor | None = None,
    report: Report | None = None,
) -> Iterator[T]:
    """Yield what a function gives for each part, in their order; here, without an executor.

    The executor may be one of threads or of processes, or Dask's (``client.get_executor()``);
    the function must be picklable for the latter two. ``Unfit`` is raised as InvalidInput.
    """
    pending: deque[Future[T | Unfit]] = deque()
    left = iter(parts)
    call = partial(call_part, function)
    try:
        for done in range(1, len(parts) + 1):
            if executor is None:
                found = call(next(left))
            else:
                while len(pending) < IN_FLIGHT and (part := next(left, None)) is not None:
                    pending.append(executor.submit(call, part))
                found = pending.popleft().result()
            if isinstance(found, Unfit):
                raise InvalidInput({"source": found.faults})
            if report is not None:
                report(done, len(parts))
            yield found
    finally:
        for future in pending:
            future.cancel()


@dataclass(frozen=True)
class Unfit:
    """The faults of an InvalidInput, which cannot be sent to another process as it is."""

    faults: Faults


def call_part(function: Callable[[Part], T], part: Part) -> T | Unfit:
    """Return what a function gives for a part; Unfit where it raises InvalidInput."""
    try:
        return function(part)
    except InvalidInput as error:
        return Unfit(error.faults)


@contextmanager
def _errors_of_files() -> Iterator[None]:
    """Turn what the operating system, or an object store, says of a file into InvalidInput."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInput([f"cannot be read: {reason}"]) from None


def _count_rows(source: Source, first: Any, size: int) -> float:
    """Return how many rows a file of so many bytes has, whose first batch has been read."""
    if source.format.name == "parquet":
        return int(read_parquet_metadata(source).num_rows)
    read = source.file.tell() if source.format.name == "csv" else first.nbytes
    return float(len(first) * size / max(1, min(read, size)))


def read_parquet_metadata(source: Source) -> Any:
    """Return pyarrow's metadata of a Parquet file."""
    from pyarrow import parquet

    source.file.seek(0)
    return parquet.read_metadata(source.file)
