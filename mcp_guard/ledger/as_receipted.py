"""Checks the tables that say who may approve and call against the receipts, for a restore and for `doctor`.

No receipt commits to the tables themselves. So whoever can write to a backup could put a key of their own into it, or
take out that an agent was disabled, and the receipts would verify all the same.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Json, Micros
from mcp_guard.core.policy_approval import hash_of_set
from mcp_guard.core.times import micros
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.policy_approvals import read_state
from mcp_guard.ledger.registry import FOREVER
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import ApproverKey, RevocationKey

T = TypeVar("T")
KINDS = (
    "approver.enrolled", "approver.removed", "credential.revoked", "agent.enabled", "agent.enrolled", "policy.loaded",
    "guard.started", "policy.proposed", "policy.approved",
)  # fmt: skip
"""Of the receipts that say what the tables hold."""
Enrolled = tuple[str, tuple[str, ...], str | None]
"""Owner, groups and user."""


@dataclass(slots=True)
class Revoked:
    """Until when, unless it is an agent that may be disabled, or must be. Receipts of earlier versions do not say which
    of the two; so one that is silent allows both."""

    until: Micros
    may_be_disabled: bool = False
    is_disabled: bool = False

    def allows(self, until: Micros | None) -> bool:
        if until == FOREVER:
            return self.may_be_disabled
        return until == self.until and not self.is_disabled


@dataclass(slots=True)
class ReceiptedState:
    """What the tables hold if they are as the receipts say."""

    keys: dict[str, ApproverKey] = field(default_factory=dict)
    revoked: dict[RevocationKey, Revoked] = field(default_factory=dict)
    agents: dict[str, Enrolled] = field(default_factory=dict)
    loaded: str | None = None
    """The policy version that was loaded last, until a rule of four eyes began."""
    began: bool = False
    """Whether such a rule has begun."""
    policy_set: str | None = None
    """The set that was approved last, and its proposal."""
    proposal: str | None = None
    """Empty for the baseline."""

    def read(self, kind: str, seq: int, receipt: Json) -> None:
        match kind:
            case "approver.enrolled":
                named = (receipt["approver"], receipt["method"], receipt["public"])
                self.keys[receipt["key"]] = ApproverKey(receipt["key"], *named, receipt.get("details", {}), seq)
            case "approver.removed":
                self.keys[receipt["key"]] = replace(self.keys[receipt["key"]], removed=seq)
            case "credential.revoked":
                self._revoke((receipt["scope"], receipt["name"]), receipt)
            case "agent.enabled":
                self.revoked["agent", receipt["agent"]] = Revoked(_micros(receipt["time"]))
            case "agent.enrolled":
                groups = tuple(receipt.get("groups", ()))
                self.agents[receipt["agent"]] = (receipt["owner"], groups, receipt.get("on_behalf_of"))
            case "policy.loaded" if not self.began and not receipt.get("shadow"):
                self.loaded = receipt["policy_version"]
            case "guard.started" | "policy.proposed":
                self.began = self.began or kind == "policy.proposed" or "policy_approval" in receipt
            case "policy.approved" if not receipt.get("missing"):
                self.policy_set, self.proposal = receipt["policy_set"], receipt["proposal"]

    def _revoke(self, key: RevocationKey, receipt: Json) -> None:
        before = self.revoked.get(key, Revoked(0))
        is_disabled = before.is_disabled or receipt.get("disabled", False)
        until = max(before.until, _micros(receipt["time"]))
        self.revoked[key] = Revoked(until, key[0] == "agent", is_disabled)


def check_tables(store: Store) -> None:
    """Raises: LedgerError if a table is not as its receipts say, which were verified."""
    for what in _differences(store):
        raise LedgerError(f"{what} as its receipts say", "somebody has changed this backup: use another one")


def find_differences(store: Store) -> list[str]:
    """Each as the first words of a sentence: what a table has that is not `as its receipts say`. Guards may write
    meanwhile; the receipts are not verified. Raises: LedgerError."""
    try:
        differences = list(_differences(store))
        if not differences:
            return []
        again = set(_differences(store))  # the tables are read after the receipts
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["a table or receipt is damaged, and not"]
    return [what for what in differences if what in again]


def _differences(store: Store) -> Iterator[str]:
    """Each as the first words of a sentence."""
    receipted = ReceiptedState()
    for row in store.receipts_of_kinds(KINDS):
        receipted.read(row.kind, row.seq, json.loads(row.body))
    kept = {key.id: _without_count(key) for key in store.approver_keys()}
    ours = {id: _without_count(key) for id, key in receipted.keys.items()}
    for id in _differing(kept, ours):
        approver = (kept.get(id) or ours[id]).approver
        yield say("the approver's key {} of {} is not", f"`{id}`", f"`{approver}`")
    revocations = dict(store.revocations())
    for key in sorted(revocations.keys() | receipted.revoked.keys()):
        if key not in receipted.revoked or not receipted.revoked[key].allows(revocations.get(key)):
            yield say("the revocation of {} {} is not", key[0], f"`{key[1]}`")
    if not _is_policy_state_as_receipted(receipted, store):
        yield "the set of policies in force is not"
    agents = {agent.name: (agent.owner, agent.groups, user) for agent, user, _ in store.agents()}
    for name in _differing(agents, receipted.agents):
        yield say("the enrolled agent {} is not", f"`{name}`")


def _is_policy_state_as_receipted(receipted: ReceiptedState, store: Store) -> bool:
    """Whether the set that may be loaded under the rule of four eyes is the approved one, or its baseline."""
    state = read_state(store)
    if state is None or not receipted.began:
        return state is None and not receipted.began
    if receipted.proposal is None and receipted.loaded is not None:
        material = store.policy(receipted.loaded)
        receipted.policy_set = None if material is None else hash_of_set(json.loads(material)["policies"])
    proposal = state.approved.id if state.approved else None
    return (state.in_force, proposal) == (receipted.policy_set, receipted.proposal)


def _differing(these: Mapping[str, T], those: Mapping[str, T]) -> list[str]:
    return sorted(name for name in these.keys() | those.keys() if these.get(name) != those.get(name))


def _without_count(key: ApproverKey) -> ApproverKey:
    """A passkey counts how often it signed, which no receipt says."""
    return replace(key, details={name: value for name, value in key.details.items() if name != "count"})


def _micros(time: str) -> Micros:
    return micros(datetime.fromisoformat(time))
