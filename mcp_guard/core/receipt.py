"""Receipts: the members of a ledger entry, and its exact bytes.

A receipt is an RFC 8785 document. Its ledger entry is that document, a newline, and the base64 Ed25519 signature over
the document; the entry is a leaf of the Merkle tree. A receipt never contains payloads: it holds `sha256(salt ||
payload)`. Payload and salt are stored separately, where they can be erased while the proof stays.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from mcp_guard.core import canonical, exact_json, rates, sequences
from mcp_guard.core.confirmation import NOT_READ_AGAIN, confirmation_fields, is_confirmed, unread
from mcp_guard.core.model import (
    NO_HISTORY,
    NOTHING,
    SECOND,
    AdvisoryDecision,
    Call,
    CallHistory,
    Confirmation,
    Decision,
    Execution,
    ExecutionStatus,
    Instance,
    Json,
    Micros,
    Mode,
    Origins,
)
from mcp_guard.core.receipt_limits import MAX_TEXT_BYTES, NEVER_CUT, truncate_texts
from mcp_guard.core.redaction import redact_execution, redact_facts, redact_fields, redact_receipt, texts_of
from mcp_guard.core.visible_text import VisibleText, is_connective, join, labelled_text, quote, say, value_text

SCHEMA_VERSION = 1
CLAIMED = VisibleText(" (claimed by the agent)")
SELF_APPROVED = VisibleText(" (self-approved)")
BY_SERVICE = "by {}, not by a key"
"""How a vote was given that no key has signed."""

KINDS = (
    "guard.started", "guard.stopped", "instance.started", "instance.joined", "instance.ended",
    "credential.issued",
    "credential.revoked", "agent.enrolled", "agent.enabled",
    "policy.loaded", "policy.rejected", "policy.proposed", "policy.approved", "policy.denied", "policy.withdrawn",
    "decision", "approval.requested", "approval.escalated", "approval.granted",
    "approval.denied", "approval.missed", "approval.expired", "approval.withdrawn", "approval.stale",
    "approval.revoked",
    "approval.consumed", "approval.released", "grant.given", "grant.used", "grant.released", "grant.revoked",
    "approver.enrolled", "approver.removed",
    "intent", "outcome", "key.rotated", "key.replaced", "payload.erased", "checkpoint.witnessed", "ledger.migrated",
    "catalog.pinned", "catalog.changed", "catalog.quarantined", "catalog.accepted", "catalog.refused",
)  # fmt: skip
VOTED = "approval.voted"
"""How people are shown the kind of an `approval.granted` that is not the last approval that its request needs."""


class Draft(NamedTuple):
    """A receipt before it is appended: kind, fields, and by name the payloads to commit to.

    Fields that are None, empty text or empty lists are left out of the document. `salts` are those of payloads whose
    commitment has been promised; others are random.
    """

    kind: str
    fields: Mapping[str, Any]
    payloads: Mapping[str, bytes] = NOTHING
    salts: Mapping[str, bytes] = NOTHING


def format_time(at: Micros) -> str:
    """RFC 3339 in UTC with microseconds."""
    seconds, micros = divmod(at, SECOND)
    return f"{_to_second(seconds)}.{micros:06d}Z"


def format_second(seconds: int) -> str:
    """RFC 3339 in UTC, to the second."""
    return f"{_to_second(seconds)}Z"


def file_time(at: Micros) -> str:
    """The time in the name of a file: `20260131T192200Z`."""
    return f"{format_time(at)[:19].replace(':', '').replace('-', '')}Z"


@lru_cache(maxsize=8)
def _to_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def commitment(salt: bytes, payload: bytes) -> str:
    hash = hashlib.sha256(salt)
    hash.update(payload)  # without a copy of both together: it may be large
    return "sha256:" + hash.hexdigest()


class ReceiptPosition(NamedTuple):
    """What appending adds to a receipt: the ledger's origin, sequence number, time (RFC 3339), and the software."""

    origin: str
    seq: int
    time: str
    software: str


