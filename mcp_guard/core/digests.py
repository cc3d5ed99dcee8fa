"""SHA-256, of little data by Python's own code and of much by OpenSSL's.

A guard that runs begins without the system's OpenSSL, whose 3 MiB it would seldom need; see docs/decisions/0036.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

_LITTLE_BYTES = 4096
"""Up to here Python's own code takes no more than 10 µs longer."""


def sha256(data: bytes) -> bytes:
    if len(data) <= _LITTLE_BYTES:
        return hashlib.sha256(data).digest()
    digest: bytes = _openssl()(data).digest()
    return digest


@cache
def _openssl() -> Callable[[bytes], Any]:
    """What `hashlib.sha256` is where hashlib was imported with OpenSSL at hand."""
    try:
        from _hashlib import openssl_sha256
    except ImportError:  # a Python without OpenSSL
        return hashlib.sha256
    return openssl_sha256
