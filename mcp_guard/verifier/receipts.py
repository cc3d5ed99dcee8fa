"""Checks a chunk of receipts one by one: signature, form, place, leaf hash and payloads.

Whatever a check needs from earlier receipts is passed on as `items`, in a few members each. Chunks are checked in
worker processes, so tasks and results are plain data.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .merkle import TILE, CompactRange, leaf_of
from .notes import Signer, parse_key
from .report import VerificationFailed
from .signatures import ABOUT, PAYLOADS, Receipt
from .sources import SALT_BYTES, IndexColumns, Row, SourceReader

POLICY_REFERENCE = "policy.named"
"""An item that is not a receipt: the first reference to a policy version within the chunk."""
EARLIER_HEAD = "earlier.head"
"""An item that is not a receipt: an earlier checkpoint (`note`) in bundles of the chunk."""
NO_POLICIES = "none"
"""The policy version of calls that are denied before any policies are loaded."""
STEPS_OF_CALLS = ("intent", "decision", "outcome")
MEMBERS_OF_STEPS = ("kind", "call", "purpose", "outcome", "ending", "approval", "follows")
MEMBERS_OF_HELD = (*MEMBERS_OF_STEPS, "time", "request", *ABOUT)
REQUEST = "payload of the request"
"""A member of an item that is not one of its receipt: the stored payload, as text, of a call that was held."""
PASSED_ON_WHOLE = ("approval.", "grant.", "approver.", "key.", "payload.", "checkpoint.", "ledger.", "policy.")
"""Families of kinds whose receipts are passed on with all members."""
TIME_LENGTH = len("2026-01-31T00:00:00.000000Z")
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_ENCODE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_DECODE: Callable[[str], tuple[Any, int]] = json.JSONDecoder().raw_decode

ChunkTask = tuple[int, int, str, tuple[str, ...]]
"""First receipt, the one after the last, the key in use (verifier line), and the keys given."""


@dataclass
class ChunkResult:
    """The result of a chunk up to `stop`, where it ended or failed. Everything in it can be marshalled."""

    stop: int
    key: str
    """The verifier line of the key in use at the beginning of the chunk."""
    nodes: list[tuple[int, int, bytes]] = field(default_factory=list)
    items: list[tuple[int, Receipt]] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    payloads_checked: int = 0
    """Payloads that match their commitment."""
    payloads_not_kept: int = 0
    """Payloads with only a salt: they were hashed, and never kept."""
    missing: list[tuple[int, int, int]] = field(default_factory=list)
    """First and last receipt of runs with missing payloads and none present, and the number of missing payloads."""
    first_time: str = ""
    last_time: str = ""
    """Times of the first and last receipt (RFC 3339 in UTC with microseconds)."""
    failure: tuple[int | None, str] | None = None


def check_chunk(reader: SourceReader, task: ChunkTask) -> ChunkResult:
    """Check the receipts of a task, up to the first that fails."""
    first, stop, key, given = task
    checker = _ChunkChecker(reader, first, Signer(parse_key(key), tuple(parse_key(line) for line in given)))
    result = checker.result
    try:
        for row in reader.rows(first, stop):
            checker.check(row)
        if result.stop < stop:
            raise VerificationFailed(result.stop, "it is missing")
    except VerificationFailed as failure:
        result.failure = failure.seq, failure.problem
    result.nodes = checker.leaves.nodes
    return result


class _ChunkChecker:
    def __init__(self, reader: SourceReader, first: int, signer: Signer) -> None:
        self.reader = reader
        self.signer = signer
        self.leaves = CompactRange(first, self._on_subtree)
        self.result = ChunkResult(first, signer.key.line)
        self._versions: set[str] = set()
        self._heads: set[str] = set()
        self._extends_run = True
        """Whether no receipt with payloads has come since the last one with missing payloads."""

    def check(self, row: Row) -> None:
        """Raises: VerificationFailed."""
        seq, result = row.seq, self.result
        if seq != result.stop:
            raise VerificationFailed(result.stop, "it is missing")
        if not self.signer.accepts(row.body, row.signature):
            raise VerificationFailed(seq, "not signed by the guard's key")
        receipt = _read(row, self.signer.key.name)
        if leaf_of(row.body, row.signature) != row.leaf:
            raise VerificationFailed(seq, "leaf hash mismatch")
        kind: str = receipt["kind"]
        self._check_time(seq, receipt)
        self._pass_on(seq, kind, receipt, row.payloads or ())
        if row.head is not None and row.head not in self._heads:
            self._heads.add(row.head)
            result.items.append((seq, {"kind": EARLIER_HEAD, "note": row.head}))
        if row.payloads is not None:
            self._check_payloads(seq, receipt, row.payloads)
        self.leaves.add(row.leaf)
        result.kinds[kind] = result.kinds.get(kind, 0) + 1
        result.stop += 1

    def _pass_on(self, seq: int, kind: str, receipt: Receipt, payloads: Sequence[bytes | None]) -> None:
        """Add the items that checks across receipts need."""
        items = self.result.items
        version = receipt.get("policy_version")
        if version == NO_POLICIES:
            if (kind, receipt.get("outcome")) != ("decision", "deny"):
                raise VerificationFailed(seq, "permits something although no policies were loaded")
        elif version is not None and version not in self._versions:
            self._versions.add(version)
            items.append((seq, {"kind": POLICY_REFERENCE, "policy_version": version, "of": kind}))
        if kind.startswith(PASSED_ON_WHOLE) or "operation" in receipt or "policy_approval" in receipt:
            items.append((seq, receipt))
            if kind.startswith("key."):
                self.signer = self.signer.after(seq, receipt)
        elif kind in STEPS_OF_CALLS:
            is_held = receipt.get("outcome") == "require_approval"
            names = MEMBERS_OF_HELD if is_held else MEMBERS_OF_STEPS
            item = {name: receipt[name] for name in names if name in receipt}
            items.append((seq, item | {REQUEST: _request_text(payloads)} if is_held else item))

    def _check_time(self, seq: int, receipt: Receipt) -> None:
        """Times never go back, so that nothing can be added later as of an earlier time. Raises: VerificationFailed."""
        time, result = receipt.get("time"), self.result
        if not isinstance(time, str) or len(time) != TIME_LENGTH:
            raise VerificationFailed(seq, "its `time` is missing or invalid")
        if time < result.last_time:
            raise VerificationFailed(seq, f"its `time` {time} is before that of the receipt before it")
        result.first_time, result.last_time = result.first_time or time, time

    def _check_payloads(self, seq: int, receipt: Receipt, payloads: Sequence[bytes | None]) -> None:
        result, missing = self.result, 0
        for name, payload in zip(PAYLOADS, payloads, strict=True):
            if payload is None:
                missing += name in receipt
            elif name not in receipt:
                raise VerificationFailed(seq, f"a payload `{name}` is stored that the receipt does not commit to")
            elif not isinstance(payload, bytes):
                raise VerificationFailed(seq, f"its payload `{name}` is not stored as bytes")
            elif len(payload) <= SALT_BYTES:
                if name != "response" or len(payload) < SALT_BYTES:
                    problem = f"its payload `{name}` was emptied, and no receipt records that it was erased"
                    raise VerificationFailed(seq, problem)
                result.payloads_not_kept += 1
            elif "sha256:" + hashlib.sha256(payload).hexdigest() != receipt[name]:
                raise VerificationFailed(seq, f"its payload `{name}` does not match its commitment")
            else:
                result.payloads_checked += 1
                self._extends_run = False
        if missing:
            self._note_missing(seq, missing)

    def _note_missing(self, seq: int, count: int) -> None:
        runs = self.result.missing
        if runs and self._extends_run:
            runs[-1] = (runs[-1][0], seq, runs[-1][2] + count)
        else:
            runs.append((seq, seq, count))
        self._extends_run = True

    def _on_subtree(self, height: int, index: int, hash: bytes) -> None:
        check_node(self.reader, height, index, hash)


def _request_text(payloads: Sequence[bytes | None]) -> str | None:
    """The payload `request` without its salt; None if it is not stored."""
    payload = payloads[PAYLOADS.index("request")] if payloads else None
    return payload[SALT_BYTES:].decode(errors="replace") if isinstance(payload, bytes) else None


def check_node(reader: SourceReader, height: int, index: int, hash: bytes) -> None:
    """Check that a stored node is the hash of the receipts below it. Raises: VerificationFailed at the last of them."""
    stored = reader.stored(height // TILE, index, index + 1)
    if stored is not None and stored != [hash]:
        problem = f"the stored node {index} of level {height // TILE} does not match the receipts below it"
        raise VerificationFailed((index + 1 << height) - 1, problem)


def _read(row: Row, origin: str) -> Receipt:
    """The receipt in its document, which must be in canonical form so that every parser reads the same.

    Raises: VerificationFailed.
    """
    try:
        text = row.body.decode()
        receipt, _ = _DECODE(text)
        is_canonical = _ENCODE(receipt) == text
    except (ValueError, RecursionError, TypeError):
        raise VerificationFailed(row.seq, "not a JSON document") from None
    if not isinstance(receipt, dict) or receipt.get("seq") != row.seq or receipt.get("origin") != origin:
        raise VerificationFailed(row.seq, "its `seq` or `origin` does not match its place in this ledger")
    kind, version = receipt.get("kind"), receipt.get("policy_version")
    if not is_canonical or not isinstance(kind, str) or not isinstance(version, str | None):
        raise VerificationFailed(row.seq, "not a valid receipt")
    if row.columns is not None:
        _check_columns(row, row.columns, receipt)
    if "follows" in receipt:
        follows = receipt["follows"]
        if not isinstance(follows, list) or not all(type(seq) is int and 0 <= seq < row.seq for seq in follows):
            raise VerificationFailed(row.seq, f"`follows` is {follows}, which are not earlier receipts")
    return receipt


def _check_columns(row: Row, columns: IndexColumns, receipt: Receipt) -> None:
    """Check that the columns by which the receipt is looked up agree with it. Raises: VerificationFailed."""
    if receipt["kind"] != columns.kind:
        raise VerificationFailed(
            row.seq, f"column `kind` is `{columns.kind}`, but the receipt says `{receipt['kind']}`"
        )
    if receipt.get("call") != columns.call:
        problem = f"column `call` is `{columns.call}`, but the receipt says `{receipt.get('call')}`"
        raise VerificationFailed(row.seq, problem)
    try:
        at = (datetime.fromisoformat(receipt["time"]) - EPOCH) // MICROSECOND
    except (KeyError, TypeError, ValueError):
        raise VerificationFailed(row.seq, "its `time` is missing or invalid") from None
    if at != columns.at:
        raise VerificationFailed(row.seq, f"column `at` is {columns.at}, but the receipt says `{receipt['time']}`")
