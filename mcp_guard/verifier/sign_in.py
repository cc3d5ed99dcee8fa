"""Sign-ins with the identity provider: whether a vote had the one that its rules demand, and which key one permits."""

from datetime import datetime, timedelta

from .report import VerificationFailed
from .signatures import Receipt


def check_sign_in(seq: int, vote: Receipt) -> None:
    """The approver has signed both the rules and how they had signed in. Raises: VerificationFailed."""
    for rule in vote["rules"]:
        demanded = rule.get("sign_in") if vote["approver"] in rule["approvers"] else None
        if demanded is not None and not _suffices(vote.get("signed_in"), demanded, vote["at"]):
            raise VerificationFailed(seq, f"`{vote['approver']}` has not signed in as route `{rule['route']}` demands")


def check_first_key(seq: int, enrolment: Receipt, had_key: bool) -> None:
    """A key that the identity provider authorized names whom it had signed in, and is their first one ever.

    Raises: VerificationFailed.
    """
    approver, signed_in = enrolment["approver"], enrolment.get("signed_in", {})
    if had_key:
        raise VerificationFailed(seq, f"a further key of `{approver}` is enrolled by a sign-in, which permits one only")
    if not signed_in.get("issuer") or not signed_in.get("subject"):
        raise VerificationFailed(seq, f"a key of `{approver}` is enrolled by a sign-in that it does not name")


def _suffices(signed_in: Receipt | None, demanded: Receipt, at: str) -> bool:
    if signed_in is None:
        return False
    if "acr" in demanded and signed_in.get("acr") not in demanded["acr"]:
        return False
    if "mfa" in demanded and "mfa" not in signed_in.get("amr", []):
        return False
    if "seconds" not in demanded:
        return True
    age = timedelta(seconds=demanded["seconds"])
    return "at" in signed_in and datetime.fromisoformat(at) - datetime.fromisoformat(signed_in["at"]) <= age
