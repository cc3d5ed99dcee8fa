"""Four eyes on policy in the ledger: sets are proposed, voted on and put in force, each step with its receipt.

What may be loaded is the same for every guard on the ledger. The policy files decide nothing while the rule is on: they
are where proposals come from, and the text of an approved set is read from the ledger.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import orjson

from mcp_guard.core import policy_approval as rules
from mcp_guard.core.approval import Route, RouteRule
from mcp_guard.core.canonical import digest
from mcp_guard.core.errors import ApprovalError, LedgerError
from mcp_guard.core.model import Json
from mcp_guard.core.policy_approval import (
    PENDING,
    PolicyApprovalState,
    PolicyProposal,
    PolicyStatement,
    PolicyVote,
    SetReplaced,
    hash_of_set,
    rule_as_json,
    set_material,
)
from mcp_guard.core.receipt import Draft
from mcp_guard.core.sign_in import SignIn
from mcp_guard.core.signed_words import check_words
from mcp_guard.identity.instances import random_text
from mcp_guard.ledger.approvals.approver_keys import usable_key
from mcp_guard.ledger.ledger import LOADED_AS, SqlLedger, noting
from mcp_guard.ledger.writer import Op, Transaction, Writer
from mcp_guard.settings import Settings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import ApproverKey

NOTED_AS = "policy approval"
PROPOSED = "policy_proposed"
"""The event of the messages that are sent about a proposal."""


def read_state(store: Store) -> PolicyApprovalState | None:
    """None if the rule was never on."""
    noted = store.noted(NOTED_AS)
    return PolicyApprovalState.from_json(json.loads(noted)) if noted else None


def read_texts(store: Store, policy_set: str) -> dict[str, str]:
    """The files of a set by name. Raises: LedgerError if the ledger does not have them as they were proposed."""
    material = store.policy(policy_set)
    if material is None or digest(material) != policy_set:
        raise LedgerError(
            f"the text of policy set {policy_set[7:19]} is missing or was changed",
            "verify the ledger: mcp-guard verify",
        )
    texts: dict[str, str] = json.loads(material)["policies"]
    return texts


@dataclass(frozen=True, slots=True)
class PolicyApprovals:
    """Proposing and voting by the rule of one route. `people` are the approvers' names by id."""

    writer: Writer
    route: Route
    people: Mapping[str, str]

    @property
    def rule(self) -> RouteRule:
        return rule_of(self.route)

    def begin(self, tx: Transaction) -> PolicyApprovalState:
        """The state of the ledger. When the rule begins, the set that was loaded last stays in force as its baseline.

        INVARIANT: the first transaction in which a receipt names the rule calls this, so that a verifier finds the same
        baseline.
        """
        if (state := read_state(tx.store)) is not None:
            return state
        baseline = None
        if (texts := _last_loaded(tx.store)) is not None:
            baseline = hash_of_set(texts)
            tx.store.keep_policy(baseline, set_material(texts))
        state = PolicyApprovalState(baseline)
        _keep(tx, state)
        return state

    # Proposals

    def propose_op(self, texts: Mapping[str, str], by: str, again: bool = False) -> Op[PolicyApprovalState]:
        """Propose this set, in place of an open proposal of another one, unless it is in force, proposed, or was denied
        last; with `again`, also if it was denied. Returns the state afterwards."""
        policy_set = hash_of_set(texts)

        def op(tx: Transaction) -> PolicyApprovalState:
            state = self.begin(tx)
            if again and state.denied == policy_set:
                state = replace(state, denied=None)
            if not state.needs_proposal(policy_set):
                return state
            if state.open is not None:
                _withdraw(tx, state.open, "another set was proposed")
            proposal = PolicyProposal(f"pp_{random_text(10)}", policy_set, state.in_force, self.rule, by, tx.now)
            tx.store.keep_policy(policy_set, set_material(texts))
            tx.add(Draft("policy.proposed", proposal.members() | {"by": by, "files": sorted(texts)}))
            for notifier in self.route.notify:
                tx.store.add_delivery(proposal.id, notifier, PROPOSED, tx.now)
            state = PolicyApprovalState(state.in_force, state.approved, proposal)
            _keep(tx, state)
            return state

        return op

    def withdraw_op(self, policy_set: str, note: str) -> Op[PolicyApprovalState]:
        """Withdraw the open proposal, if it is of this set."""

        def op(tx: Transaction) -> PolicyApprovalState:
            state = self.begin(tx)
            if state.open is None or state.open.policy_set != policy_set:
                return state
            _withdraw(tx, state.open, note)
            state = replace(state, open=None)
            _keep(tx, state)
            return state

        return op

    # Votes

    def prepare_op(
        self, id: str, approver: str, verdict: str, rationale: str, signed_in: SignIn | None = None
    ) -> Op[PolicyStatement]:
        """The statement for this approver to sign. The op raises ApprovalError if they may not vote, also because of
        how they are signed in, or the proposal is not open."""
        check_words(rationale, "rationale", rules.MAX_RATIONALE_LENGTH)

        def op(tx: Transaction) -> PolicyStatement:
            _, proposal = self._check_vote(tx, id, approver, verdict)
            rules.check_sign_in(proposal, signed_in, tx.now)
            name, about = self.people[approver], proposal.members()
            return PolicyStatement(tx.key.origin, about, verdict, approver, name, rationale, tx.now, signed_in)

        return op

    def record_op(self, statement: PolicyStatement, key: str, signature: Json) -> Op[PolicyApprovalState]:
        """Record a signed vote. The last one that was missing puts the set in force, for every guard. The op raises
        ApprovalError."""

        def op(tx: Transaction) -> PolicyApprovalState:
            id = statement.about["proposal"]
            state, proposal = self._check_vote(tx, id, statement.approver, statement.verdict)
            rules.check_statement(statement, proposal, tx.key.origin, tx.now)
            vote = statement.vote(key, signature)
            usable_key(tx.store.approver_keys(), key, vote.approver)
            _check_votes(tx, proposal, [vote])
            after = state.with_vote(vote)
            missing = {"missing": [proposal.rule.route]} if vote.verdict == "approve" and after.open else {}
            kind = "policy.approved" if vote.verdict == "approve" else "policy.denied"
            tx.add(Draft(kind, proposal.members() | vote.to_json() | missing))
            _keep(tx, after)
            return after

        return op

    def _check_vote(
        self, tx: Transaction, id: str, approver: str, verdict: str
    ) -> tuple[PolicyApprovalState, PolicyProposal]:
        """Raises: ApprovalError."""
        state = read_state(tx.store)
        if state is None or state.open is None or state.open.id != id:
            waits = f"`{state.open.id}` waits" if state and state.open else "nothing waits"
            raise ApprovalError(f"proposal `{id}` does not wait for approval; {waits}", PENDING)
        if approver not in self.people:
            raise ApprovalError(
                f"`{approver}` is not an approver", f"enrolled under [approvers]: {', '.join(self.people)}"
            )
        rules.check_vote(state.open, approver, verdict)
        return state, state.open


