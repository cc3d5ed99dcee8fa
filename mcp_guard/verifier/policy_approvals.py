"""Four eyes on policy: every set that a guard under the rule has loaded was approved by its quorum, each with their own
signature. docs/reference/receipts.md says what is signed.

A set is the texts of the policy files, which each loaded version contains, so that nothing else is believed of it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from .enrolled_keys import EnrolledKeys, check_recent
from .report import Report, VerificationFailed
from .sign_in import check_sign_in
from .signatures import Receipt

ABOUT = ("proposal", "policy_set", "rule", "previous")
"""Members of a proposal that every vote signs; the last one is left out if there was no set in force."""
VOTE = ("verdict", "approver", "name", "rationale", "at")
"""Members of a statement beside those, `origin` and `type`."""
SIGNED_IN = "signed_in"
"""One more, of an approver whom the identity provider had signed in."""
SIGNED_VOTE = (*VOTE, SIGNED_IN, "key", "signature")
VERDICTS = {"policy.approved": "approve", "policy.denied": "deny"}
LOADED = "policy.loaded"


@dataclass
class OpenProposal:
    """A proposal that waits, or by which its set is in force: its receipt, and the approving votes."""

    proposed: Receipt
    votes: list[Receipt] = field(default_factory=list)

    @property
    def rule(self) -> Receipt:
        rule: Receipt = self.proposed["rule"]
        return rule

    def about(self) -> Receipt:
        return {name: self.proposed[name] for name in ABOUT if name in self.proposed}


def policy_statement(about: Receipt, vote: Receipt, origin: str) -> bytes:
    """The statement that an approver signed, rebuilt (RFC 8785)."""
    signed = about | {name: vote[name] for name in (*VOTE, SIGNED_IN) if name in vote or name != SIGNED_IN}
    signed |= {"origin": origin, "type": "mcp-guard/policy-approval/v1"}
    return json.dumps(signed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


class PolicyApprovalChecker:
    """Follows the sets of policies from receipt to receipt. `material` gives the stored text of a version or set, whose
    hash is checked elsewhere for versions, and here for sets."""

    def __init__(self, material: Callable[[str], bytes | None]) -> None:
        self._material = material
        self.rules: dict[str, Receipt] = {}
        """The rule of each guard that has started under one."""
        self._began = False
        self._last_loaded: str | None = None
        """The version."""
        self._in_force: str | None = None
        self._approved: OpenProposal | None = None
        """The proposal by which the set in force is; None for the baseline."""
        self._open: OpenProposal | None = None
        self._proposals: set[str] = set()
        self._versions: set[str] = set()
        """Those that were loaded."""
        self._sets: dict[str, str] = {}
        """The set of each version that was looked at."""
        self.approvals = 0
        """Proposals that were approved."""
        self.loads = 0
        """Sets that guards under a rule have loaded."""
        self.unapproved = 0
        self.first_unapproved: int | None = None
        """What guards without a rule have loaded since it began."""

    def report(self, report: Report) -> None:
        report.policy_approvals, report.policies_under_rule = self.approvals, self.loads
        report.policies_unapproved, report.first_unapproved_policies = self.unapproved, self.first_unapproved

    def check_reference(self, seq: int, reference: Receipt) -> None:
        """Since the rule began, nothing is decided under a version that was not loaded. Raises: VerificationFailed."""
        version = reference["policy_version"]
        if self._began and reference["of"] != LOADED and version not in self._versions:
            raise VerificationFailed(seq, f"decided under policy version `{version}`, which no guard has loaded")

    def check(self, seq: int, receipt: Receipt, keys: EnrolledKeys | None) -> None:
        """A receipt of a guard's start or of policies. Raises: VerificationFailed."""
        kind = receipt["kind"]
        if kind == "guard.started":
            self._begin(seq)
            self.rules[receipt["guard"]] = receipt["policy_approval"]
        elif kind == LOADED:
            if not receipt.get("shadow"):
                self._check_loaded(seq, receipt)
        elif kind == "policy.proposed":
            self._check_proposed(seq, receipt)
        elif kind in VERDICTS:
            self._check_vote(seq, receipt, kind, keys)
        elif kind == "policy.withdrawn":
            self._open_of(seq, receipt)
            self._open = None

    def _begin(self, seq: int) -> None:
        """The set that was loaded last before the rule began is its baseline."""
        if not self._began:
            self._began = True
            self._in_force = None if self._last_loaded is None else self._set_of(seq, self._last_loaded)

    def _check_proposed(self, seq: int, receipt: Receipt) -> None:
        self._begin(seq)
        id, rule, policy_set = receipt["proposal"], receipt["rule"], receipt["policy_set"]
        if id in self._proposals or self._open is not None:
            raise VerificationFailed(seq, f"proposal `{id}` is made twice, or while another one waits")
        if not 1 <= rule["quorum"] <= len(set(rule["approvers"])):
            raise VerificationFailed(seq, f"proposal `{id}` has a rule that cannot be kept")
        if receipt.get("previous") != self._in_force:
            raise VerificationFailed(seq, f"proposal `{id}` names another set than the one in force")
        material = self._material(policy_set)
        if material is None or "sha256:" + hashlib.sha256(material).hexdigest() != policy_set:
            raise VerificationFailed(seq, f"the text of policy set `{policy_set}` is not stored, or has another hash")
        self._proposals.add(id)
        self._open = OpenProposal(receipt)

    def _open_of(self, seq: int, receipt: Receipt) -> OpenProposal:
        if self._open is None or receipt["proposal"] != self._open.proposed["proposal"]:
            raise VerificationFailed(
                seq, f"`{receipt['kind']}` of proposal `{receipt['proposal']}`, which does not wait"
            )
        return self._open

    def _check_vote(self, seq: int, receipt: Receipt, kind: str, keys: EnrolledKeys | None) -> None:
        proposal, approver = self._open_of(seq, receipt), receipt["approver"]
        about = proposal.about()
        if {name: receipt[name] for name in ABOUT if name in receipt} != about:
            raise VerificationFailed(seq, f"the vote of `{approver}` is about another set or rule than was proposed")
        if approver not in proposal.rule["approvers"]:
            raise VerificationFailed(seq, f"`{approver}` is not an approver of route `{proposal.rule['route']}`")
        if receipt["verdict"] != VERDICTS[kind]:
            raise VerificationFailed(seq, f"`{approver}` has signed `{receipt['verdict']}`")
        if keys is None:
            raise VerificationFailed(seq, "a vote on policies before the ledger has today's format")
        keys.check_signed(seq, approver, receipt, policy_statement(about, receipt, receipt["origin"]), "the vote")
        check_recent(seq, receipt["at"], receipt["time"], f"the vote of `{approver}`")
        check_sign_in(seq, receipt | {"rules": [proposal.rule]})
        if receipt["at"] < proposal.proposed["time"]:
            raise VerificationFailed(seq, f"the vote of `{approver}` was given before the proposal")
        if kind == "policy.denied":
            self._open = None
            return
        if any(vote["approver"] == approver for vote in proposal.votes):
            raise VerificationFailed(seq, f"`{approver}` votes twice")
        proposal.votes.append(receipt)
        is_enough = len(proposal.votes) >= proposal.rule["quorum"]
        if is_enough == bool(receipt.get("missing")):
            raise VerificationFailed(
                seq, f"proposal `{receipt['proposal']}` is recorded with the wrong number of votes"
            )
        if is_enough:
            self._in_force, self._approved, self._open = receipt["policy_set"], proposal, None
            self.approvals += 1

    def _check_loaded(self, seq: int, receipt: Receipt) -> None:
        self._last_loaded = version = receipt["policy_version"]
        self._versions.add(version)
        if not self._began and "policy_set" not in receipt:
            return
        policy_set = self._set_of(seq, version)
        if receipt.get("policy_set", policy_set) != policy_set:
            raise VerificationFailed(seq, "names another set of policies than its version contains")
        if receipt.get("guard") in self.rules:
            self._check_approval(seq, receipt, policy_set)
            self.loads += 1
        elif "approved_by" in receipt or "baseline" in receipt:
            raise VerificationFailed(seq, "names an approval, although no rule of its guard is recorded")
        elif self._began:
            self.unapproved += 1
            self.first_unapproved = seq if self.first_unapproved is None else self.first_unapproved

    def _check_approval(self, seq: int, receipt: Receipt, policy_set: str) -> None:
        """The set is the one in force, and the receipt names the votes by which it is."""
        if policy_set != self._in_force:
            raise VerificationFailed(seq, f"loads policy set `{policy_set}`, which nobody has approved")
        if self._approved is None:
            if receipt.get("baseline") is not True or "approved_by" in receipt:
                raise VerificationFailed(seq, "names an approval of policies that were in force before the rule")
            return
        votes = [{name: vote[name] for name in SIGNED_VOTE if name in vote} for vote in self._approved.votes]
        if receipt.get("approved_by") != self._approved.about() | {"votes": votes} or "baseline" in receipt:
            raise VerificationFailed(seq, "does not name the votes by which its policies are in force")

    def _set_of(self, seq: int, version: str) -> str:
        if version in self._sets:
            return self._sets[version]
        material = self._material(version)
        if material is None:
            raise VerificationFailed(seq, f"the text of its policy version `{version}` is not stored")
        texts = {"policies": json.loads(material)["policies"]}
        text = json.dumps(texts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self._sets[version] = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        return self._sets[version]
