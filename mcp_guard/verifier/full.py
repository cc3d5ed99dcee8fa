"""Verifies a whole ledger or export: all chunks in order, and the consistency between receipts."""

import base64

from .checkpoints import (
    Requirements,
    check_against,
    check_earlier,
    check_head,
    check_requirements,
    check_witnesses,
)
from .conclusions import conclude_full
from .consistency import ConsistencyChecker
from .format_4 import MIGRATED, Format4Checker
from .merkle import TILE, CompactRange
from .notes import ROTATED, Signer, VerifierKey, find_first_key, parse_checkpoint
from .payloads import ErasureChecker, PolicyChecker
from .policy_approvals import PolicyApprovalChecker
from .receipts import EARLIER_HEAD, POLICY_REFERENCE, ChunkResult, check_chunk, check_node
from .report import GIVEN, Report, VerificationFailed
from .signatures import Receipt
from .sources import ReceiptSource, TreeEnd
from .stored_hashes import StoredHashes
from .workers import CHUNK, Workers, open_workers


def verify_full(source: ReceiptSource, requirements: Requirements) -> Report:
    """Raises: UnusableInput if nothing can be said."""
    check_requirements(requirements)
    report, format_4_end = _verify_once(source, requirements, 0)
    if report.failed_at is not None and report.failed_at < format_4_end:
        report, _ = _verify_once(source, requirements, format_4_end)
    return report


def _verify_once(source: ReceiptSource, requirements: Requirements, format_4_end: int) -> tuple[Report, int]:
    """Verify, with the first receipts by the rules of format 4. Without any, they are tried by today's, which are
    stricter; if it fails, the number of those that are of format 4 is returned as well."""
    report = Report(scope=source.scope, origin=requirements.origin, key_is_beside=requirements.key_is_beside)
    report.format_4 = format_4_end
    try:
        with open_workers(source, requirements.workers) as workers:
            if problem := workers.reader.check_file():
                raise VerificationFailed(None, problem)
            size = workers.reader.size()
            if not size:
                raise VerificationFailed(None, "the ledger is empty: it has no checkpoint to verify")
            try:
                _FullVerification(source, workers, requirements, report).verify(size)
            except VerificationFailed:
                format_4_end = workers.reader.format_4_end()
                raise
    except VerificationFailed as failure:
        report.failed_at, report.problem = failure.seq, failure.problem
        return report, format_4_end
    report.ok = True
    return report, format_4_end


