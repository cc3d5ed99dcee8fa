"""Consistency between the receipts of format 4, by the rules of the version that wrote them.

`consistency.py` has today's rules. In format 4, approvers signed hashes of the request and of the decision, and not in
clear what they are for, and enrolments did not say who had permitted them.
"""

from dataclasses import dataclass, field
from datetime import datetime

from .approver_keys import TrustedKeys, is_same_key
from .granting import follow_vote
from .report import VerificationFailed
from .reported_votes import ReportedVotes
from .self_approval import SelfApprovals
from .signatures import Receipt, check_signature, statement, voucher

MIGRATED = "ledger.migrated"


@dataclass
class OpenApproval4:
    """A request that has not ended: what its routes require, and who has approved it."""

    state: str
    """The kind of the receipt that put it in its state."""
    rules: list[Receipt]
    decision_hash: str
    last: int
    """Its latest receipt, which the next one must follow."""
    votes: list[Receipt] = field(default_factory=list)
    """The receipts of the approving votes."""
    terms: tuple[int, int, list[str]] | None = None
    """The signed terms of a grant: number of uses, seconds, and free arguments."""


class Format4Checker:
    """Follows each call, approval, grant and approver's key through its receipts. Only open ones are kept in memory."""

    def __init__(self, trusted: TrustedKeys | None = None) -> None:
        """`trusted` are the approvers' keys given to the verifier; None accepts those that the ledger names."""
        self.intents: dict[int, str] = {}
        self.approvals: dict[str, OpenApproval4] = {}
        self.grants: dict[str, Receipt] = {}
        self.keys: dict[str, Receipt] = {}
        self.ids: set[str] = set()
        """Ids of all approvals and grants."""
        self.enrolled: set[str] = set()
        """Ids and public keys of all that were ever enrolled."""
        self.trusted = trusted
        self.votes = 0
        self.self_approvals = SelfApprovals()
        self.reported = ReportedVotes()
        """None: this format has no such votes."""
        self._held: tuple[int, str] | None = None
        """The latest decision that required approval, and its call."""
        self._consumed: tuple[int, str] | None = None
        """The approval or use of a grant that the previous receipt consumed; the intent for it must come next."""

    def check(self, seq: int, receipt: Receipt) -> None:
        """Raises: VerificationFailed; KeyError, TypeError or ValueError if the receipt lacks members of its kind."""
        kind = receipt["kind"]
        follows = receipt.get("follows", [])
        consumed, self._consumed = self._consumed, None
        if consumed is not None and (seq, kind, receipt.get("outcome")) != (
            consumed[0] + 1, "intent", "require_approval",
        ):  # fmt: skip
            raise VerificationFailed(consumed[0], f"consumes {consumed[1]}, but no intent for it follows")
        if kind == "intent":
            self._check_intent(seq, receipt)
        elif kind == "decision":
            if receipt.get("outcome") == "require_approval":
                self._held = seq, receipt["call"]
        elif kind == "outcome":
            if self.intents.pop(follows[0] if follows else -1, None) != receipt["call"]:
                raise VerificationFailed(seq, f"an outcome of call `{receipt['call']}` without an open intent")
        elif kind.startswith("approval."):
            self._check_approval(seq, receipt, kind)
        elif kind.startswith("grant."):
            self._check_grant(seq, receipt, kind)
        elif kind.startswith("approver."):
            self._check_key(seq, receipt, kind)

    def finish(self) -> None:
        """Check that nothing was consumed by the last receipt. Raises: VerificationFailed."""
        if self._consumed is not None:
            raise VerificationFailed(self._consumed[0], f"consumes {self._consumed[1]}, but no intent for it follows")

    def _check_intent(self, seq: int, receipt: Receipt) -> None:
        self.intents[seq] = receipt["call"]
        if receipt.get("purpose") == "facts":
            return
        outcome = receipt["outcome"]
        if outcome not in ("allow", "require_approval"):
            raise VerificationFailed(seq, f"an intent of call `{receipt['call']}`, which its decision does not permit")
        if outcome == "require_approval":
            used = receipt.get("approval", {})
            if "grant" in used:
                self._check_grant_use(seq, receipt, used)
                return
            approval = self.approvals.pop(used.get("id"), None)
            if approval is None or approval.state != "approval.consumed":
                raise VerificationFailed(seq, "an intent that required approval, but no approval was consumed for it")
            if used["decision_hash"] != approval.decision_hash:
                raise VerificationFailed(seq, f"approval `{used['id']}` was granted for another decision")

    def _check_grant_use(self, seq: int, receipt: Receipt, used: Receipt) -> None:
        grant = self.grants.get(used["grant"])
        if grant is None or grant["spent"] != used["use"] or grant["spent"] <= grant["taken"]:
            raise VerificationFailed(seq, f"a use of grant `{used['grant']}` without a receipt of it just before")
        binding = grant["binding"]
        for name in ("instance", "tool", "definition", "policy_version"):
            if receipt[name] != binding[name]:
                raise VerificationFailed(seq, f"grant `{used['grant']}` is for another {name.replace('_', ' ')}")
        grant["taken"] = used["use"]
        if grant["taken"] == grant["uses"]:
            del self.grants[used["grant"]]

    def _check_approval(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["approval"]
        if kind == "approval.requested":
            if id in self.approvals:
                raise VerificationFailed(seq, f"approval `{id}` is requested twice")
            self._check_request(seq, receipt)
            return
        approval = self.approvals.get(id)
        if approval is None:
            raise VerificationFailed(seq, f"`{kind}` of approval `{id}`, which is unknown or has ended")
        if receipt["decision_hash"] != approval.decision_hash:
            raise VerificationFailed(seq, f"approval `{id}` was requested for another decision")
        if receipt["follows"] != [approval.last]:
            raise VerificationFailed(
                seq, f"does not follow receipt {approval.last}, the previous one of approval `{id}`"
            )
        approval.last = seq
        if kind in ("approval.granted", "approval.denied"):
            self._check_vote(seq, receipt, approval)
        self._move(seq, receipt, approval)

    def _move(self, seq: int, receipt: Receipt, approval: OpenApproval4) -> None:
        """One step of an open request."""
        id, kind = receipt["approval"], receipt["kind"]
        if kind == "approval.escalated":
            approval.rules = receipt["rules"]
        elif kind == "approval.granted":
            follow_vote(seq, receipt, approval, self.self_approvals)
        elif kind == "approval.consumed":
            if approval.state != "approval.granted":
                raise VerificationFailed(seq, f"approval `{id}` is consumed without having been granted")
            approval.state, self._consumed = kind, (seq, f"approval `{id}`")
        else:
            del self.approvals[id]

    def _check_request(self, seq: int, receipt: Receipt) -> None:
        id, held = receipt["approval"], self._held
        if "commitment" in receipt:
            raise VerificationFailed(seq, f"approval `{id}` is of a newer format than its place in the ledger")
        self.ids.add(id)
        if held is None or (receipt["follows"], receipt["call"]) != ([held[0]], held[1]):
            raise VerificationFailed(seq, f"approval `{id}` is requested without a decision that requires it")
        self.approvals[id] = OpenApproval4("approval.requested", receipt["rules"], receipt["decision_hash"], seq)

    def _check_vote(self, seq: int, receipt: Receipt, approval: OpenApproval4) -> None:
        """An approver's vote is signed with a key of theirs that is in use."""
        key, approver = self.keys.get(receipt["key"]), receipt["approver"]
        if key is None or key["approver"] != approver:
            raise VerificationFailed(seq, f"`{approver}` has no key `{receipt['key']}` in use")
        if self.trusted is not None and not is_same_key(key, self.trusted.by_id.get(receipt["key"])):
            raise VerificationFailed(seq, self.trusted.why_unknown(receipt["key"], approver))
        try:
            check_signature(
                key["method"], key["public"], key.get("details", {}), statement(receipt), receipt["signature"]
            )
        except ValueError as error:
            raise VerificationFailed(seq, f"the vote of `{approver}` is not signed by them: {error}") from None
        if not any(approver in rule["approvers"] for rule in approval.rules):
            raise VerificationFailed(seq, f"`{approver}` is not an approver of any of its routes")
        self.votes += 1
        if receipt["verdict"] == "approve":
            approval.votes.append(receipt)
            if terms := receipt.get("terms"):
                approval.terms = terms["uses"], terms["seconds"], terms["free"]

    def _check_grant(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["grant"]
        if kind == "grant.given":
            approval = self.approvals.get(receipt["approval"])
            if approval is None or approval.state != "approval.granted" or id in self.grants:
                raise VerificationFailed(seq, f"grant `{id}` was given without an approval")
            if (receipt["uses"], _duration(receipt), receipt.get("free", [])) != approval.terms:
                raise VerificationFailed(seq, f"grant `{id}` differs from the terms that its approvers signed")
            self.ids.add(id)
            self.grants[id] = {**receipt, "spent": 0, "taken": 0}
            return
        grant = self.grants.get(id)
        if grant is None:
            raise VerificationFailed(seq, f"`{kind}` of grant `{id}`, which is unknown or has ended")
        if kind == "grant.revoked":
            del self.grants[id]
        elif receipt["use"] != grant["spent"] + 1 or receipt["use"] > grant["uses"] or receipt["time"] > grant["until"]:
            raise VerificationFailed(seq, f"grant `{id}` is used beyond its limits")
        else:
            grant["spent"] += 1
            self._consumed = seq, f"a use of grant `{id}`"

    def _check_key(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["key"]
        if kind == "approver.removed":
            if self.keys.pop(id, None) is None:
                raise VerificationFailed(seq, f"removes the approver's key `{id}`, which is unknown")
            return
        if id in self.keys:
            raise VerificationFailed(seq, f"the approver's key `{id}` is enrolled twice")
        if "authorized_by" in receipt:
            raise VerificationFailed(seq, f"the key `{id}` is enrolled in a newer format than its place in the ledger")
        self.enrolled |= {id, receipt["public"]}
        if vouched := receipt.get("vouched_by"):
            self._check_voucher(seq, receipt, vouched)
        self.keys[id] = receipt

    def _check_voucher(self, seq: int, receipt: Receipt, vouched: Receipt) -> None:
        """A rotated key is signed by the approver's key before it."""
        old = self.keys.get(vouched["key"])
        try:
            if old is None or old["approver"] != receipt["approver"]:
                raise ValueError("the old key does not belong to the approver")
            check_signature(old["method"], old["public"], {}, voucher(receipt), vouched)
        except ValueError as error:
            problem = f"no earlier key of `{receipt['approver']}` vouches for the new key: {error}"
            raise VerificationFailed(seq, problem) from None


def _duration(grant: Receipt) -> float:
    """Seconds from the grant's receipt to its end."""
    until, given = datetime.fromisoformat(grant["until"]), datetime.fromisoformat(grant["time"])
    return (until - given).total_seconds()