def document(draft: Draft, position: ReceiptPosition, commitments: Mapping[str, str]) -> bytes:
    """The canonical bytes that are signed. Long texts are cut (core/receipt_limits.py), except what others signed.

    INVARIANT: names are ASCII and values text, integers, lists and objects, for which sorted JSON is RFC 8785.
    """
    fields = _without_empty(draft.fields)
    rest = {**commitments, "v": SCHEMA_VERSION, "kind": draft.kind, "seq": position.seq, "time": position.time}
    rest |= {"origin": position.origin, "software": position.software}
    whole = orjson.dumps(fields | rest, option=orjson.OPT_SORT_KEYS)
    if len(whole) <= MAX_TEXT_BYTES:  # and so does each text in it
        return whole
    fields = {name: value if name in NEVER_CUT else truncate_texts(value) for name, value in fields.items()}
    return orjson.dumps(fields | rest, option=orjson.OPT_SORT_KEYS)


def _without_empty(fields: Mapping[str, Any]) -> Json:
    """The fields that have a value. Zero and false are values; few receipts have one, so most take the short way."""
    if 0 not in fields.values():
        return dict(filter(itemgetter(1), fields.items()))
    return {name: value for name, value in fields.items() if value or isinstance(value, int)}


def entry(body: bytes, signature: bytes) -> bytes:
    """The ledger entry, which is the leaf of the tree."""
    return body + b"\n" + base64.b64encode(signature)


def instance_fields(instance: Instance) -> Json:
    return {
        "agent": instance.agent.name,
        "owner": instance.agent.owner,
        "instance": instance.id,
        "credential": instance.credential_id,
        "on_behalf_of": instance.on_behalf_of,
        "user_issuer": instance.user_issuer,
    }


CALL_FIELDS = (
    "agent", "owner", "instance", "credential", "on_behalf_of", "user_issuer", "call", "trace", "purpose",
    "authority", "ticket", "reason", "claimed", "upstream", "tool", "definition", "resource",
)  # fmt: skip


def call_fields(call: Call) -> Json:
    """The fields that every receipt of one call has: `CALL_FIELDS`."""
    return {
        **instance_fields(call.instance),
        "call": call.id,
        "trace": call.trace,
        "purpose": None if call.purpose == "call" else call.purpose,
        "authority": call.authority,
        "ticket": call.task.ticket,
        "reason": call.task.reason,
        "claimed": _claimed(call),
        "upstream": call.tool.server if call.tool else None,
        "tool": call.name,
        "definition": call.tool.definition_hash if call.tool else None,
        "resource": {"type": call.resource.type, "id": call.resource.id} if call.resource.id else None,
    }


def _claimed(call: Call) -> list[str]:
    """Which of ticket and reason the agent gave with the call."""
    own = call.instance.task
    if call.task is own:
        return []
    values = {"ticket": (call.task.ticket, own.ticket), "reason": (call.task.reason, own.reason)}
    return [name for name, (value, launched) in values.items() if value and value != launched]


APPROVED_MEMBERS = (
    "agent", "owner", "instance", "on_behalf_of", "user_issuer", "upstream", "tool", "definition", "resource", "verb",
    "ticket", "reason", "claimed", "policy_version",
)  # fmt: skip
"""Members of an intent that its approvers sign, and that a verifier compares with what they signed."""


def approved_members(call: Call, decision: Decision) -> Json:
    """These members of the receipts of a held call, redacted and cut once and for all."""
    fields = _intent_fields(call, decision)
    if call.redaction:
        fields = redact_fields(fields, texts_of(call))
    return {name: truncate_texts(fields[name]) for name in APPROVED_MEMBERS if fields.get(name)}


