"""Real disks for faults: a small one that fills up, and files that nobody can write. Skipped where not permitted."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _try(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"`{' '.join(command[:2])}` is not allowed here: {done.stderr.strip()[:100]}")


@contextmanager
def small_disk(folder: Path, kibibytes: int = 1024) -> Iterator[Path]:
    """A separate file system in memory."""
    disk = folder / "disk"
    disk.mkdir()
    _try("mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Write until the disk is full; the caller removes the file."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler


@contextmanager
def immutable(*files: Path) -> Iterator[None]:
    """Nobody can write to these files, not even root."""
    if shutil.which("chattr") is None:
        pytest.skip("no chattr here")
    try:
        for file in files:
            _try("chattr", "+i", str(file))
        yield
    finally:
        for file in files:
            subprocess.run(["chattr", "-i", str(file)], capture_output=True)
