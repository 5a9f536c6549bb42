"""Counts that all workers of a server share, in memory that outlives each of them.

The memory is made before the workers are forked, and belongs to no file that anybody would have
to clear away. Every process writes to a bank of its own, so that none waits for another:

    bank    [series, series, …         ]  worker 1
    bank    [series, series, …         ]  worker 2, killed: its counts still count, and the next
    bank    [                          ]            worker goes on with them

A lock of the kernel says which bank is taken. It goes with its process, however that ends. So
there are never more banks than there were processes at once, and no count is lost or goes down.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
import weakref
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import orjson

if sys.platform != "win32":  # there, no server forks
    import fcntl

BANK_SIZE = 512 * 1024  # bytes; they become memory only as they are used
OTHER = "other"  # every label of what is beyond the most series of a family
_WORD = 8  # bytes of a number

Labels: TypeAlias = tuple[str, ...]
Series: TypeAlias = Mapping[Labels, Sequence[float]]
"""The numbers of a family by the values of its labels."""


@dataclass(frozen=True)
class Family:
    """Series of one kind: as many numbers for each combination of labels.

    ``alive`` says that they are about what a process holds, and so end with it. At most ``most``
    combinations are told apart in each process.
    """

    name: str
    labels: tuple[str, ...]
    width: int
    alive: bool = False
    most: int = 1000


class Tally:
    """The shared counts of some families, for up to so many processes at once."""

    def __init__(self, families: Sequence[Family], *, banks: int) -> None:
        self._families = {family.name: family for family in families}
        self._banks = banks
        self._start = -(-banks * _WORD // mmap.PAGESIZE) * mmap.PAGESIZE
        # One bank more is where counts go that have no place.
        size = self._start + (banks + 1) * BANK_SIZE
        self._file = _make_file()
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, size)
        self._bytes = mmap.mmap(self._file, size)
        self._floats = memoryview(self._bytes).cast("d")
        self._ints = memoryview(self._bytes).cast("q")
        self._lock = threading.Lock()
        self._process = 0
        self._bank = banks
        self._places: dict[tuple[str, Labels], int] = {}
        self._told_apart: dict[str, int] = {}

    def add(self, family: Family, labels: Labels, amounts: Sequence[float]) -> None:
        """Add to the numbers of a series."""
        with self._lock:
            place = self._find_place(family, labels)
            for offset, amount in enumerate(amounts):
                if amount:
                    self._floats[place + offset] += amount

    def observe(
        self, family: Family, labels: Labels, value: float, bounds: Sequence[float]
    ) -> None:
        """Add a value to a series that is a sum, then a count for each bound and one beyond."""
        with self._lock:
            place = self._find_place(family, labels)
            self._floats[place] += value
            self._floats[place + 1 + bisect_left(bounds, value)] += 1

    def set(self, family: Family, labels: Labels, values: Sequence[float]) -> None:
        """Make these the numbers of a series of this process."""
        with self._lock:
            place = self._find_place(family, labels)
            for offset, value in enumerate(values):
                self._floats[place + offset] = value

    def read(self) -> dict[str, dict[Labels, list[float]]]:
        """Return all series, the numbers of all processes added up, by family."""
        found: dict[str, dict[Labels, list[float]]] = {name: {} for name in self._families}
        for bank in range(self._banks):
            entries = self._read_bank(bank)
            alive = bool(entries) and self._is_alive(bank)
            for (name, labels), place in entries.items():
                family = self._families[name]
                if alive or not family.alive:
                    sums = found[name].setdefault(labels, [0.0] * family.width)
                    for offset in range(family.width):
                        sums[offset] += self._floats[place + offset]
        return found

    def _find_place(self, family: Family, labels: Labels) -> int:
        if self._process != os.getpid():  # the first time, or after a fork
            self._claim_bank()
        place = self._places.get((family.name, labels))
        return self._make_place(family, labels) if place is None else place

    def _make_place(self, family: Family, labels: Labels) -> int:
        if self._told_apart.get(family.name, 0) >= family.most:
            labels = (OTHER,) * len(labels)
            if (place := self._places.get((family.name, labels))) is not None:
                return place
        key = orjson.dumps([family.name, *labels])
        words = 2 + -(-len(key) // _WORD)
        used = self._ints[self._bank] if self._bank < self._banks else BANK_SIZE
        if used + (words + family.width) * _WORD > BANK_SIZE:
            return self._first_word(self._banks)
        entry = self._first_word(self._bank) + used // _WORD
        self._ints[entry], self._ints[entry + 1] = len(key), family.width
        self._bytes[(entry + 2) * _WORD : (entry + 2) * _WORD + len(key)] = key
        # Last: whoever reads sees whole entries only.
        self._ints[self._bank] = used + (words + family.width) * _WORD
        self._told_apart[family.name] = self._told_apart.get(family.name, 0) + 1
        self._places[(family.name, labels)] = entry + words
        return entry + words

    def _read_bank(self, bank: int) -> dict[tuple[str, Labels], int]:
        entry = self._first_word(bank)
        end = entry + self._ints[bank] // _WORD
        places = {}
        while entry < end:
            length, width = self._ints[entry], self._ints[entry + 1]
            key = self._bytes[(entry + 2) * _WORD : (entry + 2) * _WORD + length]
            name, *labels = orjson.loads(key)
            entry += 2 + -(-length // _WORD)
            places[(name, tuple(labels))] = entry
            entry += width
        return places

    def _first_word(self, bank: int) -> int:
        return (self._start + bank * BANK_SIZE) // _WORD

    def _claim_bank(self) -> None:
        """Take a bank that no process has, and go on with the counts that are in it."""
        self._process = os.getpid()
        self._bank = next(filter(self._lock_bank, range(self._banks)), self._banks)
        self._places = {} if self._bank == self._banks else self._read_bank(self._bank)
        self._told_apart = {}
        for (name, _), place in self._places.items():
            self._told_apart[name] = self._told_apart.get(name, 0) + 1
            if self._families[name].alive:
                for offset in range(self._families[name].width):
                    self._floats[place + offset] = 0.0

    def _lock_bank(self, bank: int) -> bool:
        if sys.platform != "win32":
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, bank)
            except OSError:
                return False
        return True

    def _is_alive(self, bank: int) -> bool:
        if bank == self._bank and self._process == os.getpid():
            return True
        if not self._lock_bank(bank):
            return True
        if sys.platform != "win32":
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, bank)
        return False


def _make_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("webapp-metrics")
    descriptor, path = tempfile.mkstemp()
    with suppress(OSError):  # Windows keeps it until it is closed
        os.unlink(path)
    return descriptor
