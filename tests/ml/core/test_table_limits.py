"""Limits on the size of a table, kept before its values are made."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from tests.tables import WRITERS, to_arrow, to_parquet
from webapp.errors import InvalidInput
from webapp.ml.core.tables import FORMATS, Limits, read_dataset, read_features


def table_of(n_rows: int, *names: str) -> pa.Table:
    return pa.table({name: np.ones(n_rows) for name in names})


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_table_of_more_cells_than_allowed_is_refused_with_its_size(name: str, task: str) -> None:
    data = WRITERS[name](table_of(100, "a", "b", "y"))

    def train(cells: int) -> int:
        limits = Limits(rows=1000, columns=10, cells=cells)
        dataset = read_dataset(data, format=FORMATS[name], target="y", task=task, limits=limits)
        return len(dataset.y)

    assert train(300) == 100
    with pytest.raises(InvalidInput, match="has 100 rows of 3 values, more than 299 values"):
        train(299)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_to_predict_for_are_held_to_the_cells_too(name: str) -> None:
    data = WRITERS[name](table_of(100, "a", "b"))

    def read(cells: int) -> int:
        limits = Limits(rows=1000, columns=1, cells=cells)
        return len(read_features(data, format=FORMATS[name], names=["b", "a"], limits=limits).X)

    assert read(200) == 100
    with pytest.raises(InvalidInput, match="has 100 rows of 2 values, more than 199 values"):
        read(199)


@pytest.mark.parametrize(
    ("name", "write"),
    [("parquet", to_parquet), ("arrow", partial(to_arrow, compression="zstd", chunk=400_000))],
)
def test_few_bytes_of_many_equal_values_are_refused_before_the_values_are_made(
    name: str, write: Callable[[pa.Table], bytes]
) -> None:
    names = [f"x{number}" for number in range(10)]
    data = write(table_of(400_000, *names, "y"))
    limits = Limits(rows=400_000, columns=10, cells=4_000_000)
    usual = pa.default_memory_pool()  # once another is set, it is that one
    arrow = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(arrow)
    tracemalloc.start()

    with pytest.raises(InvalidInput, match="more than 4000000 values"):
        read_dataset(data, format=FORMATS[name], target="y", task="regression", limits=limits)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pa.set_memory_pool(usual)
    assert len(data) < 100_000
    assert peak + arrow.max_memory() < 4_000_000  # the table's numbers take 35 MB