class _FullVerification:
    def __init__(self, source: ReceiptSource, workers: Workers, requirements: Requirements, report: Report) -> None:
        """Raises: VerificationFailed if no trusted key signed the first receipt."""
        self.source, self.workers, self.requirements, self.report = source, workers, requirements, report
        self.reader = workers.reader
        self.consistency: ConsistencyChecker | Format4Checker = (
            Format4Checker(requirements.approvers) if report.format_4 else ConsistencyChecker(requirements.approvers)
        )
        self.erasures = ErasureChecker()
        self._migrated_at: int | None = None
        self.policies = PolicyChecker(self.reader)
        self.policy_approvals = PolicyApprovalChecker(self.reader.policy)
        self.leaves = CompactRange(0, self._on_subtree)
        self.stored = StoredHashes(self.reader)
        self.heads: dict[str, int] = {}
        """Earlier checkpoints in bundles, and the first receipt whose bundle has each."""
        self._last_time = ""
        self.chain: list[VerifierKey] = []
        """The guard's keys so far."""
        self.signer = self._first_signer()

    def verify(self, size: int) -> None:
        """Raises: VerificationFailed, UnusableInput."""
        self._check_chunks(size)
        self.consistency.finish()
        self._summarize()
        self._check_checkpoints()
        holds_payloads = self.source.holds_payloads()
        if holds_payloads:
            self.erasures.finish(self.reader)
        self.report.unknown_files = self.source.unknown_files()
        conclude_full(self.report, holds_payloads)

    def _first_signer(self) -> Signer:
        row = next(iter(self.reader.rows(0, 1)), None)
        if row is None:
            raise VerificationFailed(0, "it is missing")
        given = self.requirements.keys
        key = find_first_key((row.body, row.signature), given, self.reader.key_hints, self.requirements.origin)
        self._note_key(0, key, GIVEN if key in given else "it is succeeded by a key that was given")
        return Signer(key, given)

    def _note_key(self, seq: int, key: VerifierKey, reason: str) -> None:
        self.chain.append(key)
        self.report.keys.append({"key": key.line, "since": seq, "by": reason})

    def _check_chunks(self, size: int) -> None:
        given = tuple(key.line for key in self.requirements.keys)
        start = 0
        while self.report.receipts < size:
            while start < size and self.workers.has_room():
                self.workers.submit((start, min(start + CHUNK, size), self.signer.key.line, given))
                start += CHUNK
            (first, stop, _, _), result = self.workers.collect()
            if result.key != self.signer.key.line:  # the key changed after this chunk had been submitted
                result = check_chunk(self.reader, (first, stop, self.signer.key.line, given))
            self._add_result(result)
            self.requirements.progress(self.report.receipts, size)

    def _add_result(self, result: ChunkResult) -> None:
        report = self.report
        if result.first_time and result.first_time < self._last_time:
            problem = f"its `time` {result.first_time} is before that of the receipt before it"
            raise VerificationFailed(report.receipts, problem)
        self._last_time = result.last_time or self._last_time
        witnessed: list[tuple[int, Receipt]] = []
        for seq, item in result.items:
            if item["kind"] == "checkpoint.witnessed":
                witnessed.append((seq, item))
            else:
                self._check_item(seq, item)
        for _, height, hash in result.nodes:
            self.leaves.add(hash, height)
        for kind, number in result.kinds.items():
            report.kinds[kind] = report.kinds.get(kind, 0) + number
        self.erasures.note_missing(result.missing)
        report.payloads_checked += result.payloads_checked
        report.payloads_not_kept += result.payloads_not_kept
        report.receipts = result.stop
        if result.failure is not None:
            raise VerificationFailed(*result.failure)
        for seq, receipt in witnessed:
            self._check_witnessed(seq, receipt)

    def _check_item(self, seq: int, item: Receipt) -> None:
        kind = item["kind"]
        try:
            if kind == POLICY_REFERENCE:
                self.policies.check(seq, item)
                self.policy_approvals.check_reference(seq, item)
            elif kind.startswith(("policy.", "guard.")):
                keys = self.consistency.keys if isinstance(self.consistency, ConsistencyChecker) else None
                self.policy_approvals.check(seq, item, keys)
            elif kind.startswith("key."):
                self._change_key(seq, item)
            elif kind == EARLIER_HEAD:
                self.heads.setdefault(item["note"], seq)
            elif kind == "payload.erased":
                self.erasures.note_erased(seq, item)
            elif kind == MIGRATED:
                self._migrate(seq, item)
            else:
                self.consistency.check(seq, item)
        except KeyError as missing:
            raise VerificationFailed(seq, f"member {missing} is missing") from None
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise VerificationFailed(seq, f"not a valid receipt: {error}") from None

    def _migrate(self, seq: int, receipt: Receipt) -> None:
        """From here on today's rules hold. What was open has ended. Raises: VerificationFailed."""
        if receipt["from"] != 4 or receipt["to"] != 5 or self._migrated_at is not None:
            raise VerificationFailed(seq, f"records a migration from format {receipt['from']} that cannot be here")
        self._migrated_at = seq
        self.consistency.finish()
        before, self.consistency = self.consistency, ConsistencyChecker(self.requirements.approvers)
        if isinstance(before, Format4Checker):
            self.report.format_4, self.report.votes_in_format_4 = seq, before.votes
        self.consistency.go_on_from(before)

    def _change_key(self, seq: int, receipt: Receipt) -> None:
        self.signer = self.signer.after(seq, receipt)
        if receipt["kind"] == ROTATED:
            self._note_key(seq + 1, self.signer.key, "the previous key signed the change")
        else:
            reason = "both keys were given; the previous key did not sign the change"
            self._note_key(seq, self.signer.key, reason)

    def _on_subtree(self, height: int, index: int, hash: bytes) -> None:
        if height > TILE:
            check_node(self.reader, height, index, hash)

    def _check_witnessed(self, seq: int, receipt: Receipt) -> None:
        """The recorded checkpoint is of this tree at that size. All hashes up to this receipt have been checked."""
        size = receipt.get("size")
        if type(size) is not int or not 0 < size <= seq:
            raise VerificationFailed(seq, f"records a witnessed checkpoint of invalid size `{size}`")
        if base64.b64encode(StoredHashes(self.reader).root(size)).decode() != receipt.get("root"):
            raise VerificationFailed(seq, f"records a witnessed checkpoint of {size} receipts of another tree")

    def _summarize(self) -> None:
        report = self.report
        report.payloads_erased = self.erasures.count_missing()
        report.root = base64.b64encode(self.leaves.root()).decode()
        report.last, report.last_time = report.receipts - 1, self._last_time
        report.calls_without_outcome = len(self.consistency.intents)
        report.approvers_words = self.consistency.votes
        if isinstance(self.consistency, Format4Checker):  # the ledger was never migrated
            report.votes_in_format_4 = self.consistency.votes
        report.approvers_keys_given = self.requirements.approvers is not None
        if isinstance(self.consistency, ConsistencyChecker):
            report.operations = self.consistency.operations.count
            report.drills = self.consistency.drills
        self.consistency.self_approvals.report(report)
        self.consistency.reported.report(report)
        report.policies = len(self.policies.versions)
        self.policy_approvals.report(report)

    def _check_checkpoints(self) -> None:
        report, size, root = self.report, self.report.receipts, self.leaves.root()
        chain = tuple(self.chain)
        given = {key.line for key in self.requirements.keys}
        if not any(key.line in given for key in chain):
            raise VerificationFailed(None, "none of the given keys has signed this ledger")
        try:
            head = parse_checkpoint(self.reader.checkpoint())
        except ValueError as error:
            raise VerificationFailed(None, f"cannot read the checkpoint: {error}") from None
        check_head(head, size, root, chain)
        edge = [hash for _, _, hash in self.leaves.nodes]
        if stray := self.reader.strays(TreeEnd(size, edge, [key.line for key in chain])):
            raise VerificationFailed(*stray)
        report.checkpoint = head.note
        check_earlier(self.heads, chain, size, self.stored.root)
        check_witnesses(self.requirements, (head, *self.requirements.against), report)
        check_against(self.requirements, chain, size, self.stored.root, report)
