"""Sources: which files a pattern means, what leads out, and what their first rows tell."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.tables import WRITERS
from webapp.errors import Faults, InvalidInput
from webapp.ml.core.sources import DataSource, Part, map_parts, open_source
from webapp.ml.core.tables.shapes import CsvDialect

TABLE = pa.table({"x": [1.0, 2.5, 3.0], "y": [2.0, 4.0, 6.0]})


def write(root: Path, *names: str, table: pa.Table = TABLE) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WRITERS[path.suffix[1:]](table))


def names_of(root: Path, pattern: str) -> list[str]:
    return [part.name for part in open_source(str(root), pattern).parts]


def faults_of(root: Path | str, pattern: str) -> Faults:
    with pytest.raises(InvalidInput) as raised:
        open_source(str(root), pattern)
    return raised.value.faults


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write(root, "sales/2026/b.csv", "sales/2026/a.csv", "sales/2025/a.csv", "sales/2026/q/c.csv")
    write(root, "sales/2026/_temporary.csv", "sales/2026/.hidden.csv", "mixed/a.csv")
    write(root, "mixed/b.parquet", "mixed/c.arrow")
    (root / "sales/2026/README.md").write_text("Sales.")
    return root


@pytest.mark.parametrize(
    ("pattern", "base", "found"),
    [
        ("sales/2026/a.csv", "sales/2026", ["sales/2026/a.csv"]),
        ("sales/2026", "sales/2026", ["sales/2026/a.csv", "sales/2026/b.csv"]),
        ("sales/2026/*", "sales/2026", ["sales/2026/a.csv", "sales/2026/b.csv"]),
        ("sales/*/a.csv", "sales", ["sales/2025/a.csv", "sales/2026/a.csv"]),
        ("sales/202[67]/?.csv", "sales", ["sales/2026/a.csv", "sales/2026/b.csv"]),
        ("**/a.csv", "", ["mixed/a.csv", "sales/2025/a.csv", "sales/2026/a.csv"]),
        ("sales/2026/**", "sales/2026", [f"sales/2026/{n}.csv" for n in ("a", "b", "q/c")]),
        ("sales/2026/_*.csv", "sales/2026", ["sales/2026/_temporary.csv"]),
    ],
)
def test_a_pattern_means_files_sorted_by_name(
    root: Path, pattern: str, base: str, found: list[str]
) -> None:
    source = open_source(str(root), pattern)

    assert [part.name for part in source.parts] == found
    assert source.base == base
    assert source.n_bytes == sum((root / name).stat().st_size for name in found)


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "/etc/passwd", "../x.csv", "sales/../../x.csv", "./a.csv", "a//b.csv", "C:/a.csv"),
        *("s3://bucket/a.csv", "..\\x.csv", "sales/", "a\0.csv", "a" * 1001),
    ],
)
def test_a_pattern_that_is_not_below_the_root_is_refused(root: Path, pattern: str) -> None:
    assert "must be" in str(faults_of(root, pattern))


@pytest.mark.parametrize("pattern", ["*.csv", "out/*.csv", "linked", "**/*.csv", "b.csv"])
def test_a_link_out_of_the_root_is_refused(tmp_path: Path, pattern: str) -> None:
    inside = tmp_path / "inside"
    write(tmp_path, "outside/a.csv", "inside/a.csv", "inside/c/d.csv")
    (inside / "b.csv").symlink_to(tmp_path / "outside" / "a.csv")
    (inside / "linked").symlink_to(tmp_path / "outside")
    (inside / "out").symlink_to("../outside")

    assert "leads out of the data folder" in str(faults_of(inside, pattern))


def test_links_that_stay_below_the_root_are_followed(tmp_path: Path) -> None:
    write(tmp_path, "real/a.csv")
    (tmp_path / "latest").symlink_to("real")
    (tmp_path / "root").symlink_to(tmp_path)

    assert names_of(tmp_path, "latest/*.csv") == ["latest/a.csv"]
    assert names_of(tmp_path / "root", "real") == ["real/a.csv"]


def test_a_file_that_became_a_link_out_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "outside.csv", "inside/a.csv")
    source = open_source(str(tmp_path / "inside"), "a.csv")
    (tmp_path / "inside" / "a.csv").unlink()
    (tmp_path / "inside" / "a.csv").symlink_to(tmp_path / "outside.csv")

    with pytest.raises(InvalidInput, match="leads out"):
        source.read_head()


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("none/*.csv", "matches no file"),
        ("sales/2026/*.md", "matches no file that ends with .csv, .parquet"),
        ("mixed", "matches files of different formats: arrow, csv, parquet"),
    ],
)
def test_what_is_found_must_be_tables_of_one_format(root: Path, pattern: str, fault: str) -> None:
    assert fault in str(faults_of(root, pattern))


def test_a_root_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "none", "*.csv") == {
        "source": ["cannot be read: No such file or directory"]
    }


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_first_rows_tell_kinds_gaps_and_how_many_there_are(
    tmp_path: Path, suffix: str
) -> None:
    table = pa.table(
        {"x": [1.5, None, 3.0] * 100, "island": ["Biscoe", "Dream", "Dream"] * 100, "y": [1] * 300}
    )
    write(tmp_path, f"a.{suffix}", f"b.{suffix}", table=table)

    head = open_source(str(tmp_path), f"*.{suffix}").read_head()

    assert head.kinds == {"x": "number", "island": "category", "y": "number"}
    assert head.gaps == {"x"}
    # Of an Arrow file in batches, a first batch does not tell how long the file is.
    assert head.n_rows == pytest.approx(600, rel=1.0 if suffix == "arrow" else 0)
    assert head.n_bytes == 8 * 3 * head.n_rows


@pytest.mark.parametrize("suffix", WRITERS)
def test_all_parts_are_read_as_one_table(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, f"a.{suffix}")
    swapped = pa.table({"y": [8], "x": [4.0]})  # whole numbers beside the others' decimals
    write(tmp_path, f"b.{suffix}", table=swapped)

    found, n_rows = open_source(str(tmp_path), f"*.{suffix}").read_all()

    assert n_rows == [3, 1]
    assert found.rows.column_names == ["x", "y"]
    assert [float(value) for value in found.rows["x"].to_pylist()] == [1.0, 2.5, 3.0, 4.0]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (pa.array([1.5]), pa.array(["1"]), "string"),
        (pa.array([1.5]), pa.array([2**60 + 1]), "integer"),
        (pa.array([2**63], pa.uint64()), pa.array([1]), "integer"),
        (pa.array([10**15], pa.timestamp("s")), pa.array([1], pa.timestamp("ns")), "date or time"),
    ],
    ids=["text", "floating", "unsigned", "timestamp"],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_column_that_is_unlike_that_of_other_files_is_told_by_file(
    tmp_path: Path, suffix: str, first: pa.Array, second: pa.Array, kind: str
) -> None:
    for name, values in {"a": first, "b": first, "c": second, "d": second}.items():
        write(tmp_path, f"{name}.{suffix}", table=pa.table({"x": values, "y": [1]}))

    with pytest.raises(InvalidInput) as refused:
        open_source(str(tmp_path), f"*.{suffix}").read_all()

    message = f"has {kind} values that do not go with those of the files before"
    fault = [f"{message}: write one type in all files"]
    assert refused.value.faults == {"source": {f"c.{suffix}": {"x": fault}}}


def test_the_dialect_of_csv_is_the_callers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x;y\n1,5;2\n2,5;4\n")

    head = open_source(str(tmp_path), "a.csv", dialect=CsvDialect(";", ",")).read_head()

    assert head.kinds == {"x": "number", "y": "number"}


@pytest.mark.parametrize("workers", [None, 2])
def test_parts_are_mapped_in_order_and_progress_is_told(root: Path, workers: int | None) -> None:
    parts = open_source(str(root), "**/*.csv").parts
    told: list[tuple[int, int]] = []
    executor = None if workers is None else ThreadPoolExecutor(workers)

    found = list(
        map_parts(
            lambda part: part.name,
            parts,
            executor=executor,
            report=lambda *done: told.append(done),
        )
    )

    assert found == sorted(part.name for part in parts)
    assert told == [(n, len(parts)) for n in range(1, len(parts) + 1)]


def test_an_executor_is_given_a_bounded_number_of_parts(root: Path) -> None:
    (part,) = open_source(str(root), "sales/2026/a.csv").parts
    given: list[Part] = []

    executor = ThreadPoolExecutor(1)
    submit = executor.submit
    executor.submit = lambda call, part: given.append(part) or submit(call, part)  # type: ignore[method-assign]

    found = map_parts(lambda part: part.name, [part] * 1000, executor=executor)
    assert next(found) == part.name
    found.close()

    assert 0 < len(given) < 100


def open_bucket(folder: Path) -> Any:
    """Return what the code asks of fsspec's file systems, on a folder."""

    def describe(path: Path) -> dict[str, object]:
        kind = "file" if path.is_file() else "directory"
        name, size = str(path.relative_to(folder)), path.stat().st_size
        return {"name": name, "size": size, "type": kind}

    return SimpleNamespace(
        invalidate_cache=lambda: None,
        isdir=lambda path: (folder / path).is_dir(),
        glob=lambda path, detail: {str(f): describe(f) for f in folder.glob(path)},
        open=lambda path, mode: (folder / path).open(mode),
        exists=lambda path: (folder / path).exists(),
        makedirs=lambda path, exist_ok: (folder / path).mkdir(parents=True, exist_ok=exist_ok),
    )


def test_an_object_store_is_read_through_fsspec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "bucket/data/sales/a.csv", "bucket/data/sales/_b.csv", "bucket/other/c.csv")
    fsspec = ModuleType("fsspec")
    fsspec.core = SimpleNamespace(  # type: ignore[attr-defined]
        url_to_fs=lambda url: (open_bucket(tmp_path), url.removeprefix("s3://"))
    )
    monkeypatch.setitem(sys.modules, "fsspec", fsspec)

    for pattern in ("sales", "sales/*.csv", "**/*.csv"):
        source: DataSource = open_source("s3://bucket/data/", pattern)
        assert [part.name for part in source.parts] == ["sales/a.csv"]
        assert source.read_head().n_rows == 3
    with source.store.write("out/a.csv") as file:
        file.write(b"x")
    assert source.store.has("out/a.csv")
    assert (tmp_path / "bucket/data/out/a.csv").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("url", "needed"), [("s3://b", "fsspec and s3fs"), ("gs://b/data", "fsspec and gcsfs")]
)
def test_an_object_store_whose_package_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, url: str, needed: str
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)

    assert f"an operator must install {needed}" in str(faults_of(url, "sales/*.csv"))
