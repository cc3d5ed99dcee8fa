"""Makes drills: requests that people granted, made wrong by a rule of their route (`core/drills.py`)."""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import orjson

from mcp_guard.core import approval as rules
from mcp_guard.core import canonical
from mcp_guard.core.approval import Approval, ApprovalState, Route, make_rule
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.describe import compute_change
from mcp_guard.core.drills import DrillRule, drill_hash
from mcp_guard.core.model import DAY, SECOND, Facts, Json, Micros, Resource
from mcp_guard.core.receipt import Draft, commitment, format_second
from mcp_guard.core.receipt_limits import truncate_texts
from mcp_guard.core.request_meta import TRACEPARENT, canonical_request, trace_id, without_trace
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.drill_counts import find_due, keep_count
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import NO_INSTANCE

MAX_SOURCES = 50
"""How many of the latest requests are looked at for one to make a drill of."""
MAX_AGE: Micros = DAY
GRANTED = (ApprovalState.APPROVED, ApprovalState.CONSUMED)
MILLISECOND: Micros = 1000
OF_DOCUMENT = ("v", "kind", "seq", "time", "origin", "software", "request", "material", "facts")
"""Members of a receipt that appending adds."""


@dataclass(frozen=True, slots=True)
class DrillIds:
    """Makes the ids of requests, and of calls that came at a time, and random numbers below another."""

    approval: Callable[[], str]
    call: Callable[[Micros], str]
    draw: Callable[[int], int] = secrets.randbelow


@dataclass(frozen=True, slots=True)
class _DrillChoice:
    """A request that people granted, and a rule that makes it wrong by these values. `lender` is the request that they
    are borrowed from, the same one if none are."""

    source: Approval
    rule: DrillRule
    values: Json
    lender: Approval


def put_drill(tx: Transaction, route: Route, routes: Mapping[str, Route], ids: DrillIds) -> bool:
    """Put the drill that is due on this route. False, and without effect, if none is, if another one is open, or if no
    request of an instance that still runs can be made wrong by a rule."""
    count = find_due(tx.store, route.name, tx.now)
    if count is None or _is_open_on(tx.store, route):
        return False
    choices = list(_choices(tx, route))
    while choices:
        if _put(tx, choices.pop(ids.draw(len(choices))), route, routes, ids):
            keep_count(tx, route.name, replace(count, due=tuple(sorted(count.due)[1:])))
            return True
    return False


def _is_open_on(store: Store, route: Route) -> bool:
    return any(route.name in drill.routes for drill in store.approvals([ApprovalState.REQUESTED], NO_INSTANCE))


def _choices(tx: Transaction, route: Route) -> Iterator[_DrillChoice]:
    latest = [request for request in tx.store.latest_approvals(MAX_SOURCES) if _is_like(tx, request, route)]
    for source in latest:
        if source.state not in GRANTED or not _is_running(tx, source.instance):
            continue
        for rule in route.drills.rules if route.drills else ():
            for lender in latest if rule.borrow else [source]:
                given, lent = source.subject.arguments, lender.subject.arguments
                is_of_tool = rule.tool == source.subject.tool == lender.subject.tool
                if is_of_tool and (values := rule.changed(given, lent)) is not None:
                    yield _DrillChoice(source, rule, values, lender)


def _is_like(tx: Transaction, request: Approval, route: Route) -> bool:
    """Whether it is a recent one of this route alone, and what it asks for is kept as it was."""
    subject = request.subject
    is_whole = subject.redacted is None and not subject.erased
    return request.routes == (route.name,) and is_whole and not subject.drill and tx.now - request.requested <= MAX_AGE


def _is_running(tx: Transaction, instance: str) -> bool:
    row = tx.store.instance(instance)
    return row is not None and row.ended is None and registry.why_barred(tx.store, row.instance, tx.now) is None