@dataclass(frozen=True, slots=True)
class GuardProposals:
    """The proposals of one running guard: see `policy.proposals.Proposals`. `on_proposed` is called after each."""

    approvals: PolicyApprovals
    ledger: SqlLedger
    on_proposed: Callable[[], None]

    async def propose(self, texts: Mapping[str, str]) -> PolicyApprovalState:
        state = await self.ledger.writer.submit(self.approvals.propose_op(texts, self.ledger.guard))
        if state.open is not None:
            self.on_proposed()
        return state

    async def withdraw(self, policy_set: str, note: str) -> PolicyApprovalState:
        return await self.ledger.writer.submit(self.approvals.withdraw_op(policy_set, note))


@dataclass(slots=True)
class ApprovedPolicies:
    """What one guard may load, as of the last `refresh`: see `policy.reload.ApprovedSet`."""

    approvals: PolicyApprovals
    state: PolicyApprovalState = field(default_factory=PolicyApprovalState)
    texts: Mapping[str, str] | None = None

    @property
    def identity(self) -> str:
        return self.state.identity

    @property
    def why_none(self) -> str:
        proposal, route = self.state.open, self.approvals.route.name
        if proposal is not None:
            return f"no policies have been approved yet: proposal {proposal.id} waits for approval by route `{route}`"
        return f"no policies have been approved yet by route `{route}`"

    async def refresh(self) -> None:
        """Raises: LedgerError."""
        state = await self.approvals.writer.query(read_state) or PolicyApprovalState()
        policy_set = state.in_force
        if policy_set != self.state.in_force or (policy_set and self.texts is None):
            self.texts = await self.approvals.writer.query(lambda s: read_texts(s, policy_set)) if policy_set else None
        self.state = state


