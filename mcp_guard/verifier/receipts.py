"""Checking a run of receipts one by one: signature, form, place, leaf, payloads. What needs the receipts before them is
handed on in few words (`items`). Runs in worker processes; everything that it takes and gives is plain data.
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
from .signatures import PAYLOADS, Receipt
from .sources import SALT_BYTES, IndexColumns, Row, SourceReader

NAMED = "policy.named"
"""An item that is no receipt: the first naming of a policy version within the run."""
EARLIER = "earlier.head"
"""An item that is no receipt: an earlier checkpoint (`note`) that bundles of the run have."""
NO_POLICIES = "none"
"""The version named by what is denied before any policies are loaded."""
OF_INTENT = (
    "kind", "call", "follows", "purpose", "outcome", "approval", "instance", "tool", "definition", "policy_version",
)  # fmt: skip
OF_OTHERS = ("kind", "call", "follows", "outcome")
WHOLE = ("approval.", "grant.", "approver.", "key.", "payload.", "checkpoint.")
"""Families of kinds that are handed on whole."""


@dataclass
class ChunkResult:
    """What came of a run: up to `stop`, where it ended or failed. Everything in it can be marshalled."""

    stop: int
    key: str
    """The verifier line that the run began with."""
    nodes: list[tuple[int, int, bytes]] = field(default_factory=list)
    items: list[tuple[int, Receipt]] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    checked: int = 0
    """Payloads that match their commitment."""
    unkept: int = 0
    """Payloads of which a salt alone stands there: hashed, and never kept."""
    gone: list[tuple[int, int, int]] = field(default_factory=list)
    """First and last receipt of runs whose payloads are gone, and how many payloads; those between have none."""
    failure: tuple[int | None, str] | None = None


ChunkTask = tuple[int, int, str, tuple[str, ...]]
"""First receipt, the one after the last, the key in use (verifier line), the keys given."""


def check_chunk(reader: SourceReader, task: ChunkTask) -> ChunkResult:
    """Check the receipts of a task, up to the first that fails."""
    first, stop, key, given = task
    chunk = _ChunkChecker(reader, first, Signer(parse_key(key), tuple(parse_key(line) for line in given)))
    try:
        for row in reader.rows(first, stop):
            chunk.check(row)
        if chunk.result.stop < stop:
            raise VerificationFailed(chunk.result.stop, f"receipt {chunk.result.stop} is missing")
    except VerificationFailed as failure:
        chunk.result.failure = failure.seq, failure.problem
    chunk.result.nodes = chunk.span.nodes
    return chunk.result


class _ChunkChecker:
    def __init__(self, reader: SourceReader, first: int, signer: Signer) -> None:
        self.reader = reader
        self.signer = signer
        self.span = CompactRange(first, self._on_node)
        self.result = ChunkResult(first, signer.key.line)
        self._versions: set[str] = set()
        self._heads: set[str] = set()
        self._joined = True
        """Whether no receipt that still has payloads came since the last one whose payloads are gone."""

    def check(self, row: Row) -> None:
        """Raises: VerificationFailed."""
        seq, result = row.seq, self.result
        if seq != result.stop:
            raise VerificationFailed(result.stop, f"receipt {result.stop} is missing")
        if not self.signer.accepts(row.body, row.signature):
            raise VerificationFailed(seq, "its signature is not the guard's")
        receipt = _read(row, self.signer.key.name)
        if leaf_of(row.body, row.signature) != row.leaf:
            raise VerificationFailed(seq, "its leaf in the tree is not its own")
        kind: str = receipt["kind"]
        self._hand_on(seq, kind, receipt)
        if row.head is not None and row.head not in self._heads:
            self._heads.add(row.head)
            result.items.append((seq, {"kind": EARLIER, "note": row.head}))
        if row.cells is not None:
            self._check_payloads(seq, receipt, row.cells)
        self.span.add(row.leaf)
        result.kinds[kind] = result.kinds.get(kind, 0) + 1
        result.stop += 1

    def _hand_on(self, seq: int, kind: str, receipt: Receipt) -> None:
        """What the checks across receipts need of this one."""
        version = receipt.get("policy_version")
        if version == NO_POLICIES:
            if (kind, receipt.get("outcome")) != ("decision", "deny"):
                raise VerificationFailed(seq, "lets something happen without policies")
        elif version is not None and version not in self._versions:
            self._versions.add(version)
            self.result.items.append((seq, {"kind": NAMED, "policy_version": version}))
        if kind.startswith(WHOLE):
            self.result.items.append((seq, receipt))
            if kind.startswith("key."):
                self.signer = self.signer.after(seq, receipt)
        elif kind == "intent":
            self.result.items.append((seq, {name: receipt[name] for name in OF_INTENT if name in receipt}))
        elif kind in ("outcome", "decision"):
            self.result.items.append((seq, {name: receipt[name] for name in OF_OTHERS if name in receipt}))

    def _check_payloads(self, seq: int, receipt: Receipt, cells: Sequence[bytes | None]) -> None:
        result, gone = self.result, 0
        for name, cell in zip(PAYLOADS, cells, strict=True):
            if cell is None:
                gone += name in receipt
            elif name not in receipt:
                raise VerificationFailed(seq, f"a payload `{name}` that the receipt does not speak of")
            elif not isinstance(cell, bytes):
                raise VerificationFailed(seq, f"its payload `{name}` is not stored as bytes any more")
            elif len(cell) <= SALT_BYTES:
                if name != "response" or len(cell) < SALT_BYTES:
                    raise VerificationFailed(seq, f"its payload `{name}` was taken away, and no receipt says so")
                result.unkept += 1
            elif "sha256:" + hashlib.sha256(cell).hexdigest() != receipt[name]:
                raise VerificationFailed(seq, f"its payload `{name}` is not what it commits to")
            else:
                result.checked += 1
                self._joined = False
        if gone:
            self._note_gone(seq, gone)

    def _note_gone(self, seq: int, count: int) -> None:
        gone = self.result.gone
        if gone and self._joined:
            gone[-1] = (gone[-1][0], seq, gone[-1][2] + count)
        else:
            gone.append((seq, seq, count))
        self._joined = True

    def _on_node(self, height: int, index: int, hash: bytes) -> None:
        check_node(self.reader, height, index, hash)


def check_node(reader: SourceReader, height: int, index: int, hash: bytes) -> None:
    """A stored node is that of the receipts below it. Raises: VerificationFailed at the last of them."""
    stored = reader.stored(height // TILE, index, index + 1)
    if stored is not None and stored != [hash]:
        raise VerificationFailed(
            (index + 1 << height) - 1, f"the stored node {index} of level {height // TILE} is not theirs"
        )


def _read(row: Row, origin: str) -> Receipt:
    """The receipt in its document, which is in canonical form, so that nobody can read it otherwise.

    Raises: VerificationFailed.
    """
    try:
        text = row.body.decode()
        receipt, _ = _DECODE(text)
        canonical = _ENCODE(receipt) == text
    except (ValueError, RecursionError, TypeError):
        raise VerificationFailed(row.seq, "is not JSON") from None
    if not isinstance(receipt, dict) or receipt.get("seq") != row.seq or receipt.get("origin") != origin:
        raise VerificationFailed(row.seq, "does not say its own place or ledger")
    kind, version = receipt.get("kind"), receipt.get("policy_version")
    if not canonical or not isinstance(kind, str) or not isinstance(version, str | None):
        raise VerificationFailed(row.seq, "is not in the form of a receipt")
    if row.filed is not None:
        _check_filed(row, row.filed, receipt)
    if "follows" in receipt:
        follows = receipt["follows"]
        if not isinstance(follows, list) or not all(type(at) is int and 0 <= at < row.seq for at in follows):
            raise VerificationFailed(row.seq, f"follows {follows}, which is not before it")
    return receipt


def _check_filed(row: Row, filed: IndexColumns, receipt: Receipt) -> None:
    """The columns by which it is looked up say the same as it does. Raises: VerificationFailed."""
    if receipt["kind"] != filed.kind:
        raise VerificationFailed(row.seq, f"is filed as `{filed.kind}` but says `{receipt['kind']}`")
    if receipt.get("call") != filed.call:
        raise VerificationFailed(row.seq, f"is filed under call `{filed.call}` but says `{receipt.get('call')}`")
    try:
        at = (datetime.fromisoformat(receipt["time"]) - EPOCH) // MICROSECOND
    except (KeyError, TypeError, ValueError):
        raise VerificationFailed(row.seq, "does not say its time") from None
    if at != filed.at:
        raise VerificationFailed(row.seq, f"is filed at {filed.at} but says `{receipt['time']}`")


EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_ENCODE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode
_DECODE: Callable[[str], tuple[Any, int]] = json.JSONDecoder().raw_decode
