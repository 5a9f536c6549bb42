"""Small file systems of their own, to be filled and to be made read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

MEGABYTE = 2**20
FILLER = "filler"


@cache
def can_mount() -> bool:
    """Say whether this process may mount a tmpfs (Linux, as root)."""
    if not sys.platform.startswith("linux") or os.geteuid() or not shutil.which("mount"):
        return False
    # In a name space of its own, so that nothing of the machine changes.
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@contextmanager
def small_volume(*, size: int) -> Iterator[Path]:
    """Mount a tmpfs of ``size`` bytes until the block ends; everybody may write there."""
    folder = Path(tempfile.mkdtemp(prefix="webapp-volume-"))
    options = f"size={size},mode=0777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        # Lazily: a process that is about to end may still have a file open.
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


def remount(volume: Path, mode: str) -> None:
    """Make a volume read-only (``ro``) or writable (``rw``)."""
    subprocess.run(["mount", "-o", f"remount,{mode}", volume], check=True)


def fill(volume: Path) -> None:
    """Take all the room that a volume has."""
    with (volume / FILLER).open("ab", buffering=0) as file:
        for size in (MEGABYTE, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def make_room(volume: Path) -> None:
    """Give back what ``fill`` has taken."""
    (volume / FILLER).unlink()
