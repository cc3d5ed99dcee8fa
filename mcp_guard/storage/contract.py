"""The storage contract: what a step of a call, an approval or a look-up may ask of the engine that keeps the state.

One Protocol for each topic, and `Store`, one connection that has them all. These are statements only; `ledger/` decides
what they mean. Consistency, for all of them:

- Between `begin` and `commit`, everything is one transaction, serializable with those of every other process: what it
  reads is what it builds on. Outside of one, a read sees some committed state, which may be outdated when it returns,
  and two reads may see two states.
- A write belongs to a transaction. A compare-and-set changes exactly one row as it was expected, or raises
  ChangedElsewhere; then the transaction must be rolled back. Nothing is durable before `commit` has returned.
- Every statement can raise one of `Store.failures`, which only `Store.explain` turns into an error for people.

Times are microseconds since the epoch. Sequence numbers of receipts begin with 0 and have no gaps.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.approval_card import EarlierRequests, RecentCalls
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Agent, Instance, Json, Micros
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.storage.page_reads import PageReads
from mcp_guard.storage.rate_contract import RateStore
from mcp_guard.storage.rows import (
    ApproverKey,
    Delivery,
    GuardKey,
    InstanceRow,
    ReceiptRow,
    ReceiptWithPayloads,
    RevocationKey,
    TreeHead,
    WitnessedCheckpoint,
)

Reads = Callable[["Store"], object]
"""Makes some of the reads that an op will make, and has no other effect."""
Join = Callable[[], Sequence[Reads]]
"""Adds to a transaction what has arrived by now; its reads."""

# Evidence


class ReceiptStore(Protocol):
    """The receipts, which nothing changes or removes, and the head of their tree.

    Consistency: the head advances with the receipts, in their transaction, and in no other way. So a head that is as it
    was says that no receipt was added, in any process. What a past head covers can be read at any time.
    """

    def head(self) -> TreeHead: ...

    def advance_head(self, before: int, after: TreeHead, checkpoint: str) -> None:
        """Compare-and-set on the size. Raises: ChangedElsewhere if it is not `before` any more."""

    def checkpoint(self) -> str:
        """The signed note of the head; empty before the first receipt."""

    def last_receipt(self) -> tuple[Micros, bytes]:
        """The time and the leaf hash of the last receipt under the head; 0 and nothing if there is none."""

    def leaf(self, seq: int) -> bytes | None:
        """The leaf hash of a receipt; None if there is no such receipt."""

    def add_receipt(self, row: ReceiptRow) -> None: ...

    def add_node(self, level: int, index: int, hash: bytes) -> None:
        """The root of a complete subtree of 256**level receipts."""

    def tile(self, level: int, n: int) -> list[bytes]:
        """The hashes of a tile (core/tlog/merkle.py) that exist now: up to 256."""

    def entries(self, first: int, end: int) -> list[tuple[int, bytes, bytes]]:
        """Number, document and signature of the receipts from `first` up to `end`, in order."""

    def receipt(self, seq: int) -> ReceiptRow | None: ...

    def receipts_of(self, call: str) -> list[ReceiptRow]:
        """In order."""

    def receipts_after(self, seq: int) -> Iterator[ReceiptRow]:
        """In order, read lazily."""

    def receipts_of_kinds(self, kinds: Sequence[str]) -> Iterator[ReceiptRow]:
        """In order, read lazily. Reads through all receipts."""

    def receipts_back(self) -> Iterator[ReceiptRow]:
        """The latest first, read lazily."""


class PayloadStore(Protocol):
    """What receipts commit to, as a salt and its bytes, and how it is erased: once durable, no part of it is left in
    what the engine keeps, after `empty_log` has returned True.
    """

    def add_payloads(self, seq: int, cells: Mapping[str, bytearray]) -> None:
        """The payloads of one receipt by name (of `rows.PAYLOADS`), each with its salt before it."""

    def payloads(self, seq: int) -> dict[str, bytes | None]:
        """The payloads of a receipt; None where it was hashed and not kept. Erased ones are left out."""

    def cells(self, first: int, end: int) -> Iterator[tuple[int, dict[str, tuple[bytes, bytes]]]]:
        """The payloads still kept of the receipts from `first` up to `end`, each as its salt and its bytes."""

    def kept_after(self, seq: int, count: int) -> list[ReceiptWithPayloads]:
        """The next receipts, in order, that have payloads."""

    def needed(self, replies: bool) -> set[int]:
        """Receipts whose payloads something still needs: open requests, calls under way, and with `replies`, outcomes
        that an agent may still ask for."""

    def erase_payloads(self, seqs: Iterable[int]) -> None: ...

    def forget_denied(self, now: Micros) -> None:
        """Erase the nonces and lookups of denials that no longer apply."""

    def forget_salts(self, now: Micros) -> None:
        """Erase the salts of grants that are over (see `Grant.salt`)."""

    def empty_log(self) -> bool:
        """Empty the engine's log of changes, which may hold what was erased. Waits for nobody: False if another process
        keeps it from doing so. Outside a transaction."""


class GuardKeyStore(Protocol):
    """The ledger's own keys, in the order in which they came into force, and what outside witnesses have accepted."""

    def add_guard_key(self, since: int, verifier: str) -> None: ...

    def guard_keys(self) -> list[GuardKey]:
        """Oldest first; the last one is in force."""

    def set_witnessed(self, seen: WitnessedCheckpoint) -> None:
        """In place of what the same witness accepted before."""

    def witnessed(self) -> dict[str, WitnessedCheckpoint]:
        """By the name of the witness, that of the largest tree first."""

    def says_more(self, since: int) -> bool:
        """Whether any receipt from this one on is of another kind than `checkpoint.witnessed`."""


