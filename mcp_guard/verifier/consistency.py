"""How receipts hang together: calls, approvals, grants and approvers' keys, each followed from its first receipt."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from .report import UnusableInput, VerificationFailed
from .signatures import Receipt, check_signature, statement, voucher


@dataclass
class OpenApproval:
    """A request that has not ended: what its routes demand, and who has approved it for what."""

    state: str
    rules: list[Receipt]
    decision_hash: str
    last: int
    """Its latest receipt, which the next one follows."""
    approved: set[str] = field(default_factory=set)
    terms: tuple[int, int, list[str]] | None = None
    """Of a grant: how many uses, for how many seconds, which arguments free."""

    def is_satisfied(self) -> bool:
        return all(len(self.approved & set(rule["approvers"])) >= rule["quorum"] for rule in self.rules)


class ConsistencyChecker:
    """Follows each call, approval, grant and approver's key through its receipts; keeps only what is still open."""

    def __init__(self, trusted: Mapping[str, Receipt] | None = None) -> None:
        self.intents: dict[int, str] = {}
        self.approvals: dict[str, OpenApproval] = {}
        self.grants: dict[str, Receipt] = {}
        self.keys: dict[str, Receipt] = {}
        self.trusted = trusted
        self.words = 0
        self._held: tuple[int, str] | None = None
        """The latest decision to ask for approval, and its call."""
        self._used: tuple[int, str] | None = None
        """What the latest receipt used up; the intent that it was used for comes next."""

    def check(self, seq: int, receipt: Receipt) -> None:
        """Raises: VerificationFailed; KeyError and its like if the receipt lacks what its kind has."""
        kind = receipt["kind"]
        follows = receipt.get("follows", [])
        used, self._used = self._used, None
        if used is not None and (seq, kind, receipt.get("outcome")) != (used[0] + 1, "intent", "require_approval"):
            raise VerificationFailed(used[0], f"uses up {used[1]}, and no intent for it follows")
        if kind == "intent":
            self._intent(seq, receipt)
        elif kind == "decision":
            if receipt.get("outcome") == "require_approval":
                self._held = seq, receipt["call"]
        elif kind == "outcome":
            if self.intents.pop(follows[0] if follows else -1, None) != receipt["call"]:
                raise VerificationFailed(
                    seq, f"an outcome of call `{receipt['call']}` without its intent, or a second one"
                )
        elif kind.startswith("approval."):
            self._approval(seq, receipt, kind)
        elif kind.startswith("grant."):
            self._grant(seq, receipt, kind)
        elif kind.startswith("approver."):
            self._key(seq, receipt, kind)

    def finish(self) -> None:
        """Nothing is left half done at the end. Raises: VerificationFailed."""
        if self._used is not None:
            raise VerificationFailed(self._used[0], f"uses up {self._used[1]}, and no intent for it follows")

    def _intent(self, seq: int, receipt: Receipt) -> None:
        self.intents[seq] = receipt["call"]
        if receipt.get("purpose") == "facts":
            return
        outcome = receipt["outcome"]
        if outcome not in ("allow", "require_approval"):
            raise VerificationFailed(
                seq, f"an intent of call `{receipt['call']}` whose decision does not let it happen"
            )
        if outcome == "require_approval":
            used = receipt.get("approval", {})
            if "grant" in used:
                self._granted(seq, receipt, used)
                return
            consumed = self.approvals.pop(used.get("id"), None)
            if consumed is None or consumed.state != "approval.consumed":
                raise VerificationFailed(seq, "an intent that needed approval, without one consumed for it")
            if used["decision_hash"] != consumed.decision_hash:
                raise VerificationFailed(seq, f"approval `{used['id']}` was not granted for this decision")

    def _granted(self, seq: int, receipt: Receipt, used: Receipt) -> None:
        grant = self.grants.get(used["grant"])
        if grant is None or grant["spent"] != used["use"] or grant["spent"] <= grant["taken"]:
            raise VerificationFailed(seq, f"a use of grant `{used['grant']}` that was not receipted just before it")
        bound = grant["binding"]
        for name in ("instance", "tool", "definition", "policy_version"):
            if receipt[name] != bound[name]:
                raise VerificationFailed(seq, f"grant `{used['grant']}` was for another {name.replace('_', ' ')}")
        grant["taken"] = used["use"]
        if grant["taken"] == grant["uses"]:
            del self.grants[used["grant"]]

    def _approval(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["approval"]
        if (id not in self.approvals) != (kind == "approval.requested"):
            known = "known already" if id in self.approvals else "unknown, or decided"
            raise VerificationFailed(seq, f"`{kind}` of approval `{id}` that is {known}")
        if kind == "approval.requested":
            self._requested(seq, receipt)
            return
        held = self.approvals[id]
        if receipt["decision_hash"] != held.decision_hash:
            raise VerificationFailed(seq, f"approval `{id}` was asked for another decision")
        if receipt["follows"] != [held.last]:
            raise VerificationFailed(seq, f"does not follow the receipt of approval `{id}` before it, {held.last}")
        held.last = seq
        if kind in ("approval.granted", "approval.denied"):
            self._word(seq, receipt, held)
        self._move(seq, receipt, held)

    def _move(self, seq: int, receipt: Receipt, held: OpenApproval) -> None:
        """One step of a request that is open."""
        id, kind = receipt["approval"], receipt["kind"]
        if kind == "approval.escalated":
            held.rules = receipt["rules"]
        elif kind == "approval.granted":
            if held.state != "approval.requested":
                raise VerificationFailed(seq, f"approval `{id}` is granted a second time")
            if not receipt.get("missing"):
                held.state = kind
                if not held.is_satisfied():
                    raise VerificationFailed(seq, f"approval `{id}` counts as granted, though its routes demand more")
        elif kind == "approval.consumed":
            if held.state != "approval.granted":
                raise VerificationFailed(seq, f"approval `{id}` is consumed without having been granted")
            held.state, self._used = kind, (seq, f"approval `{id}`")
        else:
            del self.approvals[id]

    def _requested(self, seq: int, receipt: Receipt) -> None:
        id, held = receipt["approval"], self._held
        if held is None or (receipt["follows"], receipt["call"]) != ([held[0]], held[1]):
            raise VerificationFailed(seq, f"approval `{id}` is asked for without a decision that demands it")
        self.approvals[id] = OpenApproval("approval.requested", receipt["rules"], receipt["decision_hash"], seq)

    def _word(self, seq: int, receipt: Receipt, held: OpenApproval) -> None:
        """One approver's word: signed by their own key, which was in use then."""
        key, who = self.keys.get(receipt["key"]), receipt["approver"]
        if key is None or key["approver"] != who:
            raise VerificationFailed(seq, f"`{who}` had no key `{receipt['key']}` in use")
        if self.trusted is not None and not _same_key(key, self.trusted.get(receipt["key"])):
            raise VerificationFailed(
                seq, f"the key `{receipt['key']}` of `{who}` is not among the approvers' keys given"
            )
        try:
            check_signature(
                key["method"], key["public"], key.get("details", {}), statement(receipt), receipt["signature"]
            )
        except ValueError as error:
            raise VerificationFailed(seq, f"the word of `{who}` is not signed by them: {error}") from None
        if not any(who in rule["approvers"] for rule in held.rules):
            raise VerificationFailed(seq, f"`{who}` may decide on none of its routes")
        self.words += 1
        if receipt["verdict"] == "approve":
            held.approved.add(who)
            if terms := receipt.get("terms"):
                held.terms = terms["uses"], terms["seconds"], terms["free"]

    def _grant(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["grant"]
        if kind == "grant.given":
            held = self.approvals.get(receipt["approval"])
            if held is None or held.state != "approval.granted" or id in self.grants:
                raise VerificationFailed(seq, f"grant `{id}` was given without an approval")
            if (receipt["uses"], _lasts(receipt), receipt.get("free", [])) != held.terms:
                raise VerificationFailed(seq, f"grant `{id}` is another than its approvers signed")
            self.grants[id] = {**receipt, "spent": 0, "taken": 0}
            return
        grant = self.grants.get(id)
        if grant is None:
            raise VerificationFailed(seq, f"`{kind}` of grant `{id}` that is unknown, or revoked")
        if kind == "grant.revoked":
            del self.grants[id]
        elif receipt["use"] != grant["spent"] + 1 or receipt["use"] > grant["uses"] or receipt["time"] > grant["until"]:
            raise VerificationFailed(seq, f"grant `{id}` is used beyond what was granted")
        else:
            grant["spent"] += 1
            self._used = seq, f"a use of grant `{id}`"

    def _key(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["key"]
        if kind == "approver.removed":
            if self.keys.pop(id, None) is None:
                raise VerificationFailed(seq, f"the approver's key `{id}` that is removed is unknown")
            return
        if id in self.keys:
            raise VerificationFailed(seq, f"the approver's key `{id}` is enrolled twice")
        if vouched := receipt.get("vouched_by"):
            self._voucher(seq, receipt, vouched)
        self.keys[id] = receipt

    def _voucher(self, seq: int, receipt: Receipt, vouched: Receipt) -> None:
        """A rotated key: the one before it signed for it."""
        old = self.keys.get(vouched["key"])
        try:
            if old is None or old["approver"] != receipt["approver"]:
                raise ValueError("not a key of theirs")
            check_signature(old["method"], old["public"], {}, voucher(receipt), vouched)
        except ValueError as error:
            raise VerificationFailed(
                seq, f"no earlier key of `{receipt['approver']}` vouches for this one: {error}"
            ) from None


def _lasts(grant: Receipt) -> float:
    """Seconds from when it was given."""
    until, given = datetime.fromisoformat(grant["until"]), datetime.fromisoformat(grant["time"])
    return (until - given).total_seconds()


def _same_key(key: Receipt, other: Receipt | None) -> bool:
    return other is not None and all(key.get(name) == other.get(name) for name in ("approver", "method", "public"))


def read_approvers(path: Path) -> dict[str, Receipt]:
    """The approvers' keys that the verifier trusts, as `approvers list --json` prints them. Raises: UnusableInput."""
    try:
        return {key["key"]: key for key in json.loads(path.read_text())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableInput(f"cannot read the approvers' keys `{path}`: {error}") from None
