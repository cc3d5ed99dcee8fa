"""Verifying a range of a ledger or export: signatures, places, payloads, and that it stands in the signed tree."""

import base64
import json
from collections.abc import Iterator

from .checkpoints import Requirements, check, check_against, check_earlier, check_head, check_witnesses
from .merkle import CompactRange, leaf_of
from .notes import ROTATED, SignedCheckpoint, Signer, find_first_key, parse_checkpoint
from .payloads import PolicyChecker
from .receipts import EARLIER, NAMED, ChunkResult
from .report import Report, UnusableInput, VerificationFailed, conclude_range
from .sources import ReceiptSource, Row, SourceReader
from .stored_hashes import StoredHashes
from .workers import CHUNK, Workers, opened


def verify_range(source: ReceiptSource, requirements: Requirements, first: int, last: int) -> Report:
    """Verify the receipts from `first` to `last`.

    Raises: UnusableInput if they are not there, or nothing can be said.
    """
    check(requirements)
    scope = "receipt" if first == last else "range"
    report = Report(scope=scope, origin=requirements.origin, first=first, last=last)
    try:
        with opened(source, requirements.workers if last - first > 4 * CHUNK else 1) as workers:
            size = workers.reader.size()
            if not 0 <= first <= last < size:
                raise UnusableInput(f"no receipts {first} to {last}: there are {size}")
            _RangeVerification(workers, requirements, report).verify(source.prove_kept_payloads())
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
        self.span = CompactRange(report.first)
        self.heads: dict[str, int] = {}

    def verify(self, payloads_here: bool) -> None:
        """Raises: VerificationFailed."""
        report, size = self.report, self.reader.size()
        signers = self._signers()
        chain = tuple(signer.key for _, signer in signers)
        try:
            head = parse_checkpoint(self.reader.checkpoint())
        except ValueError as error:
            raise VerificationFailed(None, f"the checkpoint cannot be read: {error}") from None
        self._read_all(signers)
        root = self.stored.root(size, self.span)
        check_head(head, size, root, chain)
        self._check_changes(signers, size, head)
        report.checkpoint, report.root = head.note, base64.b64encode(root).decode()
        report.receipts, report.policies = report.last - report.first + 1, len(self.policies.seen)
        if report.scope == "receipt":
            report.receipt = json.loads(_row(self.reader, report.first).body)
        check_witnesses(self.requirements, (head, *self.requirements.against), report)

        def root_of(earlier: int) -> bytes:
            return self.stored.earlier_root(earlier, size, root)

        check_earlier(self.heads, chain, size, root_of)
        check_against(self.requirements, chain, size, root_of, report)
        conclude_range(report, payloads_here, bool(self.requirements.against))

    def _signers(self) -> list[tuple[int, Signer]]:
        """Who signs from which receipt on, by the receipts that change the key. Raises: VerificationFailed."""
        first, given = _row(self.reader, 0), self.requirements.keys
        signer = Signer(
            find_first_key((first.body, first.signature), given, self.reader.key_hints, self.requirements.origin), given
        )
        found = [(0, signer)]
        for seq in self.reader.key_receipts():
            row = _row(self.reader, seq)
            if not signer.accepts(row.body, row.signature):
                raise VerificationFailed(seq, "its signature is not the guard's")
            receipt = json.loads(row.body)
            signer = signer.after(seq, receipt)
            found.append((seq + 1 if receipt["kind"] == ROTATED else seq, signer))
        if not any(signer.key in given for _, signer in found):
            raise VerificationFailed(None, "none of the keys given is one that this ledger was signed with")
        self.report.keys = [{"key": each.key.line, "since": seq, "by": ""} for seq, each in found]
        return found

    def _check_changes(self, signers: list[tuple[int, Signer]], size: int, head: SignedCheckpoint) -> None:
        """The receipts that change the key stand in the tree, too. Raises: VerificationFailed."""
        for seq in self.reader.key_receipts():
            row, own = _row(self.reader, seq), CompactRange(seq)
            own.add(leaf_of(row.body, row.signature))
            if self.stored.root(size, own) != head.root:
                raise VerificationFailed(seq, "does not stand in the tree of the checkpoint")

    def _read_all(self, signers: list[tuple[int, Signer]]) -> None:
        tasks = self._tasks(signers)
        task = next(tasks, None)
        done = 0
        while done < self.report.last - self.report.first + 1:
            while task is not None and self.workers.has_room():
                self.workers.submit(task)
                task = next(tasks, None)
            (start, stop, _, _), result = self.workers.collect()
            self._absorb(result)
            done += stop - start
            self.requirements.tell(done, self.report.last - self.report.first + 1)

    def _tasks(self, signers: list[tuple[int, Signer]]) -> Iterator[tuple[int, int, str, tuple[str, ...]]]:
        given, start, end = tuple(key.line for key in self.requirements.keys), self.report.first, self.report.last + 1
        while start < end:
            stop = min((start // CHUNK + 1) * CHUNK, end)
            signer = next(signer for since, signer in reversed(signers) if since <= start)
            yield start, stop, signer.key.line, given
            start = stop

    def _absorb(self, result: ChunkResult) -> None:
        report = self.report
        for seq, item in result.items:
            if item["kind"] == NAMED:
                self.policies.check(seq, item)
            elif item["kind"] == EARLIER:
                self.heads.setdefault(item["note"], seq)
        if result.failure is not None:
            raise VerificationFailed(*result.failure)
        for _, height, hash in result.nodes:
            self.span.add(hash, height)
        for kind, number in result.kinds.items():
            report.kinds[kind] = report.kinds.get(kind, 0) + number
        report.payloads_checked += result.checked
        report.payloads_not_kept += result.unkept
        report.payloads_erased += sum(count for _, _, count in result.gone)


def _row(reader: SourceReader, seq: int) -> Row:
    """Raises: VerificationFailed."""
    for row in reader.rows(seq, seq + 1):
        return row
    raise VerificationFailed(seq, f"receipt {seq} is missing")