# Calls


class OpenCallStore(Protocol):
    """The intents without an outcome, each with the guard process that dispatches it."""

    def open_call(self, intent: int, guard: str) -> None:
        """Raises: LedgerError, at the latest with `commit`, unless this guard is present (`presence.py`)."""

    def close_call(self, intent: int) -> None:
        """Compare-and-set. Raises: ChangedElsewhere if the call is not open: another guard has closed it."""

    def is_open_call(self, intent: int) -> bool: ...

    def open_calls(self) -> list[tuple[int, str]]:
        """Intent and guard, in the order of the intents."""


class RunStore(Protocol):
    """Summaries of what agents' runs did. No evidence: they may be lost."""

    def keep_run(self, agent: str, at: Micros, instance: str, acts: bytes) -> None:
        """Does nothing if this run is kept already."""

    def runs(self, agent: str, most: int) -> list[tuple[str, bytes]]:
        """The latest runs of an agent by instance, the newest first."""

    def forget_runs(self, agent: str, most: int) -> None:
        """All but the latest."""


class NoteStore(Protocol):
    """Values under names, of which all processes share one, and the texts of policies by version."""

    def remembered(self, name: str, value: str) -> str:
        """The value stored under this name, which is `value` if there was none. A write."""

    def noted(self, name: str) -> str | None:
        """The value noted under this name, if there is one."""

    def note(self, name: str, value: str) -> None:
        """In place of the value that was there."""

    def keep_policy(self, version: str, material: bytes) -> None:
        """Does nothing if this version is kept already."""

    def has_policy(self, version: str) -> bool: ...

    def policy(self, version: str) -> bytes | None: ...


# Approvals


class ApprovalStore(Protocol):
    """Requests for approval. Consistency: whether an approval can be consumed is known only in the transaction that
    moves it, by compare-and-set on its state."""

    def add_approval(self, approval: Approval, receipts: Iterable[int]) -> None: ...

    def move_approval(self, approval: Approval, to: ApprovalState, note: str, receipts: Iterable[int]) -> None:
        """Compare-and-set the state. Raises: ChangedElsewhere if it is not `approval.state` any more."""

    def note_outcome(self, id: str, outcome: int, answered: bool) -> None:
        """Set the receipt of the outcome. An answered request is not looked up again, so its lookup is erased.

        Compare-and-set. Raises: ChangedElsewhere if it has an outcome."""

    def note_answered(self, id: str) -> None:
        """The outcome of its call has been told. Changes nothing without an outcome."""

    def announce(self, ids: Sequence[str]) -> None:
        """Have the executors of other processes hear that these approvals have another state, once the transaction is
        durable. Does nothing in an engine whose executors look for it (see `Executor.poll_seconds`)."""

    def replace_subject(self, id: str, subject: str) -> None: ...

    def forget_nonce(self, id: str, lookup: bool) -> None:
        """Erase the salt of the hashes of a settled request, and with `lookup`, the hash by which it is found."""

    def close_approvals_of(self, instance: str) -> None:
        """The instance has ended: its settled requests are not looked up again, and no reply can be delivered."""

    def approval(self, id: str) -> tuple[Approval, list[int]] | None:
        """The approval, and the sequence numbers of its receipts so far."""

    def approvals_for(self, instance: str, lookup: str) -> list[Approval]:
        """Those for exactly this request, the newest first. On the path of each held call."""

    def approvals(
        self, states: Iterable[ApprovalState] = tuple(ApprovalState), instance: str | None = None
    ) -> list[Approval]:
        """The oldest first."""

    def open_among(self, ids: Iterable[str]) -> set[str]:
        """Those of these approvals that nobody has decided on. Cheap: reads no subject."""

    def open_ids(self) -> set[str]:
        """Those that nobody has decided on. Cheap: reads no subject."""

    def open_size(self, instance: str) -> tuple[int, int, int]:
        """How many requests of this instance nobody has decided on, their length in characters, and how many there are
        of all instances of its agent."""

    def latest_approvals(self, count: int) -> list[Approval]:
        """The newest first, in any state."""

    def recent_calls(self, approval: Approval) -> RecentCalls:
        """What the request's instance, its agent and its user did in the hour before it. The cost does not grow with
        the ledger."""

    def earlier_requests(self, approval: Approval) -> EarlierRequests:
        """How people decided before on requests of the same agent for the same tool. Reads the latest ones only."""

    def requests_of(self, instance: str, count: int) -> tuple[list[Approval], int]:
        """The requests of this instance, open ones first, then the newest: at most `count`, and of a limited total
        length, but at least one. With it the number of all."""


