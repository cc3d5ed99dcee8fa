"""`--as OPERATOR`: an operator's change is signed with their own key, as one made in the console is."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_guard.cli.approvers import add_key_options, as_new_key, open_key, signature_of
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.operation import SignedOperation
from mcp_guard.ledger import operations
from mcp_guard.ledger.approvals.approver_keys import Approver
from mcp_guard.ledger.writer import Writer
from mcp_guard.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class SigningOperator:
    """An operator whose key is open."""

    writer: Writer
    operator: Approver
    key: "Ed25519PrivateKey"

    def perform(self, action: str, target: Mapping[str, str], reason: str) -> Json:
        """Make a change (see `core/operation.py`); returns what was changed. Raises: ApprovalError, IdentityError."""
        statement = operations.prepare(self.writer, self.operator, action, target, reason)
        signature = signature_of(self.key, statement.text())
        signed = SignedOperation(statement, as_new_key(self.key).id, signature)
        return self.writer.run(operations.perform_op(signed))


def add_signing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as", dest="operator", metavar="OPERATOR", help="sign the change with this operator's key; it is recorded"
    )
    add_key_options(parser)


def open_signer(writer: Writer, settings: Settings, options: argparse.Namespace) -> SigningOperator | None:
    """None without `--as`: the account of the operating system is recorded. Raises: ApprovalError."""
    id = options.operator
    if id is None:
        return None
    if id not in settings.approvers:
        known = ", ".join(settings.approvers) or "none"
        raise ApprovalError(f"`{id}` is not in [approvers], so nobody knows their key", f"enrolled there: {known}")
    if settings.web is not None and id not in (operators := settings.web.roles.get("operator", ())):
        hint = f"add `{id}` to `operator` in [web.roles]; operators: {', '.join(operators) or 'none'}"
        raise ApprovalError(f"`{id}` is not an operator", hint)
    return SigningOperator(writer, Approver(id, settings.approvers[id]), open_key(writer, options, id))
