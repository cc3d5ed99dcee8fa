"""Verifying a whole ledger or export: the chunks in order, and what holds between receipts."""

import base64

from .checkpoints import Requirements, check, check_against, check_earlier, check_head, check_witnesses
from .consistency import ConsistencyChecker
from .merkle import TILE, CompactRange
from .notes import ROTATED, Signer, VerifierKey, find_first_key, parse_checkpoint
from .payloads import ErasureChecker, PolicyChecker
from .receipts import EARLIER, NAMED, ChunkResult, check_chunk, check_node
from .report import Report, VerificationFailed, conclude_full
from .signatures import Receipt
from .sources import ReceiptSource, TreeEnd
from .stored_hashes import StoredHashes
from .workers import CHUNK, Workers, opened


def verify_full(source: ReceiptSource, requirements: Requirements) -> Report:
    """Raises: UnusableInput if nothing can be said."""
    check(requirements)
    report = Report(scope=source.scope, origin=requirements.origin)
    try:
        with opened(source, requirements.workers) as workers:
            _FullVerification(source, workers, requirements, report).verify()
    except VerificationFailed as failure:
        report.failed_at, report.problem = failure.seq, failure.problem
        return report
    report.ok = True
    return report


class _FullVerification:
    def __init__(self, source: ReceiptSource, workers: Workers, requirements: Requirements, report: Report) -> None:
        self.source, self.workers, self.requirements, self.report = source, workers, requirements, report
        self.reader = workers.reader
        self.links, self.erasures = ConsistencyChecker(requirements.approvers), ErasureChecker()
        self.policies = PolicyChecker(self.reader)
        self.span = CompactRange(0, self._on_node)
        self.stored = StoredHashes(self.reader)
        self.witnessed: list[tuple[int, Receipt]] = []
        """Of the present chunk."""
        self.heads: dict[str, int] = {}
        """Earlier checkpoints, and the first receipt whose bundle has one."""
        self.chain: list[VerifierKey] = []
        self.signer: Signer

    def verify(self) -> None:
        """Raises: VerificationFailed, UnusableInput."""
        size = self.reader.size()
        if not size:
            raise VerificationFailed(None, "the ledger is empty: there is no checkpoint to hold it against")
        self.signer = self._begin()
        self._read_all(size)
        self.links.finish()
        self._sum_up()
        self._check_head()
        if self.source.prove_kept_payloads():
            self.erasures.settle(self.reader)
        conclude_full(self.report, self.source.prove_kept_payloads(), bool(self.requirements.against))

    def _begin(self) -> Signer:
        row = next(iter(self.reader.rows(0, 1)), None)
        if row is None:
            raise VerificationFailed(0, "receipt 0 is missing")
        given = self.requirements.keys
        key = find_first_key((row.body, row.signature), given, self.reader.key_hints, self.requirements.origin)
        self._use(0, key, "given" if key in given else "a later key signed that it comes after this one")
        return Signer(key, given)

    def _use(self, seq: int, key: VerifierKey, why: str) -> None:
        self.chain.append(key)
        self.report.keys.append({"key": key.line, "since": seq, "by": why})

    def _read_all(self, size: int) -> None:
        given = tuple(key.line for key in self.requirements.keys)
        start = 0
        while self.report.receipts < size:
            while start < size and self.workers.has_room():
                self.workers.submit((start, min(start + CHUNK, size), self.signer.key.line, given))
                start += CHUNK
            (first, stop, _, _), result = self.workers.collect()
            if result.key != self.signer.key.line:  # the key was changed after this chunk was given out
                result = check_chunk(self.reader, (first, stop, self.signer.key.line, given))
            self._absorb(result)
            self.requirements.tell(self.report.receipts, size)

    def _absorb(self, result: ChunkResult) -> None:
        report, self.witnessed = self.report, []
        for seq, item in result.items:
            self._step(seq, item)
        for _, height, hash in result.nodes:
            self.span.add(hash, height)
        for kind, number in result.kinds.items():
            report.kinds[kind] = report.kinds.get(kind, 0) + number
        self.erasures.note_gone(result.gone)
        report.payloads_checked += result.checked
        report.payloads_not_kept += result.unkept
        report.receipts = result.stop
        if result.failure is not None:
            raise VerificationFailed(*result.failure)
        for seq, receipt in self.witnessed:
            self._check_witnessed(seq, receipt)

    def _step(self, seq: int, item: Receipt) -> None:
        kind = item["kind"]
        try:
            if kind == NAMED:
                self.policies.check(seq, item)
            elif kind.startswith("key."):
                self.signer = self.signer.after(seq, item)
                why = "the key before it signed" if kind == ROTATED else "both were given; the key before did not sign"
                self._use(seq + 1 if kind == ROTATED else seq, self.signer.key, why)
            elif kind == EARLIER:
                self.heads.setdefault(item["note"], seq)
            elif kind == "payload.erased":
                self.erasures.note_erased(seq, item)
            elif kind == "checkpoint.witnessed":
                self.witnessed.append((seq, item))
            else:
                self.links.check(seq, item)
        except KeyError as missing:
            raise VerificationFailed(seq, f"it lacks {missing}") from None
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise VerificationFailed(seq, f"is not in the form of a receipt: {error}") from None

    def _on_node(self, height: int, index: int, hash: bytes) -> None:
        if height > TILE:
            check_node(self.reader, height, index, hash)

    def _check_witnessed(self, seq: int, receipt: Receipt) -> None:
        """What a witness is said to have seen is this tree at that size. Every hash up to here has been checked."""
        size = receipt.get("size")
        if type(size) is not int or not 0 < size <= seq:
            raise VerificationFailed(seq, f"says that a witness saw {size} receipts")
        if base64.b64encode(StoredHashes(self.reader).root(size)).decode() != receipt.get("root"):
            raise VerificationFailed(seq, f"says that a witness saw another tree of {size} receipts than this one")

    def _sum_up(self) -> None:
        report = self.report
        report.payloads_erased = self.erasures.count()
        report.root = base64.b64encode(self.span.root()).decode()
        report.last = report.receipts - 1
        report.calls_without_outcome = len(self.links.intents)
        report.approvers_words, report.approvers_keys_given = self.links.words, self.links.trusted is not None
        report.policies = len(self.policies.seen)

    def _check_head(self) -> None:
        report, size, root = self.report, self.report.receipts, self.span.root()
        given = {key.line for key in self.requirements.keys}
        if not any(key.line in given for key in self.chain):
            raise VerificationFailed(None, "none of the keys given is one that this ledger was signed with")
        try:
            head = parse_checkpoint(self.reader.checkpoint())
        except ValueError as error:
            raise VerificationFailed(None, f"the checkpoint cannot be read: {error}") from None
        check_head(head, size, root, tuple(self.chain))
        edge, keys = [hash for _, _, hash in self.span.nodes], [key.line for key in self.chain]
        if stray := self.reader.strays(TreeEnd(size, edge, keys)):
            raise VerificationFailed(*stray)
        report.checkpoint = head.note
        check_earlier(self.heads, tuple(self.chain), size, self.stored.root)
        check_witnesses(self.requirements, (head, *self.requirements.against), report)
        check_against(self.requirements, tuple(self.chain), size, self.stored.root, report)