def request_commitment(call: Call, salt: bytes) -> str:
    """The commitment to the request of a call, as its receipts have it with this salt."""
    _, payloads = redact_receipt(call, {}, {"request": call.request})
    return commitment(salt, payloads["request"])


def decision_draft(call: Call, decision: Decision, salt: bytes | None = None) -> Draft:
    """A decision that allows nothing yet: the call is denied, or held for approval.

    `salt` is that of the commitment to the request that approvers sign.
    """
    fields, payloads = redact_receipt(call, _decision_fields(call, decision), _decision_payloads(call, decision))
    return Draft("decision", fields, payloads, {"request": salt} if salt else {})


def intent_draft(call: Call, decision: Decision, approval: Json | None = None, salt: bytes | None = None) -> Draft:
    """The intent to run a call, together with the decision that allows it, so that both become durable at once.

    `salt` is that of the commitment to the request that its approvers have signed.
    """
    fields = _intent_fields(call, decision) | {"approval": approval}
    fields, payloads = redact_receipt(call, fields, _decision_payloads(call, decision))
    if approval is not None:
        fields |= {name: truncate_texts(fields[name]) for name in APPROVED_MEMBERS if fields.get(name)}
    return Draft("intent", fields, payloads, {"request": salt} if salt else {})


def _intent_fields(call: Call, decision: Decision) -> Json:
    assert call.tool is not None
    return _decision_fields(call, decision) | {"verb": call.tool.rule.verb if call.resource.id else None}


def look_up_draft(call: Call) -> Draft:
    """The intent of one of the guard's own look-ups, which the configuration allows."""
    return Draft("intent", *redact_receipt(call, call_fields(call), {"request": call.request}))


def _decision_fields(call: Call, decision: Decision) -> Json:
    fields = call_fields(call)
    fields["outcome"] = str(decision.outcome)
    fields["policies"] = list(decision.policies)
    fields["policy_version"] = decision.policy_version
    fields["reasons"] = list(decision.reasons)
    fields["routes"] = list(decision.routes)
    fields["errors"] = list(decision.errors)
    fields["risk"] = {
        "score": call.risk.score,
        "level": call.risk.level,
        "signals": [signal.name for signal in call.risk.signals],
        "because": [signal.because for signal in call.risk.signals],
    }
    fields["history"] = _past_fields(call.history)
    if decision.counts:
        fields["rates"] = rates.counts_as_json(decision.counts)
        fields["sequences"] = sequences.sequences_in(decision.counts)
    fields["changes"] = list(call.change.fields)
    fields["decided_at"] = decision.decided_at
    fields["time_zone"] = decision.time_zone
    fields["mode"] = str(Mode.OBSERVE) if decision.would else None
    fields["would"] = _opinion_fields(decision.would)
    fields["shadow"] = _opinion_fields(decision.shadow)
    return fields


def reason_texts(receipt: Mapping[str, Any]) -> list[VisibleText]:
    """The reasons of a decision, each to be shown alone or after a colon.

    Those of policies are the operator's words. Without a policy, or if one failed, they may repeat what an agent or an
    upstream wrote.
    """
    is_of_policies = receipt.get("policies") and not receipt.get("errors")
    return list(map(labelled_text if is_of_policies else value_text, receipt.get("reasons", [])))


def _opinion_fields(opinion: AdvisoryDecision | None) -> Json | None:
    """A decision that had no effect on the call."""
    if opinion is None:
        return None
    members = {"outcome": str(opinion.outcome), "policy_version": opinion.policy_version}
    lists = {"policies": opinion.policies, "reasons": opinion.reasons, "routes": opinion.routes}
    return members | {name: list(values) for name, values in lists.items() if values}


def _past_fields(past: CallHistory) -> Json:
    """What the instance had seen, and where the values of the sinks came from; arguments by name only."""
    if past is NO_HISTORY:
        return {}
    sinks = {name: list(names) for name in Origins.__slots__ if (names := getattr(past.sinks, name))}
    fields: Json = {name: getattr(past, name) for name in ("untrusted_seen", "sensitive_seen", "orders_seen")}
    fields |= {"new_amounts": list(past.new_amounts), "sinks": sinks}
    return {name: value for name, value in fields.items() if value}


