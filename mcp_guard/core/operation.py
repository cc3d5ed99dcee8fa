"""Operators' changes: the statement that an operator signs with their own key, and what it may be about. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from mcp_guard.core.approval import MAX_STATEMENT_AGE
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json, Micros
from mcp_guard.core.receipt import format_time
from mcp_guard.core.signed_words import check_keepable, check_words

STATEMENT_TYPE = "mcp-guard/operation/v1"
MAX_REASON_LENGTH = 500
"""In characters, so that the reason always fits the receipt."""
MAX_TARGET_LENGTH = 1000
"""Of each member, in characters."""
TARGETS: Mapping[str, tuple[str, ...]] = {
    "instance.revoke": ("name",),
    "agent.revoke": ("name",),
    "agent.disable": ("name",),
    "agent.enable": ("agent",),
    "user.revoke": ("name",),
    "tool.accept": ("upstream", "tool", "definition"),
    "tool.refuse": ("upstream", "tool", "definition"),
}
"""The actions, each with the members of its target. The receipt of the change has the same members
(`verifier/operations.py`)."""


@dataclass(frozen=True, slots=True)
class OperationStatement:
    """What an operator signs: their own key signs these bytes, or a passkey takes their SHA-256 as its challenge.

    `origin` names the ledger; `nonce` makes each statement different, so that none counts twice.
    """

    origin: str
    action: str
    target: Mapping[str, str]
    reason: str
    operator: str
    name: str
    at: Micros
    nonce: str

    def members(self) -> Json:
        """What the receipt of the change has of it, beside the key and the signature."""
        members = {name: getattr(self, name) for name in ("action", "reason", "operator", "name", "nonce")}
        return members | {"target": dict(self.target), "at": format_time(self.at)}

    def text(self) -> bytes:
        """An RFC 8785 document. `verifier/operations.py` rebuilds the same bytes from the receipt."""
        members = self.members() | {"origin": self.origin, "type": STATEMENT_TYPE}
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)


@dataclass(frozen=True, slots=True)
class SignedOperation:
    """A statement, and the id and signature of the key that signed it."""

    statement: OperationStatement
    key: str
    signature: Json


def check_signable(statement: OperationStatement) -> None:
    """Raises: ApprovalError if no operator may sign this statement."""
    expected = TARGETS.get(statement.action)
    if expected is None:
        raise ApprovalError(f"`{statement.action}` is not an action of an operator", f"actions: {', '.join(TARGETS)}")
    texts = tuple(statement.target.values())
    if statement.target.keys() != set(expected) or not all(
        isinstance(text, str) and 0 < len(text) <= MAX_TARGET_LENGTH for text in texts
    ):
        names = ", ".join(expected)
        raise ApprovalError(f"the target of `{statement.action}` must have {names}", "repeat it from its page")
    check_words(statement.reason, "reason", MAX_REASON_LENGTH)
    check_keepable(texts)


def check_operation(statement: OperationStatement, origin: str, now: Micros) -> None:
    """Raises: ApprovalError unless it is about this ledger and recent."""
    if statement.origin != origin:
        raise ApprovalError("the statement is about another ledger", "try again")
    if not 0 <= now - statement.at <= MAX_STATEMENT_AGE:
        raise ApprovalError("the statement has expired: it must be recorded within ten minutes", "try again")
