"""The text of each policy version that a receipt names: it is kept, and hashes to the version."""

import hashlib

from .report import Failed
from .signatures import Receipt
from .source import Reader


class Policies:
    """A version is the SHA-256 of its material: policies, schema, tool rules, engine (`policy/engine.py`)."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.seen: set[str] = set()

    def check(self, seq: int, named: Receipt) -> None:
        """Raises: Failed."""
        version = named["policy_version"]
        if version in self.seen:
            return
        material = self._reader.policy(version)
        if material is None:
            raise Failed(seq, f"the text of its policy version `{version}` is not kept")
        if "sha256:" + hashlib.sha256(material).hexdigest() != version:
            raise Failed(seq, f"the text kept of its policy version `{version}` is another")
        self.seen.add(version)