def _decision_payloads(call: Call, decision: Decision) -> dict[str, bytes]:
    payloads = {"request": call.request}
    if decision.material:
        payloads["material"] = decision.material
    if call.facts is not None:
        payloads["facts"] = canonical.canonicalize(call.facts.values, canonical.UNLIMITED, exact=True)
    return payloads


def outcome_draft(call: Call, intent: int, execution: Execution) -> Draft:
    """`intent` is the sequence number of the intent."""
    redacted: list[str] = []
    if call.redaction:
        execution, redacted = redact_execution(call, execution)
    response = exact_json.dumps(execution.reply)
    fields = {
        **call_fields(call),
        "ending": str(execution.status),
        "detail": execution.detail,
        "follows": [intent],
        "response_bytes": len(response),
        "redacted": redacted,
    }
    if execution.rounds > 1:
        fields["rounds"] = execution.rounds
    if call.redaction:
        fields = redact_fields(fields, texts_of(call))
    payloads = {"response": response}
    if is_confirmed(call) and execution.status is not ExecutionStatus.NOT_SENT:
        _add_confirmation(call, execution.confirmation or unread(NOT_READ_AGAIN), fields, payloads)
    return Draft("outcome", fields, payloads)


def _add_confirmation(call: Call, confirmation: Confirmation, fields: Json, payloads: dict[str, bytes]) -> None:
    """What the call has changed, and as a payload the facts after it."""
    texts = texts_of(call) if call.redaction else ()
    fields["confirmation"] = confirmation_fields(confirmation, texts)
    if confirmation.facts is None:
        return
    values = confirmation.facts.values
    if call.redaction:
        values, removed = redact_facts(call, confirmation.facts)
        fields["redacted"] = [*fields["redacted"], *removed]
    payloads["facts"] = canonical.canonicalize(values, canonical.UNLIMITED, exact=True)


VERB = re.compile(r"(?!(?:called|is calling|tried to call|asked|asks)\b)[A-Za-z]+(?: [A-Za-z-]+)*\Z")
ENDED_OK = "ok"
INTENDED = "intended"
"""In place of an ending: the intent alone is told, whatever its outcome is."""
UNFINISHED = {
    None: ("is calling", "no outcome is recorded yet"),
    INTENDED: ("is calling", "its outcome follows in another receipt"),
    "tool_error": ("called", "the tool reported an error"),
    "upstream_error": ("called", "the server reported an error"),
    "timeout": ("called", "no reply came in time, so it may have happened"),
    "cancelled": ("called", "it was cancelled, and may have happened"),
    "not_sent": ("tried to call", "it was not sent"),
    "unknown": ("called", "nobody knows whether it happened"),
}
"""How a call is told that is not known to have done what its tool's verb says, by its ending; None without an outcome.
"""


def attribution(receipt: Mapping[str, Any], ending: str | None = ENDED_OK) -> VisibleText:
    """The sentence that says who did what, why, and who approved it: of an intent, or of another receipt of a call.

    `ending` is that of the intent's outcome, None if it has none yet, or `INTENDED`: only what went well is told as
    done.

    Every part of it is a plain identifier or quoted, so no part can be read as another one (`visible_text.quote`). What
    only the agent says is marked as claimed. It takes malformed receipts too, as from a stranger's file.
    """
    if receipt.get("purpose") == "facts":
        return say(
            "the guard {} the present state{} with {} for a call of {}, instance {}",
            "is reading" if ending == INTENDED else "read",
            _of(receipt.get("resource")),
            *(quote(receipt.get(name, "?")) for name in ("tool", "agent", "instance")),
        )
    deed, qualification = _deed(receipt), VisibleText("")
    if ending != ENDED_OK:
        verb, how = UNFINISHED.get(ending, UNFINISHED["unknown"])
        deed, qualification = say("{} {}", verb, target(receipt)), say("; {}", how)
    parts = [caller(receipt), say(", {}", deed), mandate(receipt)]
    if approvers := approvers_of(receipt):
        parts.append(say(", approved by {}", join(" and ", map(name_of_approver, approvers))))
    version = str(receipt.get("policy_version", ""))[7:19] or "?"
    return join("", [*parts, say(", under policy version {}", quote(version)), qualification])


