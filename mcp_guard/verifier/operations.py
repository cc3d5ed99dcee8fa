"""Operators' changes: the statement that an operator signed is about the change that its receipt records."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .cut_texts import begins_alike
from .enrolled_keys import EnrolledKeys, check_recent
from .report import VerificationFailed
from .signatures import Receipt

SIGNED = ("action", "target", "reason", "operator", "name", "at", "nonce")
"""Members of every statement, beside `origin` and `type`."""
ACTIONS: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "instance.revoke": ("credential.revoked", {"scope": "instance", "disabled": None}, ("name",)),
    "agent.revoke": ("credential.revoked", {"scope": "agent", "disabled": None}, ("name",)),
    "agent.disable": ("credential.revoked", {"scope": "agent", "disabled": True}, ("name",)),
    "user.revoke": ("credential.revoked", {"scope": "user", "disabled": None}, ("name",)),
    "agent.enable": ("agent.enabled", {}, ("agent",)),
    "tool.accept": ("catalog.accepted", {}, ("upstream", "tool", "definition")),
    "tool.refuse": ("catalog.refused", {}, ("upstream", "tool", "definition")),
}
"""By action: the kind of its receipt, what the receipt must say, and the members that it shares with the target."""


class OperationChecker:
    """Checks the changes that operators have signed, each for itself and used once."""

    def __init__(self, keys: EnrolledKeys) -> None:
        self._keys = keys
        self._nonces: set[bytes] = set()
        """Hashes of the nonces of all operations."""
        self.count = 0

    def check(self, seq: int, receipt: Receipt) -> None:
        """Raises: VerificationFailed."""
        operation = receipt["operation"]
        operator = operation["operator"]
        check_change(seq, receipt)
        self._keys.check_signed(seq, operator, operation, operation_statement(receipt), "the change")
        check_recent(seq, operation["at"], receipt["time"], f"the change of `{operator}`")
        nonce = hashlib.sha256(operation["nonce"].encode()).digest()[:12]
        if nonce in self._nonces:
            raise VerificationFailed(seq, f"the statement of `{operator}` was used for an earlier change")
        self._nonces.add(nonce)
        self.count += 1


def operation_statement(receipt: Receipt) -> bytes:
    """The statement that the operator signed, rebuilt from the receipt of the change (RFC 8785)."""
    operation = receipt["operation"]
    signed = {name: operation[name] for name in SIGNED}
    signed |= {"origin": receipt["origin"], "type": "mcp-guard/operation/v1"}
    return json.dumps(signed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def check_change(seq: int, receipt: Receipt) -> None:
    """Raises: VerificationFailed unless the statement is about this change."""
    operation = receipt["operation"]
    operator, action = operation["operator"], operation["action"]
    kind, fixed, shared = ACTIONS.get(action, ("", {}, ()))
    if receipt["kind"] != kind or any(receipt.get(name) != value for name, value in fixed.items()):
        raise VerificationFailed(seq, f"`{operator}` has signed `{action}`, which is another change")
    target = operation["target"]
    if target.keys() != set(shared) or any(not _says(receipt.get(name), target[name]) for name in shared):
        raise VerificationFailed(seq, f"`{operator}` has signed a change of something else")
    if receipt["by"] != operator or not _says(receipt["note"], operation["reason"]):
        raise VerificationFailed(seq, f"`{operator}` has signed another reason, or it names another operator")


def _says(text: Any, signed: Any) -> bool:
    """A long text is cut in the receipt, and whole in the statement."""
    return isinstance(text, str) and isinstance(signed, str) and begins_alike(signed, text)
