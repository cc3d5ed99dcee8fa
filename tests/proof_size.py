"""How much of a long proof runs: a sample in `make test`, all of it in `make proofs`."""

import os
from typing import TypeVar

import pytest

T = TypeVar("T")
FULL = bool(os.environ.get("FULL_PROOFS"))


def sized(full: T, sample: T) -> T:
    return full if FULL else sample


in_full = pytest.mark.skipif(not FULL, reason="in `make proofs`")
"""Marks a test that does not belong to the sample."""
