"""Whether the row of a request for approval says what its receipts say.

Somebody with write access to the database can change a row, but not a receipt: its entry is a leaf of the tree, and
the guard signs the head. A writer accepts no head without that signature, so this check needs no key.
"""

import json
from dataclasses import replace
from typing import Any

import orjson

from mcp_guard.core import approval as rules
from mcp_guard.core import canonical
from mcp_guard.core.approval import Approval
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import entry, format_time
from mcp_guard.core.tlog import merkle
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.errors import HeadMoved

GRANTED, RELEASED = "approval.granted", "approval.released"
"""The kinds of receipt with which a request is approved."""
GIVEN = "grant.given"
DIFFERS = "is not what the ledger's receipts say"


def why_not_granted(tx: Transaction, approval: Approval, receipts: list[int]) -> str:
    """Why nobody may use this approval, although its row says that it is approved; empty if its receipts say so too.

    INVARIANT: writes nothing.
    """
    try:
        latest = _read_receipt(tx, receipts[-1])
        _check_same(latest, approval)
        if latest["kind"] not in (GRANTED, RELEASED) or latest.get("missing"):
            raise ValueError(f"its latest receipt is `{latest['kind']}`")
    except (ValueError, LookupError) as problem:
        return f"approval {approval.id} {DIFFERS}: {problem}; run `mcp-guard verify`"
    return ""


def why_not_given(tx: Transaction, grant: Grant) -> str:
    """Why nobody may use this grant; empty if the receipts say that it was given on these terms.

    How often it was used is not looked up: only `mcp-guard verify` counts that. INVARIANT: writes nothing.
    """
    _, receipts = tx.store.approval(grant.approval) or (None, [])
    try:
        for seq in receipts[1:]:
            granted = _read_receipt(tx, seq)
            if granted["kind"] == GRANTED and not granted.get("missing"):
                given = _read_receipt(tx, seq + 1)  # of the same transaction
                terms = grant_terms(grant)
                if given["kind"] == GIVEN and terms == {"free": []} | {
                    name: given[name] for name in terms if name in given
                }:
                    return ""
        raise ValueError("no receipt says that it was given")
    except (ValueError, LookupError) as problem:
        return f"grant {grant.id} {DIFFERS}: {problem}; run `mcp-guard verify`"


def grant_terms(grant: Grant) -> Json:
    """The fields of the receipt with which a grant is given that say what it permits."""
    until = format_time(grant.expires)
    return {"grant": grant.id, "uses": grant.uses, "until": until, "free": list(grant.free), "binding": grant.binding}


def check_request(tx: Transaction, approval: Approval, receipts: list[int]) -> None:
    """Check what people are shown and sign. INVARIANT: writes nothing.

    Raises: ApprovalError if the row does not say what the receipts of the request do.
    """
    try:
        requested = _read_receipt(tx, receipts[1])
        _check_same(requested, approval)
        if requested["kind"] != "approval.requested":
            raise ValueError(f"it begins with the receipt `{requested['kind']}`")
        _check_rules(tx, approval, receipts)
        _check_subject(tx, approval.subject, requested, approval.nonce)
    except (ValueError, LookupError) as problem:
        raise ApprovalError(
            f"approval {approval.id} {DIFFERS}: {problem}",
            "run `mcp-guard verify`; somebody may have changed the database",
        ) from None


def _read_receipt(tx: Transaction, seq: int) -> Json:
    """The receipt with this number. Raises: ValueError, LookupError if it is not in the tree; HeadMoved."""
    head = tx.head
    if seq >= head.size:
        raise HeadMoved("the head")
    if (row := tx.store.receipt(seq)) is None:
        raise LookupError(f"receipt {seq} is missing")
    path = merkle.Tree(head.size, tx.store.tile).inclusion(seq)
    leaf = merkle.leaf_hash(entry(row.body, row.signature))
    merkle.verify_inclusion(leaf, seq, head.size, path, merkle.root(head.hashes()))
    receipt: Json = orjson.loads(row.body)
    return receipt


def _check_same(receipt: Json, approval: Approval) -> None:
    """Raises: ValueError if the receipt is of another request."""
    for name, value in (
        ("approval", approval.id),
        ("request_hash", approval.request_hash),
        ("decision_hash", approval.decision_hash),
    ):
        if receipt.get(name) != value:
            raise ValueError(f"receipt {receipt['seq']} is not its own")


def _check_rules(tx: Transaction, approval: Approval, receipts: list[int]) -> None:
    """Raises: ValueError if other people would have to approve; as `_read_receipt`."""
    for seq in reversed(receipts[1:]):
        receipt = _read_receipt(tx, seq)
        if "rules" in receipt:
            if receipt["rules"] != _plain(rules.rules_as_json(approval)):
                raise ValueError("its rules differ")
            return


def _check_subject(tx: Transaction, subject: ApprovalSubject, requested: Json, nonce: str) -> None:
    """Raises: ValueError if something else is shown than was asked for."""
    seq = requested["seq"]
    salt, document = dict(tx.store.cells(seq, seq + 1)).get(seq, {}).get("subject", (b"", b""))
    if not document:
        return  # erased
    if canonical.digest(salt, document) != requested["subject"]:
        raise ValueError("the payload of its receipt differs")
    kept = ApprovalSubject.from_json(json.loads(document))
    shown = replace(subject, drill=None)  # which no receipt says while people can decide
    if subject.redacted is None and _plain(shown.to_json()) != _plain(kept.to_json()):
        raise ValueError("what it shows differs")
    arguments = canonical.canonicalize(subject.arguments, canonical.UNLIMITED, exact=True)
    if subject.binding != kept.binding or subject.binding["arguments"] != rules.salted_hash(nonce, arguments):
        raise ValueError("its arguments differ")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
