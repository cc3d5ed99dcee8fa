"""The text of each policy version that a receipt names: it is kept, and hashes to the version."""

import hashlib
from bisect import bisect_right

from .report import VerificationFailed
from .signatures import PAYLOADS, Receipt
from .sources import SourceReader


class PolicyChecker:
    """A version is the SHA-256 of its material: policies, schema, tool rules, engine (`policy/engine.py`)."""

    def __init__(self, reader: SourceReader) -> None:
        self._reader = reader
        self.seen: set[str] = set()

    def check(self, seq: int, named: Receipt) -> None:
        """Raises: VerificationFailed."""
        version = named["policy_version"]
        if version in self.seen:
            return
        material = self._reader.policy(version)
        if material is None:
            raise VerificationFailed(seq, f"the text of its policy version `{version}` is not kept")
        if "sha256:" + hashlib.sha256(material).hexdigest() != version:
            raise VerificationFailed(seq, f"the text kept of its policy version `{version}` is another")
        self.seen.add(version)


# Payloads that are gone: each must be named by a later receipt that says it was erased.

Ranges = list[tuple[int, int]]


class ErasureChecker:
    """Grows with the number of ranges that are gone or erased, not with the number of receipts."""

    def __init__(self) -> None:
        self.gone: list[tuple[int, int, int]] = []
        self.erased: Ranges = []

    def note_gone(self, runs: list[tuple[int, int, int]]) -> None:
        self.gone += [(first, last, count) for first, last, count in runs]

    def note_erased(self, seq: int, receipt: Receipt) -> None:
        """Raises: VerificationFailed."""
        for each in receipt["seqs"]:
            if not (isinstance(each, list) and len(each) == 2 and 0 <= each[0] <= each[1] < seq):
                raise VerificationFailed(seq, f"says that the payloads of {each} were erased, which are not before it")
            if self.erased and self.erased[-1][0] <= each[0] == self.erased[-1][1] + 1:
                self.erased[-1] = self.erased[-1][0], each[1]
            else:
                self.erased.append((each[0], each[1]))

    def count(self) -> int:
        return sum(count for _, _, count in self.gone)

    def settle(self, reader: SourceReader) -> None:
        """

        Raises: VerificationFailed at the first receipt with a payload that is gone and that no receipt says was erased.
        """
        merged = merge(self.erased)
        for first, last in merged:
            if (seq := reader.kept(first, last)) is not None:
                raise VerificationFailed(seq, "a receipt says that its payloads were erased, and they are still kept")
        starts = [first for first, _ in merged]
        for first, last, _ in self.gone:
            at = bisect_right(starts, first) - 1
            if at < 0 or merged[at][1] < last:
                _settle_one_by_one(reader, (first, last), merged, starts)


def merge(ranges: Ranges) -> Ranges:
    """In order, those that touch made one."""
    merged: Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _settle_one_by_one(reader: SourceReader, run: tuple[int, int], merged: Ranges, starts: list[int]) -> None:
    """A run may have receipts in between that never had a payload and that no erasure names."""
    for row in reader.rows(run[0], run[1] + 1):
        at = bisect_right(starts, row.seq) - 1
        if at >= 0 and row.seq <= merged[at][1]:
            continue
        for name, cell in zip(PAYLOADS, row.cells or (), strict=False):
            if cell is None and f'"{name}":"sha256:'.encode() in row.body:
                raise VerificationFailed(
                    row.seq, f"its payload `{name}` is gone, and no receipt says that it was erased"
                )