def _put(tx: Transaction, choice: _DrillChoice, route: Route, routes: Mapping[str, Route], ids: DrillIds) -> bool:
    """Record the request, and the decision that asks for it, as of a call like that of the source. False if the
    source's decision is not kept."""
    row = tx.store.approval(choice.source.id)
    decided = row and tx.store.receipt(row[1][0])
    kept = tx.store.payloads(decided.seq) if decided else {}
    payloads = {name: data for name, data in kept.items() if data is not None}
    if decided is None or not {"request", "material"} <= payloads.keys():
        return False
    id, nonce = ids.approval(), os.urandom(16).hex()
    salt, lookup = rules.request_salt(nonce), canonical.digest(os.urandom(16))
    subject = _wrong_subject(choice, ids.call(_came_at(tx, choice.source, decided.at, ids)), nonce)
    payloads["request"] = canonical_request(
        json.loads(payloads["request"])["name"], _canonical(subject.arguments), subject.meta
    )
    drill = {
        "why": choice.rule.why,
        "changed": sorted(choice.values),
        "binding": rules.decision_hash(subject.binding, nonce),
        "salt": os.urandom(16).hex(),
    }
    subject = replace(subject, signed=subject.signed | {"commitment": commitment(salt, payloads["request"])})
    asked = Approval(
        id=id,
        state=ApprovalState.REQUESTED,
        instance=choice.source.instance,
        lookup=lookup,
        request_hash=rules.salted_hash(nonce, lookup.encode()),
        decision_hash=drill_hash(id, drill),
        nonce=nonce,
        rules=(make_rule(route, bool(subject.unknown_user)),),
        requested=tx.now,
        expires=tx.now + route.expires,
        subject=replace(subject, drill=drill),
    )
    decision = Draft("decision", _decision_fields(decided.body, subject, tx.now), payloads, {"request": salt})
    transitions.add_request(tx, asked, replace(asked, subject=subject), tx.add(decision), routes)
    return True


def _came_at(tx: Transaction, source: Approval, decided: Micros, ids: DrillIds) -> Micros:
    """When its call came, which its id tells everybody: as long before it was asked about as the call of the source."""
    first = tx.store.receipts_of(source.subject.call)[0]
    return tx.now - (decided - first.at) - MILLISECOND - ids.draw(4 * MILLISECOND)


def _canonical(value: Json) -> bytes:
    return canonical.canonicalize(value, canonical.UNLIMITED, exact=True)


def _wrong_subject(choice: _DrillChoice, call: str, nonce: str) -> ApprovalSubject:
    """The subject of another call, with the wrong values. Nothing is read for a drill: what it shows of the present
    state was read for its source."""
    was, values = choice.source.subject, choice.values
    arguments, meta, resource = was.arguments | values, _retraced(was.meta), was.resource
    has_facts = was.binding["facts"] is not None
    compared = {name: value for name, value in values.items() if name != was.resource_argument}
    same = {name: was.arguments[name] for name in compared if name in was.arguments and name not in was.changes}
    present = was.present | same if has_facts else was.present
    change = compute_change(compared, Facts(present, "") if has_facts else None)
    if resource is not None and was.resource_argument in values:
        named = values[was.resource_argument]
        is_id = isinstance(named, str | int)
        resource = replace(resource, id=str(named)) if is_id else choice.lender.subject.resource
    return replace(
        was,
        call=call,
        arguments=arguments,
        meta=meta,
        resource=resource,
        binding=was.binding | _hashes(was, arguments, meta, present if has_facts else None, nonce) | _named(resource),
        signed=was.signed | ({"resource": truncate_texts(asdict(resource))} if resource else {}),
        present=present,
        changes=tuple(sorted(({*was.changes} - values.keys()) | {*change.fields})),
        delta={name: delta for name, delta in was.delta.items() if name not in values}
        | {name: str(delta) for name, delta in change.delta.items()},
    )


def _named(resource: Resource | None) -> Json:
    return {"resource": f'{resource.type}::"{resource.id}"'} if resource else {}


def _hashes(was: ApprovalSubject, arguments: Json, meta: Json | None, facts: Json | None, nonce: str) -> Json:
    """The members of a binding that are salted with the request's own nonce."""
    hashed = {
        "arguments": _canonical(arguments),
        "meta": _canonical(bound) if (bound := without_trace(meta)) else None,
        "ticket": was.ticket.encode() if was.ticket else None,
        "reason": was.reason.encode() if was.reason else None,
        "facts": None if facts is None else _canonical(facts),
    }
    return {name: None if data is None else rules.salted_hash(nonce, data) for name, data in hashed.items()}


def _retraced(meta: Json | None) -> Json | None:
    """The same members, in a trace of their own."""
    traced = {TRACEPARENT: f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"}
    return meta | traced if meta and TRACEPARENT in meta else meta


def _decision_fields(decision: bytes, subject: ApprovalSubject, now: Micros) -> Json:
    """Those of the source's decision, as of this call."""
    fields = {name: value for name, value in orjson.loads(decision).items() if name not in OF_DOCUMENT}
    fields |= {"call": subject.call, "changes": list(subject.changes), "trace": trace_id(subject.meta)}
    fields |= {"decided_at": format_second(now // SECOND)} if "decided_at" in fields else {}
    return fields | ({"resource": asdict(subject.resource)} if subject.resource else {})