class GrantStore(Protocol):
    """What approvers have allowed for further calls. Consistency: as for approvals."""

    def add_grant(self, grant: Grant, instance: str) -> None: ...

    def move_grant(self, before: Grant, state: str, used: int) -> None:
        """Compare-and-set. Raises: ChangedElsewhere if it is no longer as it was read."""

    def grant(self, id: str) -> Grant | None: ...

    def grants(self, instance: str | None = None, state: str | None = None) -> list[Grant]: ...


class ApproverStore(Protocol):
    """Approvers' keys, the codes with which they sign in (hashed), and the messages that they are sent."""

    def add_approver_key(self, key: ApproverKey) -> None: ...

    def remove_approver_key(self, id: str, receipt: int) -> None:
        """Compare-and-set. Raises: ChangedElsewhere if it was removed before."""

    def note_key_use(self, id: str, details: Json) -> None: ...

    def approver_keys(self) -> list[ApproverKey]:
        """All keys that were ever enrolled, in the order of enrolment."""

    def enrolments(self) -> dict[str, Json]:
        """The receipts of the enrolments, by key."""

    def add_sign_in(self, code: str, approver: str, kind: str, now: Micros, expires: Micros) -> None:
        """Add a code, and forget those that expired before `now`."""

    def has_sign_in(self, code: str) -> bool: ...

    def forget_sign_ins(self, approver: str) -> None: ...

    def take_sign_in(self, code: str, now: Micros) -> tuple[str, str] | None:
        """The approver whose code it is, and its kind; it is gone afterwards, for every process."""


class DeliveryStore(Protocol):
    """Messages to approvers. Consistency: a process takes a message by compare-and-set on its attempts, before it sends
    it, so that one attempt is made once."""

    def add_delivery(self, subject: str, notifier: str, event: str, due: Micros, state: str = "due") -> None: ...

    def move_delivery(self, before: Delivery, state: str, due: Micros, note: str) -> None:
        """Compare-and-set, one attempt more. Raises: ChangedElsewhere if another process has taken it."""

    def settle_delivery(self, id: int, state: str, due: Micros, note: str) -> None:
        """By the process that has taken it."""

    def end_deliveries(self, subject: str, now: Micros) -> None:
        """The request has ended: its `waiting` deliveries are due now."""

    def due_deliveries(self, now: Micros, limit: int) -> list[Delivery]:
        """The first `limit` of each notifier."""

    def deliveries(self, subject: str) -> list[Delivery]: ...


# Who may call, and what


class AgentStore(Protocol):
    """Agents that were enrolled from the command line."""

    def add_agent(self, agent: Agent, on_behalf_of: str | None, seconds: int) -> None: ...

    def remove_agent(self, name: str) -> None:
        """Compare-and-set. Raises: ChangedElsewhere if there is none."""

    def agents(self) -> list[tuple[Agent, str | None, int]]:
        """Each agent, the user it acts for if always the same, and how many seconds its credentials last."""


class InstanceStore(Protocol):
    """Instances of agents, the codes that launch them (hashed), and what launches that share an instance have in
    common. Consistency: a code is taken by one process."""

    def add_instance(self, instance: Instance) -> None: ...

    def instance(self, id: str) -> InstanceRow | None: ...

    def instance_of_credential(self, credential_id: str) -> InstanceRow | None: ...

    def instances(self, alive_at: Micros | None = None) -> list[InstanceRow]:
        """The newest first; with `alive_at`, those that have neither expired nor ended by then."""

    def begin_instance(self, id: str, at: Micros) -> bool:
        """Whether this was its first session."""

    def end_instance(self, id: str, at: Micros) -> bool:
        """Whether it had not ended before."""

    def add_launch(self, code: str, instance: str, expires: Micros) -> None: ...

    def take_launch(self, code: str, now: Micros) -> str | None:
        """The instance that this code launches; the code is gone afterwards."""

    def shared_launch(self, key: str) -> str | None:
        """The instance that launches with this key join."""

    def share_launch(self, key: str, instance: str, expires: Micros, now: Micros) -> None:
        """From now on launches with this key join this instance. Those of expired instances are forgotten."""

    def is_shared(self, instance: str) -> bool:
        """Whether launches can still join this instance, or begin it."""

    def forget_launches(self, instance: str) -> None: ...

    def forget_codes(self) -> None:
        """All codes for launches, for signing in and for enrolling a key."""


