"""Verifies a range of a ledger or export: signatures, order and payloads, and that it is in the signed tree."""

import base64
from collections.abc import Iterator

from .checkpoints import (
    Requirements,
    check_against,
    check_earlier,
    check_head,
    check_requirements,
    check_witnesses,
)
from .conclusions import conclude_range
from .consistency import ConsistencyChecker
from .files import parse_json
from .merkle import CompactRange, leaf_of
from .notes import ROTATED, SignedCheckpoint, Signer, find_first_key, parse_checkpoint
from .payloads import PolicyChecker
from .receipts import EARLIER_HEAD, POLICY_REFERENCE, ChunkResult, ChunkTask
from .report import Report, UnusableInput, VerificationFailed
from .signatures import Receipt
from .sources import ReceiptSource, Row, SourceReader
from .stored_hashes import StoredHashes
from .workers import CHUNK, Workers, open_workers


def verify_range(source: ReceiptSource, requirements: Requirements, first: int, last: int) -> Report:
    """Verify the receipts from `first` to `last`.

    Raises: UnusableInput if they do not exist, or nothing can be said.
    """
    check_requirements(requirements)
    scope = "receipt" if first == last else "range"
    report = Report(
        scope=scope, origin=requirements.origin, first=first, last=last, key_is_beside=requirements.key_is_beside
    )
    try:
        with open_workers(source, requirements.workers if last - first > 4 * CHUNK else 1) as workers:
            size = workers.reader.size()
            if not 0 <= first <= last < size:
                raise UnusableInput(f"no receipts {first} to {last}: the ledger has {size}, numbered from 0")
            _RangeVerification(workers, requirements, report).verify(source.holds_payloads())
    except VerificationFailed as failure:
        report.failed_at, report.problem = failure.seq, failure.problem
        return report
    report.ok = True
    return report


class _RangeVerification:
    def __init__(self, workers: Workers, requirements: Requirements, report: Report) -> None:
        self.workers, self.requirements, self.report = workers, requirements, report
        self.reader = workers.reader
        self.stored, self.policies = StoredHashes(self.reader), PolicyChecker(self.reader)
        self.consistency = ConsistencyChecker(requirements.approvers, is_part=True, first=report.first)
        self.leaves = CompactRange(report.first)
        self.heads: dict[str, int] = {}
        """Earlier checkpoints in bundles, and the first receipt whose bundle has each."""
        self._format_4_end: int | None = None

    def verify(self, holds_payloads: bool) -> None:
        """Raises: VerificationFailed."""
        report, size = self.report, self.reader.size()
        signers = self._find_signers()
        chain = tuple(signer.key for _, signer in signers)
        try:
            head = parse_checkpoint(self.reader.checkpoint())
        except ValueError as error:
            raise VerificationFailed(None, f"cannot read the checkpoint: {error}") from None
        self._check_chunks(signers)
        root = self.stored.root(size, self.leaves)
        check_head(head, size, root, chain)
        self._check_key_receipts(size, head)
        report.checkpoint, report.root = head.note, base64.b64encode(root).decode()
        report.receipts, report.policies = report.last - report.first + 1, len(self.policies.versions)
        if report.scope == "receipt":
            report.receipt = parse_json(_read_row(self.reader, report.first).body)
        check_witnesses(self.requirements, (head, *self.requirements.against), report)

        def root_of(earlier_size: int) -> bytes:
            return self.stored.earlier_root(earlier_size, size, root)

        check_earlier(self.heads, chain, size, root_of)
        check_against(self.requirements, chain, size, root_of, report)
        report.approvers_keys_given = self.requirements.approvers is not None
        self.consistency.self_approvals.report(report)
        self.consistency.reported.report(report)
        report.drills = self.consistency.drills
        conclude_range(report, holds_payloads)

    def _find_signers(self) -> list[tuple[int, Signer]]:
        """The signers and the first receipt of each, according to the receipts that change the key.

        Raises: VerificationFailed.
        """
        first, given = _read_row(self.reader, 0), self.requirements.keys
        key = find_first_key((first.body, first.signature), given, self.reader.key_hints, self.requirements.origin)
        signer = Signer(key, given)
        signers = [(0, signer)]
        for seq in self.reader.key_receipts():
            row = _read_row(self.reader, seq)
            if not signer.accepts(row.body, row.signature):
                raise VerificationFailed(seq, "not signed by the guard's key")
            receipt = parse_json(row.body)
            signer = signer.after(seq, receipt)
            signers.append((seq + 1 if receipt["kind"] == ROTATED else seq, signer))
        if not any(signer.key in given for _, signer in signers):
            raise VerificationFailed(None, "none of the given keys has signed this ledger")
        self.report.keys = [{"key": signer.key.line, "since": seq, "by": ""} for seq, signer in signers]
        return signers

    def _check_key_receipts(self, size: int, head: SignedCheckpoint) -> None:
        """The receipts that change the key are in the tree, too. Raises: VerificationFailed."""
        for seq in self.reader.key_receipts():
            row, leaf = _read_row(self.reader, seq), CompactRange(seq)
            leaf.add(leaf_of(row.body, row.signature))
            if self.stored.root(size, leaf) != head.root:
                raise VerificationFailed(seq, "not in the tree of the signed checkpoint")

    def _check_chunks(self, signers: list[tuple[int, Signer]]) -> None:
        tasks = self._tasks(signers)
        task = next(tasks, None)
        total = self.report.last - self.report.first + 1
        done = 0
        while done < total:
            while task is not None and self.workers.has_room():
                self.workers.submit(task)
                task = next(tasks, None)
            (start, stop, _, _), result = self.workers.collect()
            self._add_result(result)
            done += stop - start
            self.requirements.progress(done, total)

    def _tasks(self, signers: list[tuple[int, Signer]]) -> Iterator[ChunkTask]:
        given, start, end = tuple(key.line for key in self.requirements.keys), self.report.first, self.report.last + 1
        while start < end:
            stop = min((start // CHUNK + 1) * CHUNK, end)
            signer = next(signer for since, signer in reversed(signers) if since <= start)
            yield start, stop, signer.key.line, given
            start = stop

    def _add_result(self, result: ChunkResult) -> None:
        report = self.report
        for seq, item in result.items:
            if item["kind"] == POLICY_REFERENCE:
                self.policies.check(seq, item)
            elif item["kind"] == EARLIER_HEAD:
                self.heads.setdefault(item["note"], seq)
            else:
                self._check_part(seq, item)
        if result.failure is not None:
            raise VerificationFailed(*result.failure)
        for _, height, hash in result.nodes:
            self.leaves.add(hash, height)
        for kind, number in result.kinds.items():
            report.kinds[kind] = report.kinds.get(kind, 0) + number
        report.last_time = result.last_time or report.last_time
        report.payloads_checked += result.payloads_checked
        report.payloads_not_kept += result.payloads_not_kept
        report.payloads_erased += sum(count for _, _, count in result.missing)

    def _check_part(self, seq: int, item: Receipt) -> None:
        """Whether a receipt of format 4 fits its neighbours is said only of the whole ledger. Raises:
        VerificationFailed."""
        try:
            self.consistency.check_part(seq, item)
        except VerificationFailed:
            self._format_4_end = self.reader.format_4_end() if self._format_4_end is None else self._format_4_end
            if seq >= self._format_4_end:
                raise


def _read_row(reader: SourceReader, seq: int) -> Row:
    """Raises: VerificationFailed."""
    for row in reader.rows(seq, seq + 1):
        return row
    raise VerificationFailed(seq, "it is missing")