@dataclass(frozen=True, slots=True)
class ApprovedPolicyReceipts:
    """Receipts of loading under the rule: see `policy.reload.PolicyReceipts`."""

    ledger: SqlLedger

    async def note(self, *drafts: Draft, policy: tuple[str, Callable[[], bytes]] | None = None) -> list[int]:
        """INVARIANT: a set is receipted as loaded only in a transaction that finds it in force, with its quorum of
        votes, each still valid. Raises: SetReplaced, LedgerError."""

        def op(tx: Transaction) -> list[int]:
            checked = [self._with_approval(tx, draft, policy) for draft in drafts]
            return noting(*checked, policy=policy)(tx)

        await self.ledger.catch_up()
        return await self.ledger.writer.submit(op)

    def _with_approval(self, tx: Transaction, draft: Draft, policy: tuple[str, Callable[[], bytes]] | None) -> Draft:
        if draft.kind != "policy.loaded" or draft.fields.get("shadow"):
            return draft
        assert policy is not None
        state = read_state(tx.store)
        policy_set = hash_of_set(orjson.loads(policy[1]())["policies"])
        if state is None or state.in_force != policy_set:
            raise SetReplaced("another set of policies was put in force meanwhile", PENDING)
        fields: Json = {"policy_set": policy_set, "guard": self.ledger.guard}
        if state.approved is None:
            return draft._replace(fields={**draft.fields, **fields, "baseline": True})
        proposal = state.approved
        if proposal.policy_set != policy_set or proposal.missing:
            raise LedgerError(f"proposal {proposal.id} lacks votes for this set", "verify the ledger: mcp-guard verify")
        _check_votes(tx, proposal, proposal.votes)
        votes = [vote.to_json() for vote in proposal.votes]
        return draft._replace(fields={**draft.fields, **fields, "approved_by": proposal.members() | {"votes": votes}})


def _keep(tx: Transaction, state: PolicyApprovalState) -> None:
    tx.store.note(NOTED_AS, json.dumps(state.to_json()))


def _withdraw(tx: Transaction, proposal: PolicyProposal, note: str) -> None:
    fields = {"proposal": proposal.id, "policy_set": proposal.policy_set, "note": note}
    tx.add(Draft("policy.withdrawn", fields))


def _check_votes(tx: Transaction, proposal: PolicyProposal, votes: Iterable[PolicyVote]) -> None:
    """Raises: ApprovalError unless each is signed by its approver; their key may have been removed since."""
    from mcp_guard.verifier import check_signature  # few guards load approved policies

    keys: dict[str, ApproverKey] = {key.id: key for key in tx.store.approver_keys()}
    for vote in votes:
        key = keys.get(vote.key)
        signed = {name: value for name, value in vote.to_json().items() if name not in ("key", "signature")}
        text = orjson.dumps(
            proposal.members() | signed | {"origin": tx.key.origin, "type": rules.STATEMENT_TYPE},
            option=orjson.OPT_SORT_KEYS,
        )
        try:
            if key is None or key.approver != vote.approver:
                raise ValueError("it is not by a key of theirs")
            check_signature(key.method, key.public, key.details, text, vote.signature)
        except ValueError as error:
            problem = f"the vote of `{vote.approver}` is not validly signed: {error}"
            raise ApprovalError(problem, "sign with the enrolled key") from None


def _last_loaded(store: Store) -> dict[str, str] | None:
    """The files of the policies that were loaded last; None if there are none."""
    version = store.noted(LOADED_AS)
    if version is None:  # loaded by an earlier version, which did not note it
        for row in store.receipts_back():
            if row.kind == "policy.loaded" and "shadow" not in (receipt := json.loads(row.body)):
                version = receipt["policy_version"]
                break
    material = store.policy(version) if version else None
    if material is None:
        return None
    texts: dict[str, str] = json.loads(material)["policies"]
    return texts


def rule_member(route: Route) -> Json:
    """The member of `guard.started` that says that the rule is on."""
    return {"policy_approval": rule_as_json(rule_of(route))}


def rule_of(route: Route) -> RouteRule:
    """What a route demands of a proposal that is made now."""
    return RouteRule(route.name, route.approvers, route.quorum, sign_in=route.sign_in)


def configured_approvals(settings: Settings, writer: Writer) -> PolicyApprovals | None:
    """By the rule of the configuration; None if it has none, and the policy files count."""
    if settings.policy_approval is None:
        return None
    return PolicyApprovals(writer, settings.routes[settings.policy_approval], settings.approvers)
