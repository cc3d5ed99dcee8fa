"""What became of one call, in a sentence, from its receipts: done, failed, waiting for people, or refused. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from mcp_guard.core.confirmation import confirmation_words
from mcp_guard.core.drill_results import results_text
from mcp_guard.core.receipt import attribution, caller, mandate, name_of_approver, reason_texts, target
from mcp_guard.core.visible_text import VisibleText, join, quote, say, shorten, value_text

Receipt = Mapping[str, Any]
LOOK_UP = "look-up"
"""How lists mark what the guard read to decide a call."""
MAX_REASON = 300
"""Characters of a reason."""
NOT_YET, NEVER = "nothing has been sent", "nothing was sent"
REFUSED = {
    "approval.expired": "nobody decided in time",
    "approval.withdrawn": "the request was withdrawn",
    "approval.stale": "something changed before it could be sent, so its approval lapsed",
    "approval.revoked": "its approval was revoked",
}
"""How a request ends that nobody denied."""


def is_look_up(receipt: Receipt) -> bool:
    """Whether it is of the guard's own reading of the present state, for the call that it decides."""
    return receipt.get("purpose") == "facts"


def summarize_call(receipts: Sequence[Receipt], now: str) -> list[VisibleText]:
    """A sentence for each call that was sent, else one on the call that was asked for; none if they are of no call.

    `receipts` are those of a call and of its approval, in order; `now` is a time as receipts have it. INVARIANT: the
    call that was asked for is told, never a look-up that the guard made for it.
    """
    own = [receipt for receipt in receipts if not is_look_up(receipt)]
    outcomes = {seq: receipt for receipt in own if is_outcome(receipt) for seq in receipt["follows"]}
    if intents := [receipt for receipt in own if receipt["kind"] == "intent"]:
        return [_sent(intent, outcomes.get(intent["seq"], {})) for intent in intents]
    asked = [receipt for receipt in own if "tool" in receipt and _is_step(receipt["kind"])]
    if asked:
        return [_not_sent(asked, now)]
    look_ups = [receipt for receipt in receipts if is_look_up(receipt)]
    return [say("{}; no decision is recorded", attribution(look_ups[0]))] if look_ups else []


def _sent(intent: Receipt, outcome: Receipt) -> VisibleText:
    """The sentence of a call that was sent, and what reading the resource again has shown."""
    sentence, confirmation = attribution(intent, outcome.get("ending")), outcome.get("confirmation")
    return say("{}; {}", sentence, confirmation_words(confirmation)) if confirmation else sentence


def is_outcome(receipt: Receipt) -> bool:
    return bool(receipt["kind"] == "outcome")


def _is_step(kind: str) -> bool:
    return kind == "decision" or kind.startswith("approval.")


def _not_sent(steps: Sequence[Receipt], now: str) -> VisibleText:
    """The sentence of a call without an intent, by its latest step."""
    asked = steps[0]
    if drill := steps[-1].get("drill"):
        likeness = say("a request like one of {}, which it never made: {}", caller(asked), target(asked))
        return say("a drill, {}: {}; {}", results_text(drill), likeness, NEVER)
    state, is_open = _state(steps, now)
    verb, sent = ("asks for", NOT_YET) if is_open else ("asked for", NEVER)
    asks = say("{}, {} {}{}", caller(asked), verb, target(asked), mandate(asked))
    return say("{}; {}; {}", asks, state, sent)


def _state(steps: Sequence[Receipt], now: str) -> tuple[VisibleText, bool]:
    """What has become of it, and whether it can still be sent."""
    last = steps[-1]
    kind, id = last["kind"], quote(last.get("approval", "?"))
    if kind == "decision":
        if last.get("outcome") == "deny":
            return say("denied: {}", _why(last)), False
        return say("held for approval: {}", _why(last)), True
    if kind in REFUSED:
        return VisibleText(REFUSED[kind]), False
    if kind == "approval.denied":
        return say("denied by {}: {}", quote(last.get("name", "?")), _reason(last.get("rationale", "?"))), False
    if str(last.get("expires", "~")) <= now:
        return VisibleText(REFUSED["approval.expired"]), False
    until = f"until {str(last.get('expires', '?'))[:16].replace('T', ' ')}"
    votes = [step for step in steps if step["kind"] == "approval.granted"]
    names = join(" and ", map(name_of_approver, votes))
    if votes and not votes[-1].get("missing"):
        return say("approved by {}, valid {} ({})", names, until, id), True
    so_far = say(", approved by {} so far", names) if votes else ""
    routes = join(", ", map(quote, last.get("routes", [])))
    return say("waiting {} for approval by {}{} ({})", until, routes, so_far, id), True


def _why(decision: Receipt) -> VisibleText:
    reasons = [*reason_texts(decision), *map(value_text, decision.get("errors", []))]
    policies = join(", ", map(quote, decision.get("policies", [])))
    by = say(" (policy {})", policies) if policies else ""
    return say("{}{}", join("; ", map(_reason, reasons or [VisibleText("no policy permits it")])), by)


def _reason(text: object) -> VisibleText:
    """In quotes where it contains what separates the parts of the sentence: others may have written some of it."""
    if ";" in str(text):
        return quote(str(text)[:MAX_REASON] + ("…" if len(str(text)) > MAX_REASON else ""))
    return shorten(value_text(text), MAX_REASON)
