"""Operators' changes on the pages: prepared for the operator's passkey to sign, and made (`ledger/operations.py`).

A page offers one with a form of the class `sign`, which `app.js` sends to `/operations`.
"""

from collections.abc import Mapping
from dataclasses import asdict

from starlette.exceptions import HTTPException

from mcp_guard.core.errors import ApprovalError, SignInRequired
from mcp_guard.core.model import Json
from mcp_guard.core.operation import OperationStatement, SignedOperation
from mcp_guard.ledger import operations
from mcp_guard.ledger.approvals.approver_keys import Approver
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.web.console import Console
from mcp_guard.web.passkeys import evidence
from mcp_guard.web.sessions import BrowserSession

PURPOSE = "operation"


async def options(
    console: Console, viewer: BrowserSession, action: str, target: Mapping[str, str], reason: str
) -> Json:
    """What the operator's browser needs to sign this change. `viewer` must be an operator.

    Raises: ApprovalError if the change cannot be signed, or they have no passkey.
    """
    name = console.votes.people.get(viewer.approver)
    if name is None:
        hint = f"enter them in [approvers] of {console.settings.path.name}; then they can enrol a passkey"
        raise ApprovalError("a change is signed with a passkey, which only an approver can have", hint)
    statement = operations.prepare(console.writer, Approver(viewer.approver, name), action, target, reason)
    passkeys = await passkeys_to_sign(console, viewer)
    return console.passkeys.ask(viewer, statement.text(), passkeys, console.now(), PURPOSE, asdict(statement))


async def take(console: Console, viewer: BrowserSession, credential: Json) -> Json:
    """Make the change that the operator's passkey has signed; returns what was changed.

    Raises: ApprovalError or IdentityError, with nothing changed.
    """
    keys = await console.keys()
    key, subject, count = await console.passkeys.answer(credential, viewer, keys, console.now(), PURPOSE)
    statement = OperationStatement(**subject)
    if {statement.operator, key.approver} != {viewer.approver}:
        raise ApprovalError("the passkey belongs to another operator", "sign with your own passkey")
    signed = SignedOperation(statement, key.id, evidence(credential))
    result = await console.writer.submit(operations.perform_op(signed))
    await console.record_use(key, count)
    if statement.action == "user.revoke":
        await console.upstream_sign_ins.storage.forget(statement.target["name"])
    return result


async def passkeys_to_sign(console: Console, viewer: BrowserSession) -> list[ApproverKey]:
    """Raises: ApprovalError if the viewer has none for this address, or their session is for enrolling one only."""
    if console.may_only_enrol(viewer):
        raise SignInRequired("a code for a new key permits only to enrol it", "sign in with the identity provider")
    if passkeys := await console.passkeys_of(viewer):
        return passkeys
    raise ApprovalError(f"you have no passkey of {console.origin}", "enrol one first, on the page Keys")


def texts(value: object) -> dict[str, str]:
    """A JSON object of texts. Raises: HTTPException."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise HTTPException(400, "`target` must be an object of texts")
    return value
