"""SHA-256 is the same by either code."""

import pytest
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from mcp_guard.core.digests import sha256


@pytest.mark.parametrize("length", [0, 1, 64, 4095, 4096, 4097, 1_000_000])
def test_it_is_what_another_library_computes(length: int) -> None:
    data = bytes(number & 255 for number in range(length))
    assert sha256(data) == Hash.hash(SHA256(), data)
