"""The approvers' keys that a ledger enrols and removes, and what is signed with them."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from .approver_keys import TrustedKeys, is_same_key
from .report import VerificationFailed
from .sign_in import check_first_key
from .signatures import Receipt, check_signature, voucher

MAX_STATEMENT_AGE = timedelta(minutes=10)
"""Time that may pass between preparing a statement and recording it (`core/approval.py`)."""


class EnrolledKeys:
    """Follows each key through its receipts.

    `trusted` are the approvers' keys given to the verifier; None accepts those that the ledger names. With `is_part`,
    keys may have been enrolled before the receipts at hand.
    """

    def __init__(self, trusted: TrustedKeys | None, is_part: bool) -> None:
        self.trusted = trusted
        self._is_part = is_part
        self._in_use: dict[str, Receipt] = {}
        self._enrolled: set[str] = set()
        """Ids and public keys of all that were ever enrolled: none is enrolled again after its removal."""
        self._had_key: set[str] = set()
        """The approvers who ever had a key."""

    def go_on_from(self, in_use: Mapping[str, Receipt], enrolled: set[str]) -> None:
        """After a migration from format 4."""
        self._in_use, self._enrolled = dict(in_use), set(enrolled)
        self._had_key = {key["approver"] for key in in_use.values()}

    def check(self, seq: int, receipt: Receipt, kind: str) -> None:
        """An enrolment or a removal. Raises: VerificationFailed."""
        id = receipt["key"]
        if kind == "approver.removed":
            if self._in_use.pop(id, None) is None and not self._is_part:
                raise VerificationFailed(seq, f"removes the approver's key `{id}`, which is unknown")
            return
        if not self._enrolled.isdisjoint(names := {id, receipt["public"]}):
            raise VerificationFailed(seq, f"the approver's key `{id}` is enrolled twice")
        self._check_authorization(seq, receipt)
        self._enrolled |= names
        self._had_key.add(receipt["approver"])
        self._in_use[id] = receipt

    def check_signed(self, seq: int, person: str, signed: Receipt, text: bytes, what: str) -> None:
        """`signed` has a `signature` over the text, by a `key` of this person that is in use, and if keys are given,
        among them. Raises: VerificationFailed."""
        id = signed["key"]
        key = self._in_use.get(id)
        if key is None and self._is_part:
            if self.trusted is None:
                return
            key = self.trusted.by_id.get(id)
            if key is None:
                raise VerificationFailed(seq, self.trusted.why_unknown(id, person))
        if key is None or key["approver"] != person:
            raise VerificationFailed(seq, f"`{person}` has no key `{id}` in use")
        if self.trusted is not None and not is_same_key(key, self.trusted.by_id.get(id)):
            raise VerificationFailed(seq, self.trusted.why_unknown(id, person))
        try:
            check_signature(key["method"], key["public"], key.get("details", {}), text, signed["signature"])
        except ValueError as error:
            raise VerificationFailed(seq, f"{what} of `{person}` is not signed by them: {error}") from None

    def _check_authorization(self, seq: int, receipt: Receipt) -> None:
        """The operator may enrol a key, and so may whoever has a code of theirs, or an earlier key of the approver."""
        approver, authorized_by = receipt["approver"], receipt.get("authorized_by")
        if authorized_by == "key":
            self._check_voucher(seq, receipt, receipt.get("vouched_by", {}))
        elif authorized_by == "sign_in_code":
            if any(key["approver"] == approver for key in self._in_use.values()):
                problem = f"a further key of `{approver}` is enrolled with a code that permits only a first one"
                raise VerificationFailed(seq, problem)
        elif authorized_by == "oidc":
            check_first_key(seq, receipt, approver in self._had_key)
        elif authorized_by not in ("terminal", "enrolment_code"):
            raise VerificationFailed(
                seq, f"the key `{receipt['key']}` of `{approver}` is enrolled without authorization"
            )

    def _check_voucher(self, seq: int, receipt: Receipt, vouched: Receipt) -> None:
        """An earlier key of the same approver has signed the new one."""
        old = self._in_use.get(vouched.get("key", ""))
        if old is None and self._is_part:
            return
        try:
            if old is None or old["approver"] != receipt["approver"]:
                raise ValueError("the old key does not belong to the approver")
            check_signature(old["method"], old["public"], old.get("details", {}), voucher(receipt), vouched)
        except ValueError as error:
            problem = f"no earlier key of `{receipt['approver']}` vouches for the new key: {error}"
            raise VerificationFailed(seq, problem) from None


def check_recent(seq: int, at: str, time: str, what: str) -> None:
    """Raises: VerificationFailed unless it was signed at most ten minutes before it was recorded."""
    signed, recorded = datetime.fromisoformat(at), datetime.fromisoformat(time)
    if not recorded - MAX_STATEMENT_AGE <= signed <= recorded:
        raise VerificationFailed(seq, f"{what} was signed long before it was recorded")
