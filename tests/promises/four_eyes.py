"""Guards whose policies people must approve, put together as `policy_loading.py` does it, and the approvers."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.approval import Route
from mcp_guard.core.model import Json
from mcp_guard.core.policy_approval import PolicyApprovalState, PolicyStatement
from mcp_guard.core.receipt import Draft
from mcp_guard.core.sign_in import SignIn
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol
from mcp_guard.ledger.open import LedgerSettings, OpenLedger, open_ledger
from mcp_guard.ledger.policy_approvals import (
    ApprovedPolicies,
    ApprovedPolicyReceipts,
    GuardProposals,
    PolicyApprovals,
    read_state,
    rule_member,
)
from mcp_guard.policy.engine import PolicyEnvironment
from mcp_guard.policy.proposals import PolicyProposer
from mcp_guard.policy.reload import PoliciesInForce, PolicyReloader, SessionPolicies
from tests.policy.fixtures import PERMIT, make_tool, object_of
from tests.promises.engines import engine
from tests.promises.harness import SECOND, Clock

ORIGIN = "test.example/ledger"
ONE, TWO = (make_tool(object_of(a={"type": "string"}), name) for name in ("one", "two"))
STRICT = '@id("none") forbid (principal, action, resource);'
LOOSE = f"// looser\n{PERMIT}"
PEOPLE: Mapping[str, str] = {"alice": "Alice", "bob": "Bob", "carol": "Carol"}
KEYS = {name: Ed25519PrivateKey.generate() for name in PEOPLE}
ROUTE = Route("policy", tuple(PEOPLE), 3600 * SECOND, quorum=2, notify=("desk",))


def key_of(name: str) -> NewKey:
    return NewKey("ed25519", KEYS[name].public_key().public_bytes_raw(), {})


@dataclass
class FourEyes:
    """One guard process, with policy files of its own. Without a `route`, it has no rule."""

    folder: Path
    route: Route | None = ROUTE
    files: str = "policies.cedar"
    clock: Clock = field(default_factory=Clock)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = LedgerSettings(self.folder / "state", ORIGIN, database=engine().database(self.folder))
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        self.policies = self.folder / self.files
        self.ledger: OpenLedger = open_ledger(settings, self.clock)
        self.writer = self.ledger.writer
        if not self.writer.read(lambda store: store.approver_keys()):
            for name in PEOPLE:
                enrol(self.writer, Approver(name, PEOPLE[name]), key_of(name))
        self.approvals = PolicyApprovals(self.writer, self.route or ROUTE, PEOPLE)
        self.writer.run(self._start)
        self.load_from(ApprovedPolicies(self.approvals) if self.route else None)
        ledger = self.ledger.ledger
        self.proposer = PolicyProposer(
            GuardProposals(self.approvals, ledger, lambda: None),
            self.receipts_of_policies,
            policies=self.policies,
            routes=("people", "policy"),
            why_unusable=self.reloader.why_unusable,
            tell=self.said.append,
        )

    def load_from(self, approved: ApprovedPolicies | None) -> None:
        """From the approved set; without one, from the files."""
        ledger = self.ledger.ledger
        self.receipts_of_policies = ApprovedPolicyReceipts(ledger) if approved else ledger
        self.reloader = PolicyReloader(
            self.receipts_of_policies, self.said.append, policies=self.policies, approved=approved
        )

    def _start(self, tx: Any) -> None:
        fields: Json = {"guard": self.ledger.guard, "pid": 1, "mode": "enforce", "version": "0"}
        tx.add(Draft("guard.started", fields | (rule_member(self.route) if self.route else {})))
        if self.route:
            self.approvals.begin(tx)

    def close(self) -> None:
        self.ledger.close()

    async def session(self, *tools: object) -> SessionPolicies:
        environment = PolicyEnvironment(tuple(tools or (ONE,)), routes=("people",))  # type: ignore[arg-type]
        session = SessionPolicies(PoliciesInForce(()), lambda: environment)
        await self.reloader.load(session)
        return session

    async def edit(self, text: str) -> str:
        """Change the files and let the guard notice; returns the id of the proposal that waits."""
        self.policies.write_text(text)
        await self.proposer.propose()
        return self.state.open.id if self.state.open else ""

    @property
    def state(self) -> PolicyApprovalState:
        state = self.writer.read(read_state)
        assert state is not None
        return state

    def statement(
        self, id: str, approver: str, verdict: str = "approve", signed_in: SignIn | None = None
    ) -> PolicyStatement:
        return self.writer.run(self.approvals.prepare_op(id, approver, verdict, "as agreed", signed_in))

    def record(self, statement: PolicyStatement, by: str = "") -> PolicyApprovalState:
        """`by` signs, by default the approver whom the statement names."""
        signer = by or statement.approver
        signature = {"signature": base64.b64encode(KEYS[signer].sign(statement.text())).decode()}
        return self.writer.run(self.approvals.record_op(statement, key_of(signer).id, signature))

    def vote(self, id: str, approver: str, verdict: str = "approve") -> PolicyApprovalState:
        return self.record(self.statement(id, approver, verdict))

    def approve(self, id: str) -> None:
        self.vote(id, "alice")
        self.vote(id, "bob")

    def receipts(self, kind: str = "policy.") -> list[Json]:
        found = [json.loads(row.body) for row in self.writer.store.receipts_after(-1)]
        return [receipt for receipt in found if receipt["kind"].startswith(kind)]

    def kinds(self) -> list[str]:
        return [receipt["kind"].removeprefix("policy.") for receipt in self.receipts()]


def files_in_force(session: SessionPolicies) -> str:
    """The text of the policies that decide this session's calls; empty if there are none."""
    loaded = session.in_force._engine
    return "" if loaded is None else "".join(loaded.source.texts.values())


async def policies_of_every_fate(folder: Path) -> list[Json]:
    """The receipts of a ledger with a baseline, and sets that were withdrawn, denied and approved."""
    before = FourEyes(folder, route=None)
    before.policies.write_text(PERMIT)
    await before.session()
    before.close()
    guard = FourEyes(folder, clock=before.clock)
    await guard.session()
    await guard.edit(STRICT)
    guard.vote(await guard.edit(LOOSE), "carol", "deny")
    guard.approve(await guard.edit(STRICT))
    await guard.session()
    receipts = guard.receipts("")
    guard.close()
    return receipts
