"""Checks of what is stored beside the receipts: the text of each policy version, and that missing payloads were erased.

Payloads that are present are checked receipt by receipt, in `receipts.py`.
"""

import hashlib
from bisect import bisect_right

from .report import VerificationFailed
from .signatures import PAYLOADS, Receipt
from .sources import SourceReader

Ranges = list[tuple[int, int]]
"""First and last receipt of each range."""


class PolicyChecker:
    """Checks that the text of each policy version is stored and hashes to the version.

    A version is the SHA-256 of policies, schema, tool rules and engine together (`policy/engine.py`).
    """

    def __init__(self, reader: SourceReader) -> None:
        self._reader = reader
        self.versions: set[str] = set()

    def check(self, seq: int, reference: Receipt) -> None:
        """Raises: VerificationFailed."""
        version = reference["policy_version"]
        if version in self.versions:
            return
        material = self._reader.policy(version)
        if material is None:
            raise VerificationFailed(seq, f"the text of its policy version `{version}` is not stored")
        if "sha256:" + hashlib.sha256(material).hexdigest() != version:
            raise VerificationFailed(seq, f"the stored text of its policy version `{version}` has another hash")
        self.versions.add(version)


class ErasureChecker:
    """Checks that a later receipt records the erasure of each missing payload.

    Memory grows with the number of missing or erased ranges, not with the number of receipts.
    """

    def __init__(self) -> None:
        self.missing: list[tuple[int, int, int]] = []
        """First and last receipt of runs with missing payloads, and the number of these payloads."""
        self.erased: Ranges = []

    def note_missing(self, runs: list[tuple[int, int, int]]) -> None:
        self.missing += [(first, last, count) for first, last, count in runs]

    def note_erased(self, seq: int, receipt: Receipt) -> None:
        """Raises: VerificationFailed."""
        for erased in receipt["seqs"]:
            if not (isinstance(erased, list) and len(erased) == 2 and 0 <= erased[0] <= erased[1] < seq):
                raise VerificationFailed(seq, f"records erased payloads of {erased}, which are not earlier receipts")
            first, last = erased
            if self.erased and self.erased[-1][0] <= first == self.erased[-1][1] + 1:
                self.erased[-1] = self.erased[-1][0], last
            else:
                self.erased.append((first, last))

    def count_missing(self) -> int:
        return sum(count for _, _, count in self.missing)

    def finish(self, reader: SourceReader) -> None:
        """Compare missing and erased payloads, once all receipts have been read.

        Raises: VerificationFailed at a receipt whose payload is missing without a record, or recorded as erased and
        still stored.
        """
        erased = merge(self.erased)
        for first, last in erased:
            if (seq := reader.first_with_payload(first, last)) is not None:
                raise VerificationFailed(seq, "a receipt records that its payloads were erased, but they are stored")
        starts = [first for first, _ in erased]
        for first, last, _ in self.missing:
            at = bisect_right(starts, first) - 1
            if at < 0 or erased[at][1] < last:
                _check_one_by_one(reader, (first, last), erased, starts)


def merge(ranges: Ranges) -> Ranges:
    """The ranges in order, with adjacent and overlapping ones joined."""
    merged: Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _check_one_by_one(reader: SourceReader, run: tuple[int, int], erased: Ranges, starts: list[int]) -> None:
    """A run may contain receipts that never had a payload, which no erasure names. Raises: VerificationFailed."""
    for row in reader.rows(run[0], run[1] + 1):
        at = bisect_right(starts, row.seq) - 1
        if at >= 0 and row.seq <= erased[at][1]:
            continue
        for name, payload in zip(PAYLOADS, row.payloads or (), strict=False):
            if payload is None and f'"{name}":"sha256:'.encode() in row.body:
                raise VerificationFailed(
                    row.seq, f"its payload `{name}` is missing, and no receipt records that it was erased"
                )
