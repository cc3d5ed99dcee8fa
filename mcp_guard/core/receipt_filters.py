"""What receipts can be searched by: who called what, why, how it was decided and how it ended. Pure.

To add a filter, add a line to `FIELDS`. Values of one filter are alternatives; all filters must match.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mcp_guard.core.confirmation import differs
from mcp_guard.core.model import ExecutionStatus, Finding, Outcome
from mcp_guard.core.receipt import KINDS, VOTED, shown_kind

Receipt = dict[str, Any]
OUTCOMES = tuple(map(str, (*Outcome, *(f"would_{outcome}" for outcome in Outcome), *ExecutionStatus, Finding.DIFFERS)))
"""What was decided, what would have been in enforce mode, how a call ended, and whether it changed something else."""
RISK_LEVELS = ("low", "medium", "high")
MIN_VERSION_LENGTH = 8
"""Hexadecimal digits that are taken for the beginning of a policy version."""


@dataclass(frozen=True, slots=True)
class Field:
    """One filter: its help text, the values of a receipt that it is compared with, and how."""

    help: str
    values: Callable[[Receipt], list[object]]
    matches: Callable[[str, str], bool] = str.__eq__
    """Whether a value of a receipt (first) is the one that was asked for."""
    choices: tuple[str, ...] | None = None
    of_call: bool = False
    """Whether a receipt also matches if another one of its call does."""


def _member(name: str) -> Callable[[Receipt], list[object]]:
    return lambda receipt: [receipt.get(name)]


def _kinds(receipt: Receipt) -> list[object]:
    return [receipt["kind"], shown_kind(receipt)]


def _subject(scope: str, member: str) -> Callable[[Receipt], list[object]]:
    """Of a revocation, which has a scope and a name, whom it revoked; of other receipts, this member."""
    return lambda receipt: [receipt.get("name") if receipt.get("scope") == scope else receipt.get(member)]


def _instances(receipt: Receipt) -> list[object]:
    """A revocation of an agent or user also concerns the instances that were alive."""
    revoked = receipt.get("instances", []) if receipt["kind"] == "credential.revoked" else []
    return [*_subject("instance", "instance")(receipt), *revoked]


def _resource(receipt: Receipt) -> list[object]:
    resource = receipt.get("resource")
    return [f"{resource['type']}/{resource['id']}", resource["id"], resource["type"]] if resource else []


def _outcomes(receipt: Receipt) -> list[object]:
    would = receipt.get("would")
    others = [*([f"would_{would['outcome']}"] if would else []), *([str(Finding.DIFFERS)] if differs(receipt) else [])]
    return [receipt.get("outcome"), receipt.get("ending"), *others]


def _risk(receipt: Receipt) -> list[object]:
    return [(receipt.get("risk") or {}).get("level")]


def _approvers(receipt: Receipt) -> list[object]:
    approval = receipt.get("approval")
    named = [*(approval.get("approvers", []) if isinstance(approval, dict) else []), *receipt.get("approvers", [])]
    people = [receipt, *named] if "approver" in receipt else named
    return [person.get(name) for person in people for name in ("approver", "name")]


def _policies(receipt: Receipt) -> list[object]:
    would, version = receipt.get("would") or {}, str(receipt.get("policy_version", ""))
    return [*receipt.get("policies", []), *would.get("policies", []), *([version] if version else [])]


def _is_policy(value: str, wanted: str) -> bool:
    digits = wanted.removeprefix("sha256:")
    is_version = len(digits) >= MIN_VERSION_LENGTH and re.fullmatch("[0-9a-f]+", digits)
    return value == wanted or bool(is_version and value.startswith(f"sha256:{digits}"))


FIELDS: Mapping[str, Field] = {
    "kind": Field("of this kind, such as intent or decision", _kinds, choices=(*KINDS, VOTED)),
    "agent": Field("of this agent", _subject("agent", "agent")),
    "user": Field("on behalf of this user", _subject("user", "on_behalf_of")),
    "ticket": Field("due to this ticket", _member("ticket")),
    "tool": Field("of this tool; `crm__*` for all of a server", _member("tool"), fnmatchcase),
    "resource": Field("on this resource: TYPE/ID, or either of them", _resource),
    "outcome": Field(f"with this decision or result: {', '.join(OUTCOMES)}", _outcomes, choices=OUTCOMES, of_call=True),
    "risk": Field(f"of this risk: {', '.join(RISK_LEVELS)}", _risk, choices=RISK_LEVELS, of_call=True),
    "approver": Field("that this person voted on, approved or enrolled for", _approvers, of_call=True),
    "policy": Field("decided by this policy, or under this policy version", _policies, _is_policy, of_call=True),
    "instance": Field("of this instance", _instances),
    "call": Field("of this call", _member("call")),
    "trace": Field("of this trace, by its id", _member("trace")),
}
