"""What each feature adds to the sum of decision trees: path-dependent Shapley values.

They are those of TreeSHAP (Lundberg et al., Nature Machine Intelligence 2020): what a row lacks is
averaged over the training rows that went each way. A leaf of value v whose path asks d features
adds to feature i

    v · (oᵢ − zᵢ) · ∫₀¹ ∏_{j≠i} (s·oⱼ + (1 − s)·zⱼ) ds

where oᵢ says whether the row meets all that the path asks of i, and zᵢ is the share of the rows
that did, at those nodes. The integrand is a polynomial of degree d − 1: Gauss-Legendre with d/2
points is exact. So leaves are summed by whole arrays, and no row walks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from webapp.ml.core.datasets import Matrix, Vector

N_CODES = 256  # of categories, as histogram boosting has them
CELLS_AT_ONCE = 2**18  # edges of paths times the values of a leaf: tables of 15 MB
CELLS_KEPT = 2**19  # of a model: larger ones make their tables for each request
BLOCK_CELLS = 2**16  # rows times what paths ask: half a megabyte stays in the cache
SECONDS_BY_ENTRY = 1.2e-7  # of a table, to make it
SECONDS_BY_CELL = 5e-10  # of an array, each time that it is computed with


class CoverTree(NamedTuple):
    """One tree, a value per node, and how many training rows reached each node (its cover).

    left, right, feature, threshold: (n_nodes,), not read at a leaf, of the question ``x[feature]
    <= threshold`` whose yes leads left; missing_left: (n_nodes,); cover: (n_nodes,);
    values: (n_nodes, n_values), which ``weight`` times are added to the functions from
    ``function`` on. Node 0 is the root.
    Where a feature is of categories, ``set_of`` is the place of a node's set in ``sets``, -1 of
    another node; sets: (n_sets, 32), a bit for each code that leads left.
    """

    left: Any
    right: Any
    feature: Any
    threshold: Any
    missing_left: Any
    is_leaf: Any
    cover: Any
    values: Matrix
    weight: float = 1.0
    function: int = 0
    set_of: Any = None
    sets: Any = None


class _Nodes(NamedTuple):
    """The nodes of some trees in common arrays, (n_nodes,), and what leads to each from above it.

    That is, of a ``feature``: x in (low, high], or missing; ``share`` is that of its parent's
    rows. ``set_of`` is the place of a set in ``sets``, which leads there: (n_sets, 32), a bit for
    each code; -1 of other nodes. ``parent`` is -1 of a root.
    """

    parent: NDArray[np.intp]
    is_leaf: NDArray[np.bool_]
    feature: NDArray[np.intp]
    low: Vector
    high: Vector
    missing: NDArray[np.bool_]
    share: Vector
    set_of: NDArray[np.intp]
    sets: NDArray[np.uint8]


@dataclass(frozen=True)
class _Paths:
    """Leaves whose paths ask the same number of features, d.

    features, low, high, missing, shares: (d, n_leaves), of x in (low, high], or missing.
    coded: places among d · n_leaves of what asks for categories; sets: (n_coded, 32), their bits.
    spread: (n_columns · n_functions, d · n_leaves), the leaves' values where they are added.
    """

    features: NDArray[np.intp]
    low: Matrix
    high: Matrix
    missing: NDArray[np.bool_]
    shares: Matrix
    coded: NDArray[np.intp]
    sets: NDArray[np.uint8]
    spread: Any

    def add(self, Z: Matrix) -> Matrix:
        """Return what rows get from these leaves: (n_rows, n_columns · n_functions)."""
        step = max(1, BLOCK_CELLS // self.shares.size)
        blocks = [self._add(Z[start : start + step]) for start in range(0, len(Z), step)]
        return np.concatenate(blocks)

    def _add(self, Z: Matrix) -> Matrix:
        x = Z[:, self.features]  # (n_rows, d, n_leaves)
        met = (x > self.low) & (x <= self.high)
        absent = np.isnan(x)
        if absent.any():
            met |= absent & self.missing
        if len(self.coded):
            values = x.reshape(len(x), -1)[:, self.coded]
            known = (values >= 0) & (values < N_CODES)  # others count as missing
            codes: NDArray[np.intp] = np.where(known, values, 0).astype(np.intp)
            bits = self.sets[np.arange(len(self.coded)), codes >> 3] >> (codes & 7) & 1
            allowed = np.where(known, bits == 1, self.missing.ravel()[self.coded])
            met.reshape(len(x), -1)[:, self.coded] = allowed
        ones = met.astype(np.float64)
        sums = np.zeros_like(ones)
        for point, weight in zip(*_find_points(len(self.shares)), strict=True):
            factors = ones * point
            factors += (1 - point) * self.shares
            product = factors.prod(axis=1, keepdims=True)
            sums += weight * product / factors
        ones -= self.shares
        sums *= ones
        found: Matrix = (self.spread @ sums.reshape(len(x), -1).T).T
        return found


class TreeShap:
    """Shapley values of the sum of trees, by column: several features may belong to one.

    owners: (n_features,), the column of each; ``start``: (n_functions,), which the trees are added
    to. Raises ValueError where the trees do not say how many rows reached their nodes.
    """

    def __init__(
        self,
        trees: Sequence[CoverTree],
        *,
        owners: NDArray[np.intp],
        n_columns: int,
        start: Vector,
    ) -> None:
        self.trees, self.owners = trees, owners
        self.n_columns, self.start = n_columns, start
        self._sizes, cells = zip(*(_measure(tree, len(owners)) for tree in trees), strict=True)
        self.seconds_by_row = SECONDS_BY_CELL * sum(cells)
        self.kept = sum(self._sizes) <= CELLS_KEPT
        self.seconds = 0.0 if self.kept else SECONDS_BY_ENTRY * sum(self._sizes)

    def explain(self, Z: Matrix) -> tuple[Vector, Any]:
        """Return the base, (n_functions,), and what each column adds to it for each row.

        Z: (n_rows, n_features). The latter is (n_rows, n_columns, n_functions).
        """
        n_functions = len(self.start)
        base = self.start.copy()
        sums = np.zeros((len(Z), self.n_columns * n_functions))
        for of_paths, paths in self._kept if self.kept else self._make_tables():
            base += of_paths
            if paths is not None:
                sums += paths.add(Z)
        return base, sums.reshape(len(Z), self.n_columns, n_functions)

    @cached_property
    def _kept(self) -> list[tuple[Vector, _Paths | None]]:
        return list(self._make_tables())

    def _make_tables(self) -> Iterator[tuple[Vector, _Paths | None]]:
        """Yield some paths at a time, and what their leaves add to the base."""
        chunk: list[CoverTree] = []
        done = 0
        for tree, size in zip(self.trees, self._sizes, strict=True):
            if chunk and done + size > CELLS_AT_ONCE:
                yield from self._tabulate(chunk, done)
                chunk, done = [], 0
            chunk.append(tree)
            done += size
        yield from self._tabulate(chunk, done)

    def _tabulate(
        self, trees: Sequence[CoverTree], size: int
    ) -> Iterator[tuple[Vector, _Paths | None]]:
        """Yield the paths of trees, whose tables have ``size`` cells, by some leaves at a time."""
        nodes = _join(trees)
        leaves = np.flatnonzero(nodes.is_leaf)
        values = np.concatenate(
            [tree.weight * tree.values[np.asarray(tree.is_leaf, dtype=bool)] for tree in trees]
        )
        n_nodes = [len(tree.is_leaf) for tree in trees]
        first = np.repeat([tree.function for tree in trees], n_nodes)[leaves]
        functions = first[:, np.newaxis] + np.arange(values.shape[1])
        step = max(1, len(leaves) * CELLS_AT_ONCE // max(size, CELLS_AT_ONCE))
        for start in range(0, len(leaves), step):
            block = slice(start, start + step)
            yield from self._find_paths(nodes, leaves[block], functions[block], values[block])

    def _find_paths(
        self,
        nodes: _Nodes,
        leaves: NDArray[np.intp],
        functions: NDArray[np.intp],
        values: Matrix,
    ) -> Iterator[tuple[Vector, _Paths | None]]:
        """Yield the paths to leaves by the number of features that they ask.

        functions, values: (n_leaves, n_values).
        """
        leaf, node = _climb(nodes.parent, leaves)
        key = leaf * len(self.owners) + nodes.feature[node]
        order = np.argsort(key)
        leaf, node, key = leaf[order], node[order], key[order]
        is_first = np.ones(len(leaf), dtype=bool)
        is_first[1:] = key[1:] != key[:-1]
        starts = np.flatnonzero(is_first)
        counts = np.bincount(leaf[starts], minlength=len(leaves))
        single = counts == 0  # a tree that asks nothing
        if single.any():
            yield self._sum(functions[single], values[single]), None
        if not len(starts):
            return
        low = np.maximum.reduceat(nodes.low[node], starts)
        high = np.minimum.reduceat(nodes.high[node], starts)
        missing = np.logical_and.reduceat(nodes.missing[node], starts)
        shares = np.multiply.reduceat(nodes.share[node], starts)
        feature = nodes.feature[node[starts]]
        by_set = nodes.set_of[node] >= 0
        bits = nodes.sets[nodes.set_of[node[by_set]]]
        first_of_set = np.flatnonzero(is_first[by_set])
        sets = np.bitwise_and.reduceat(bits, first_of_set) if len(first_of_set) else bits
        set_place = np.where(by_set[starts], np.cumsum(by_set[starts]) - 1, -1)
        begins = np.cumsum(counts) - counts
        for d in np.unique(counts[~single]).tolist():
            of_size = np.flatnonzero(counts == d)
            step = max(1, CELLS_AT_ONCE // (d * values.shape[1]))
            for start in range(0, len(of_size), step):
                chosen = of_size[start : start + step]
                slots = begins[chosen] + np.arange(d)[:, np.newaxis]  # (d, n_leaves)
                weights = shares[slots].prod(axis=0)[:, np.newaxis]
                places = set_place[slots].ravel()
                columns = self.owners[feature[slots]]
                yield (
                    self._sum(functions[chosen], values[chosen] * weights),
                    _Paths(
                        features=feature[slots],
                        low=low[slots],
                        high=high[slots],
                        missing=missing[slots],
                        shares=shares[slots],
                        coded=np.flatnonzero(places >= 0),
                        sets=sets[places[places >= 0]],
                        spread=self._spread(columns, functions[chosen], values[chosen]),
                    ),
                )

    def _sum(self, functions: NDArray[np.intp], values: Matrix) -> Vector:
        sums = np.zeros(len(self.start))
        np.add.at(sums, functions, values)
        return sums

    def _spread(
        self, columns: NDArray[np.intp], functions: NDArray[np.intp], values: Matrix
    ) -> csr_array:
        """Return where values are added: columns (d, n_leaves), the others (n_leaves, n_values).

        See ``_Paths``.
        """
        n_functions, n_slots = len(self.start), columns.size
        rows = columns.ravel()[:, np.newaxis] * n_functions + np.tile(functions, (len(columns), 1))
        slots = np.repeat(np.arange(n_slots), values.shape[1])
        added = np.tile(values, (len(columns), 1)).ravel()
        shape = (self.n_columns * n_functions, n_slots)
        return csr_array((added, (rows.ravel(), slots)), shape=shape)


def _find_points(d: int) -> tuple[Vector, Vector]:
    """Return points in (0, 1) and weights that integrate polynomials of degree d - 1 exactly."""
    points, weights = np.polynomial.legendre.leggauss((d + 1) // 2)
    return (points + 1) / 2, weights / 2


def _measure(tree: CoverTree, n_features: int) -> tuple[int, int]:
    """Return the size of a tree's tables, and about how many cells a row costs.

    Raises ValueError where nodes are no tree, or no row reached one of them.
    """
    inner = np.flatnonzero(~np.asarray(tree.is_leaf, dtype=bool))
    children = np.concatenate([tree.left[inner], tree.right[inner]]).astype(np.intp)
    parents = np.concatenate([inner, inner])
    count = len(tree.is_leaf)
    # Each child once, and behind its parent, so that every path ends.
    if not np.array_equal(np.sort(children), np.arange(1, count)) or (children <= parents).any():
        raise ValueError("nodes are no tree")
    if not (np.asarray(tree.cover) > 0).all():
        raise ValueError("no row reached a node")
    depths = np.zeros(count, dtype=np.intp)
    level, depth = np.zeros(1, dtype=np.intp), 0
    is_leaf = np.asarray(tree.is_leaf, dtype=bool)
    while len(level):
        depths[level] = depth
        level = level[~is_leaf[level]]
        level = np.concatenate([tree.left[level], tree.right[level]]).astype(np.intp)
        depth += 1
    of_leaves = depths[is_leaf]
    asked = np.minimum(of_leaves, n_features)
    n_values = tree.values.shape[1]
    by_cell = 6 * ((asked + 1) // 2) + 10 + 4 * n_values
    return int(of_leaves.sum()) * n_values, int((asked * by_cell).sum())


def _join(trees: Sequence[CoverTree]) -> _Nodes:
    """Return the nodes of trees in common arrays."""
    sizes = np.array([len(tree.is_leaf) for tree in trees])
    roots = np.cumsum(sizes) - sizes

    def join(name: str, kind: Any) -> Any:
        return np.concatenate([getattr(tree, name) for tree in trees]).astype(kind)

    is_leaf = join("is_leaf", np.bool_)
    inner = np.flatnonzero(~is_leaf)
    first = np.repeat(roots, sizes)[inner]
    left, right = join("left", np.intp)[inner] + first, join("right", np.intp)[inner] + first
    parent = np.full(len(is_leaf), -1)
    parent[left] = parent[right] = inner
    is_left = np.zeros(len(is_leaf), dtype=bool)
    is_left[left] = True
    set_of, sets, done = [], [np.empty((0, 32), np.uint8)], 0
    for tree in trees:
        if tree.sets is None:
            set_of.append(np.full(len(tree.is_leaf), -1))
            continue
        set_of.append(np.where(tree.set_of >= 0, tree.set_of + done, -1))
        sets.append(tree.sets)
        done += len(tree.sets)
    of_parent = np.concatenate(set_of)[parent]
    of_parent[parent < 0] = -1
    bits = np.concatenate(sets)
    # What leads to the right is what does not lead to the left.
    of_parent = np.where(is_left | (of_parent < 0), of_parent, of_parent + len(bits))
    threshold, cover = join("threshold", np.float64)[parent], join("cover", np.float64)
    bounded = of_parent < 0
    return _Nodes(
        parent=parent,
        is_leaf=is_leaf,
        feature=join("feature", np.intp)[parent],
        low=np.where(bounded & ~is_left, threshold, -np.inf),
        high=np.where(bounded & is_left, threshold, np.inf),
        missing=join("missing_left", np.bool_)[parent] == is_left,
        share=cover / cover[parent],
        set_of=of_parent,
        sets=np.concatenate([bits, ~bits]),
    )


def _climb(parent: NDArray[np.intp], leaves: NDArray[np.intp]) -> tuple[Any, Any]:
    """Return all edges of the paths to leaves: the number of the leaf, and the lower node."""
    leaf, node = np.arange(len(leaves)), leaves
    found = [(leaf[:0], node[:0])]
    while len(node):
        below_root = parent[node] >= 0
        leaf, node = leaf[below_root], node[below_root]
        found.append((leaf, node))
        node = parent[node]
    of_leaf, of_node = zip(*found, strict=True)
    return np.concatenate(of_leaf), np.concatenate(of_node)