class RevocationStore(Protocol):
    """What may not call any more. Consistency: a revocation is in force for each transaction that begins after its
    own has committed, in every process (promise P7)."""

    def revoke(self, key: RevocationKey, until: Micros) -> None:
        """Nothing under this key that started up to `until` may call any more; an instance, whenever it started."""

    def restore(self, key: RevocationKey, until: Micros) -> None:
        """Instances that start after `until` may call again; those revoked before stay revoked.
        Compare-and-set. Raises: ChangedElsewhere if this was not revoked for later ones."""

    def revocations(self) -> list[tuple[RevocationKey, Micros]]: ...

    def revoked(self, keys: Iterable[RevocationKey], started: Micros) -> RevocationKey | None:
        """The first of these that is revoked for what started then."""

    def is_in_order(
        self, keys: Collection[RevocationKey], started: Micros, upstream: str, tool: str, definition: str
    ) -> bool:
        """Whether none of these is revoked for what started then, and this definition of the tool is in force.
        On the path of each call: one statement for both."""


class PinStore(Protocol):
    """Tool definitions: pinned, quarantined, refused, retired. Consistency: at most one definition of a tool is in
    force (promise P6), and whatever is recorded of any makes `pin_generation` grow."""

    def pinned_hash(self, upstream: str, tool: str) -> str | None:
        """The definition in force. On the path of each call."""

    def pin_states(self) -> list[tuple[str, str, str, PinState]]:
        """Upstream, tool, hash and state of every definition."""

    def pin_upstreams(self) -> set[str]:
        """Upstreams that have listed any tool before."""

    def pin_generation(self) -> int:
        """Grows with everything that is recorded of any definition."""

    def pins(self, upstream: str | None = None, tool: str | None = None) -> list[Pin]:
        """Every definition, or those of one tool, the latest spoken of last."""

    def add_pins(self, pins: Iterable[Pin]) -> None: ...

    def move_pin(self, before: Pin, to: PinState, receipt: int, why: str) -> None:
        """Compare-and-set. Raises: ChangedElsewhere if it is not in that state any more."""

    def drop_pin(self, pin: Pin) -> None:
        """Forget a definition. Compare-and-set. Raises: ChangedElsewhere if it is in force by now."""


# All of it


class Store(
    ReceiptStore,
    PayloadStore,
    GuardKeyStore,
    OpenCallStore,
    RateStore,
    RunStore,
    NoteStore,
    ApprovalStore,
    GrantStore,
    ApproverStore,
    DeliveryStore,
    AgentStore,
    InstanceStore,
    RevocationStore,
    PinStore,
    PageReads,
    Protocol,
):
    """One connection to the state, for one thread."""

    @property
    def name(self) -> str:
        """Where it is, for people: nothing takes it apart."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What statements raise when the engine fails."""

    def explain(self, failure: Exception) -> LedgerError:
        """What one of `failures` means to a person, and what they can do."""

    def reading(self) -> AbstractContextManager[None]:
        """Turns a failure to read into a LedgerError."""

    def begin(
        self, known: TreeHead | None = None, locked: bool = True, reads: Sequence[Reads] = (), join: Join = tuple
    ) -> None:
        """Begin a transaction that writes. Waits while another process is in one, for a limited time; if an event loop
        went on meanwhile, `join` is called under the lock. Unless it is `locked`, it may build on the head that is
        `known`: if another process has advanced that, `commit` raises HeadMoved, also where it has only read. What
        `reads` make may be read at once and ahead of time; what the transaction reads is the same without them."""

    @property
    def excludes_others(self) -> bool:
        """Whether the transaction holds the lock. Until then, what it has read may be of several states."""

    def commit(self) -> None:
        """INVARIANT: what the transaction wrote is durable when this returns, in the place of this name.
        Raises: HeadMoved if it must be repeated, LedgerError if the place is not the one that was opened."""

    def rollback(self) -> None:
        """Undo what was written since `begin`; without effect outside a transaction."""

    def version(self) -> int:
        """Differs if another connection has added a receipt since, and perhaps after other writes. Cheap."""

    def stored_bytes(self) -> int:
        """How much room the ledger takes, with what the engine keeps beside it."""

    def close(self) -> None: ...