def caller(receipt: Mapping[str, Any]) -> VisibleText:
    """Which run of which agent."""
    return say("{}, instance {}", quote(receipt.get("agent", "?")), quote(receipt.get("instance", "?")))


def mandate(receipt: Mapping[str, Any]) -> VisibleText:
    """On whose behalf and due to which ticket, with a blank before each."""
    user, ticket = receipt.get("on_behalf_of"), receipt.get("ticket")
    return join(
        "",
        [
            *([say(" on behalf of {}", quote(user))] if user else []),
            *([say(" due to ticket {}{}", quote(ticket), claim_mark(receipt, "ticket"))] if ticket else []),
        ],
    )


def revoked(receipt: Mapping[str, Any]) -> VisibleText:
    """Who was revoked, of a `credential.revoked`: `agent mail-agent`."""
    return say("{} {}", *(quote(receipt.get(name, "?")) for name in ("scope", "name")))


def target(receipt: Mapping[str, Any]) -> VisibleText:
    """The tool, and the resource if the configuration names one: `crm__update_deal on Deal 789`."""
    return say("{}{}", quote(receipt.get("tool", "?")), _of(receipt.get("resource")))


def claim_mark(receipt: Mapping[str, Any], name: str) -> VisibleText:
    """What follows a ticket or a reason that the agent gave, not its launcher."""
    return VisibleText(CLAIMED if name in (receipt.get("claimed") or ()) else "")


def shown_kind(receipt: Mapping[str, Any]) -> str:
    """Its kind; `VOTED` for an approval that left others missing, because nothing is granted by it."""
    return VOTED if receipt["kind"] == "approval.granted" and receipt.get("missing") else str(receipt["kind"])


def approvers_of(receipt: Mapping[str, Any]) -> list[Json]:
    """The people whose signed votes the intent used, as the ledger checked them."""
    approval = receipt.get("approval")
    approvers = approval.get("approvers") if isinstance(approval, dict) else None
    return [approver for approver in approvers or () if isinstance(approver, dict)]


def name_of_approver(approver: Mapping[str, Any]) -> VisibleText:
    """The name, marked if no key of theirs has signed, and if they approved their own request."""
    own = SELF_APPROVED if approver.get("self_approved") else ""
    return say("{}{}{}", quote(approver.get("name")), service_mark(approver), own)


def service_mark(vote: Mapping[str, Any]) -> VisibleText:
    """What follows the name of somebody who voted by a button of a service, not with a key."""
    method = vote.get("method")
    return say(" ({})", say(BY_SERVICE, quote(str(method).capitalize()))) if method else VisibleText("")


def _deed(receipt: Mapping[str, Any]) -> VisibleText:
    verb, resource = receipt.get("verb"), receipt.get("resource")
    if not verb:
        return say("called {}", target(receipt))
    id = resource.get("id", "?") if isinstance(resource, dict) else "?"
    is_plain = VERB.match(str(verb)) and not is_connective(str(verb))
    return say("{} {}", verb if is_plain else quote(verb, always=True), quote(id))


def _of(resource: object) -> VisibleText:
    if not isinstance(resource, dict) or resource.get("type") == "Tool":
        return VisibleText("")
    return say(" on {} {}", quote(resource.get("type", "?")), quote(resource.get("id", "?")))
