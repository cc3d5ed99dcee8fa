"""Operators' changes, signed with the operator's own key: checked and made in one transaction, whose receipt carries
the statement and the signature.

The same changes made on the command line without a key are in `registry.py` and `tool_pins.py`. Whether somebody is an
operator is for the caller to know.
"""

import json
import secrets
from collections.abc import Callable, Mapping

from mcp_guard.core.approval import MAX_STATEMENT_AGE
from mcp_guard.core.errors import ApprovalError, IdentityError
from mcp_guard.core.model import Json, Micros
from mcp_guard.core.names import listed_name
from mcp_guard.core.operation import OperationStatement, SignedOperation, check_operation, check_signable
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.ledger import registry, tool_pins
from mcp_guard.ledger.approvals.approver_keys import Approver, usable_key
from mcp_guard.ledger.writer import Op, Transaction, Writer
from mcp_guard.verifier import check_signature

NONCES = "operations"
"""Under this the ledger notes the nonces of recent operations, each of which counts once, and their times."""


def prepare(
    writer: Writer, operator: Approver, action: str, target: Mapping[str, str], reason: str
) -> OperationStatement:
    """The statement for this operator to sign now. Raises: ApprovalError."""
    statement = OperationStatement(
        origin=writer.key.origin,
        action=action,
        target=target,
        reason=reason,
        operator=operator.id,
        name=operator.name,
        at=writer.now(),
        nonce=secrets.token_hex(16),
    )
    check_signable(statement)
    return statement


def perform_op(signed: SignedOperation) -> Op[Json]:
    """Make the change. The result says what became of it: see each action. The op raises ApprovalError or
    IdentityError, with nothing changed, unless the signature is by a key of the operator that is in use, over exactly
    this statement, which is recent and was not used before, and the change is possible now.
    """
    statement = signed.statement

    def op(tx: Transaction) -> Json:
        check_operation(statement, tx.key.origin, tx.now)
        _check_signature(tx, signed)
        used = {nonce: at for nonce, at in _used(tx).items() if tx.now - at <= MAX_STATEMENT_AGE}
        if statement.nonce in used:
            raise ApprovalError("this statement was used before", "sign the change again")
        result = _PERFORM[statement.action](tx, statement, {"operation": evidence(signed)})
        tx.store.note(NONCES, json.dumps(used | {statement.nonce: statement.at}))
        return result

    return op


def evidence(signed: SignedOperation) -> Json:
    """The member `operation` of the receipt."""
    return signed.statement.members() | {"key": signed.key, "signature": dict(signed.signature)}


def _used(tx: Transaction) -> dict[str, Micros]:
    return dict(json.loads(tx.store.noted(NONCES) or "{}"))


def _check_signature(tx: Transaction, signed: SignedOperation) -> None:
    statement = signed.statement
    key = usable_key(tx.store.approver_keys(), signed.key, statement.operator)
    try:
        check_signature(key.method, key.public, key.details, statement.text(), signed.signature)
    except ValueError as error:
        problem = f"the signature is not a valid signature of `{statement.operator}`: {error}"
        raise ApprovalError(problem, "sign with the enrolled key") from None


# The changes. Each returns what it has changed; the last argument is what its receipt says beside.


def _revoke(scope: str, until: Micros | None = None) -> "_Perform":
    def perform(tx: Transaction, statement: OperationStatement, more: Json) -> Json:
        name = statement.target["name"]
        if scope == "instance":
            registry.find_instance(tx.store, name)
        key, by = (scope, name), statement.operator
        gone, withdrawn = registry.revoke_with_requests(tx, key, statement.reason, by, until, more=more)
        return {"instances": [instance.id for instance in gone], "withdrawn": withdrawn}

    return perform


def _enable(tx: Transaction, statement: OperationStatement, more: Json) -> Json:
    agent = statement.target["agent"]
    if not any(key == ("agent", agent) and until > tx.now for key, until in tx.store.revocations()):
        raise IdentityError(f"agent `{agent}` is not disabled", "mcp-guard agents list")
    registry.enable_agent(tx, agent, statement.reason, statement.operator, more)
    return {"agent": agent}


def _accept(tx: Transaction, statement: OperationStatement, more: Json) -> Json:
    pin = _find_pin(tx, statement)
    return _pinned(tool_pins.accept_op(pin, statement.operator, statement.reason, more)(tx))


def _refuse(tx: Transaction, statement: OperationStatement, more: Json) -> Json:
    pin = _find_pin(tx, statement)
    return _pinned(tool_pins.refuse_op(pin, statement.operator, statement.reason, more)(tx))


def _find_pin(tx: Transaction, statement: OperationStatement) -> Pin:
    """The definition that the operator was shown. Raises: ApprovalError unless it can be decided on."""
    target, decided = statement.target, PinState.PINNED if statement.action == "tool.accept" else PinState.REFUSED
    for pin in tx.store.pins(target["upstream"]):
        if (listed_name(pin.upstream, pin.tool), pin.hash) == (target["tool"], target["definition"]):
            if pin.state is decided:
                raise ApprovalError(f"this definition of `{target['tool']}` is {decided} already", "look at it again")
            return pin
    raise ApprovalError(f"`{target['tool']}` has no such definition", "see its current state: mcp-guard tools list")


def _pinned(pin: Pin) -> Json:
    return {
        "tool": listed_name(pin.upstream, pin.tool),
        "hash": pin.hash,
        "state": str(pin.state),
        "receipt": pin.receipt,
    }


_Perform = Callable[[Transaction, OperationStatement, Json], Json]
_PERFORM: Mapping[str, _Perform] = {
    "instance.revoke": _revoke("instance"),
    "agent.revoke": _revoke("agent"),
    "agent.disable": _revoke("agent", registry.FOREVER),
    "agent.enable": _enable,
    "user.revoke": _revoke("user"),
    "tool.accept": _accept,
    "tool.refuse": _refuse,
}
