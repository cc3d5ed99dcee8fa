"""What the storage contract speaks of, whichever engine keeps it: receipts, keys, instances, messages."""

from dataclasses import dataclass
from typing import NamedTuple

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Instance, Json, Micros
from mcp_guard.core.tlog.merkle import HASH_BYTES

SALT_BYTES = 16
"""The length of the salt at the beginning of each payload's cell."""
PAYLOADS = ("request", "facts", "material", "response", "subject")
"""The names that payloads can have."""

NO_INSTANCE = ""
"""To which the rows of drills belong, so that nothing that asks for the requests of an instance finds them."""

RevocationKey = tuple[str, str]
"""What is revoked: its kind (`instance`, `agent` or `user`) and its name."""


class ReceiptRow(NamedTuple):
    """A receipt as it is stored; `at` in microseconds."""

    seq: int
    kind: str
    at: int
    call: str | None
    body: bytes
    signature: bytes
    leaf: bytes


class TreeHead(NamedTuple):
    """Size and right edge of the tree (its hashes joined), and the verifier line of the key in force (none before the
    first receipt).
    """

    size: int
    edge: bytes
    key: str

    def hashes(self) -> list[bytes]:
        """Of the right edge: the largest complete subtrees, left to right."""
        return [self.edge[at : at + HASH_BYTES] for at in range(0, len(self.edge), HASH_BYTES)]


@dataclass(frozen=True, slots=True)
class ReceiptWithPayloads:
    """A receipt that still has payloads."""

    seq: int
    kind: str
    at: Micros
    call: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class GuardKey:
    """A key of the ledger: its C2SP verifier line, and the first receipt that it may have signed."""

    since: int
    verifier: str


@dataclass(frozen=True, slots=True)
class WitnessedCheckpoint:
    """The last checkpoint that a witness accepted, as a note, with its cosignature if it gave one."""

    witness: str
    size: int
    at: Micros
    note: str


@dataclass(frozen=True, slots=True)
class ApproverKey:
    """A key that an approver signs with. `public` is base64; `details` hold what a passkey needs.

    `enrolled` and `removed` are the receipts of these events; a key without `removed` is in use.
    """

    id: str
    approver: str
    method: str
    """`ed25519` (raw public key) or `webauthn` (SubjectPublicKeyInfo)."""
    public: str
    details: Json
    enrolled: int
    removed: int | None = None


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request for approval, without what it is about. `approvers` are those of its routes."""

    id: str
    state: str
    requested: Micros
    expires: Micros
    approvers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that a notifier must deliver. `state` is `due`, `delivered` or `failed`, or for that about the end of a
    request, `waiting` until then; `due` is its next attempt.

    `subject` is the approval that it is about, or if `event` is `enrolled`, the approver's key.
    """

    id: int
    subject: str
    notifier: str
    event: str
    state: str
    attempts: int
    due: Micros
    note: str


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance as issued; `begun` and `ended` are when its first session opened and its last was closed for good."""

    instance: Instance
    begun: Micros | None
    ended: Micros | None


def task_note(intent: int) -> str:
    """Under this name the ledger notes the task in which the call of an intent goes on (`ledger/tasks.py`)."""
    return f"task {intent}"


@dataclass(frozen=True, slots=True)
class InspectedLedger:
    """The contents of a ledger as far as a check-up needs them. `damage` are the problems that the engine finds.

    `pending` has the open requests, each with the guard process without which its instance cannot go on, if any.
    """

    format: int
    damage: tuple[str, ...]
    head: TreeHead
    checkpoint: str
    last_seq: int
    last_time: int
    bytes: int
    """How much room it takes, with what the engine keeps beside it."""
    open_calls: tuple[tuple[int, str], ...]
    """Without those that go on as tasks of their upstreams."""
    pending: tuple[tuple[Approval, str | None], ...]
    approvers_with_keys: frozenset[str]
    several_keys: tuple[tuple[str, int], ...]
    leased: frozenset[str] = frozenset()
    """The guards that run on any machine, where the engine knows."""
    not_durable: tuple[str, str] | None = None
    """Why a commit could be lost, and what to do, if the server is set so."""
    not_writable: tuple[str, str] | None = None
    """Why no guard of this configuration could write it, and what to do."""
    not_for_pages: tuple[str, str] | None = None
    """The same for its pages."""
