"""What the page of a call shows: what became of it, what was decided on, who approved, and each receipt as a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mcp_guard.core.approval import some_of
from mcp_guard.core.call_summary import is_look_up, summarize_call
from mcp_guard.core.canonical import readable_json
from mcp_guard.core.confirmation import changed_values, confirmation_words, differs
from mcp_guard.core.drill_results import results_text
from mcp_guard.core.receipt import claim_mark, name_of_approver, reason_texts, shown_kind
from mcp_guard.core.receipt_summary import summarize_receipt
from mcp_guard.core.visible_text import (
    VisibleText,
    join,
    quote,
    readable_value,
    say,
    visible,
    visible_json,
    visible_json_text,
    visible_lines,
)
from mcp_guard.web.entries import BAD, ENDINGS, GOOD, QUIET, WAITING, Receipt, call_result, shown_time
from mcp_guard.web.view import MAX_BESIDE

Payloads = Mapping[int, Mapping[str, object]]
"""By receipt and name; None for one that was hashed and not kept."""
SHOWN_PAYLOADS = ("request", "facts", "response")
HASH_SHOWN = len("sha256:") + 12
MAX_VALUE = 20_000
"""Characters of a payload that a page shows; a bundle has it whole."""
HISTORY = {
    "untrusted_seen": "untrusted content was read before",
    "sensitive_seen": "sensitive content was read before",
    "orders_seen": "content with instructions to agents was read before",
}
UNDECIDED = ("approval.requested", "approval.escalated")
"""Kinds after which people can still decide."""


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One argument of the call, and the present value that it was compared with."""

    name: str
    before: str
    after: str
    is_change: bool
    actual: str = ""
    """What was read after the call, if that differs from the value before it or from what was asked for."""
    is_difference: bool = False

    @property
    def is_long(self) -> bool:
        """Whether its values get the whole width."""
        return sum(map(len, (self.before, self.after, self.actual))) > MAX_BESIDE


@dataclass(frozen=True, slots=True)
class StoryStep:
    """One receipt. `lines` are labelled texts; `payloads` are what is stored of it, as far as the viewer may see it."""

    seq: int
    time: str
    title: str
    look: str
    lines: tuple[tuple[str, str], ...]
    payloads: tuple[tuple[str, str], ...]
    document: str
    is_look_up: bool


@dataclass(frozen=True, slots=True)
class Story:
    """A call, or one receipt that belongs to none (`call` is empty)."""

    call: str
    title: str
    sentences: tuple[str, ...]
    result: str
    look: str
    facts: tuple[tuple[str, str, str], ...]
    """Label, text, and what only the agent says of it."""
    agent: str
    instance: str
    changes: tuple[ChangeRow, ...]
    changed_names: tuple[str, ...]
    policies: tuple[str, ...]
    steps: tuple[StoryStep, ...]
    seqs: tuple[int, ...]

    @property
    def has_actual(self) -> bool:
        """Whether it is known what the call has changed."""
        return any(row.actual for row in self.changes)

    @property
    def groups(self) -> list[tuple[bool, list[StoryStep]]]:
        """The steps; those in which the guard looked something up, one after the other, together."""
        return [
            (is_look_up, list(steps)) for is_look_up, steps in groupby(self.steps, key=lambda step: step.is_look_up)
        ]


def may_be_drill(receipts: Sequence[Receipt]) -> bool:
    """Whether people decide now on the request of these receipts, on a route with drills."""
    last: Receipt = next((receipt for receipt in reversed(receipts) if not is_look_up(receipt)), {})
    is_open = last.get("kind") in UNDECIDED or (last.get("kind") == "approval.granted" and last.get("missing"))
    return bool(is_open) and any(rule.get("drills") for rule in last.get("rules", ()))


def without_what_tells(receipts: Sequence[Receipt]) -> list[Receipt]:
    """The receipts without what would tell a drill while people decide: it has no look-ups, and the rates of the
    request that it was made of."""
    if not may_be_drill(receipts):
        return list(receipts)
    own = (receipt for receipt in receipts if not is_look_up(receipt))
    return [{name: value for name, value in receipt.items() if name != "rates"} for receipt in own]


def make_story(receipts: Sequence[Receipt], payloads: Payloads, now: str) -> Story:
    """`receipts` are those of a call and of its approval, in order, or a single one.

    Raises: ValueError and the like if one of them is no receipt.
    """
    own = [receipt for receipt in receipts if not is_look_up(receipt)] or list(receipts)
    is_call = "call" in own[0] and "tool" in own[0]
    decided = [receipt for receipt in own if receipt["kind"] in ("intent", "decision")]
    subject = decided[-1] if decided else own[0]
    result, look = call_result(own, now) if is_call else ("", QUIET)
    policies = dict.fromkeys(str(id) for receipt in decided for id in receipt.get("policies", []))
    return Story(
        call=str(own[0].get("call", "")) if is_call else "",
        title=_title(own[0]),
        sentences=tuple(summarize_call(receipts, now)) or (summarize_receipt(own[0]),),
        result=result,
        look=look,
        facts=tuple(_facts(subject)),
        agent=str(subject.get("agent", "")),
        instance=str(subject.get("instance", "")),
        changes=tuple(_changes(subject, _outcome_of(subject, own), payloads)) if decided else (),
        changed_names=tuple(map(visible, subject.get("changes", []))),
        policies=tuple(policies),
        steps=tuple(_step(receipt, payloads.get(receipt["seq"], {})) for receipt in receipts),
        seqs=tuple(receipt["seq"] for receipt in receipts),
    )


def _title(receipt: Receipt) -> str:
    if "tool" not in receipt:
        return str(shown_kind(receipt)).replace(".", " ")
    server, _, name = str(receipt["tool"]).partition("__")
    resource = receipt.get("resource")
    target = ""
    if isinstance(resource, dict) and resource["type"] != "Tool":
        target = say(" {} {}", quote(resource["type"]), quote(resource["id"]))
    return say("{}{}", (name or server).replace("_", " "), target)


def _facts(receipt: Receipt) -> list[tuple[str, str, str]]:
    resource = receipt.get("resource")
    version = str(receipt.get("policy_version", ""))
    values: dict[str, object] = {
        "Owner": receipt.get("owner"),
        "On behalf of": receipt.get("on_behalf_of"),
        "Upstream called as": "the user" if receipt.get("authority") == "user" else None,
        "Ticket": receipt.get("ticket"),
        "Stated reason": receipt.get("reason"),
        "Tool": receipt.get("tool"),
        "Definition": _short_hash(receipt.get("definition")),
        "Resource": f"{resource['type']} {resource['id']}" if isinstance(resource, dict) else None,
        "Policy version": None if version in ("", "none") else _short_hash(version),
    }
    members = {"Ticket": "ticket", "Stated reason": "reason"}
    return [
        (label, visible_lines(value), claim_mark(receipt, members.get(label, "")).strip(" ()"))
        for label, value in values.items()
        if value
    ]


def _short_hash(value: object) -> str:
    """The beginning of a hash, as people compare it; the receipt has all of it."""
    text = str(value or "")
    return text[:HASH_SHOWN] + "…" if len(text) > HASH_SHOWN else text


def _outcome_of(intent: Receipt, receipts: Sequence[Receipt]) -> Receipt:
    """Empty if there is none."""
    return next(
        (receipt for receipt in receipts if receipt.get("follows") == [intent["seq"]] and "ending" in receipt), {}
    )


def _changes(subject: Receipt, outcome: Receipt, payloads: Payloads) -> list[ChangeRow]:
    of_subject = payloads.get(subject["seq"], {})
    request, facts = of_subject.get("request"), of_subject.get("facts")
    arguments = request.get("arguments") if isinstance(request, dict) else None
    if not isinstance(arguments, dict):
        return []
    present = facts if isinstance(facts, dict) else {}
    changed = set(subject.get("changes", []))
    after = payloads.get(outcome.get("seq", -1), {}).get("facts")
    values = (
        changed_values(outcome.get("confirmation", {}), arguments, present, after) if isinstance(after, dict) else []
    )
    actual = {value.name: value for value in values}
    rows = [
        ChangeRow(
            visible(name),
            _value(present[name]) if name in present else "",
            _value(arguments[name]) if name in arguments else "",
            name in changed,
            _value(actual[name].after) if name in actual else "",
            name in actual and actual[name].is_difference,
        )
        for name in [*arguments, *(name for name in actual if name not in arguments)]
    ]
    return sorted(rows, key=lambda row: not (row.is_change or row.is_difference))


def _value(value: object) -> VisibleText:
    text = readable_value(value)
    cut = text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"
    return visible_lines(cut) if text == value else visible_json_text(cut)


def _step(receipt: Receipt, payloads: Mapping[str, object]) -> StoryStep:
    title, look = _step_title(receipt)
    return StoryStep(
        seq=receipt["seq"],
        time=shown_time(receipt),
        title=title,
        look=look,
        lines=tuple((label, text) for label, text in _step_lines(receipt) if text),
        payloads=tuple((name, _payload(payloads[name])) for name in SHOWN_PAYLOADS if name in payloads),
        document=visible_json(receipt, indent=2),
        is_look_up=is_look_up(receipt),
    )


def _payload(value: object) -> str:
    if value is None:
        return "not stored; the receipt has only its hash"
    text = readable_json(value, 2)
    shown = visible_json_text(text[:MAX_VALUE])
    return shown if len(text) <= MAX_VALUE else VisibleText(shown + "… (cut; the bundle has all of it)")


def _step_title(receipt: Receipt) -> tuple[str, str]:
    kind = receipt["kind"]
    if is_look_up(receipt):
        return ("Look-up sent" if kind == "intent" else "Look-up answered"), QUIET
    match kind:
        case "decision":
            return ("Denied", BAD) if receipt.get("outcome") == "deny" else ("Held for approval", WAITING)
        case "intent":
            return ("Sent, as approved" if receipt.get("approval") else "Allowed and sent"), GOOD
        case "outcome":
            ending = str(receipt.get("ending"))
            return f"Result: {ENDINGS.get(ending, ending)}", GOOD if ending == "ok" and not differs(receipt) else BAD
        case "approval.requested":
            return "Approval requested", WAITING
        case "approval.granted":
            return say("Approved by {}", name_of_approver(receipt)), GOOD
        case "approval.denied":
            return say("Denied by {}", name_of_approver(receipt)), BAD
        case "approval.consumed":
            return "Approval used", QUIET
        case "approval.missed":
            return say("Drill missed by {}", name_of_approver(receipt)), QUIET
        case _:
            return str(shown_kind(receipt)).replace(".", " ").capitalize(), QUIET


def _step_lines(receipt: Receipt) -> list[tuple[str, str]]:
    kind = receipt["kind"]
    if is_look_up(receipt):
        return []
    if kind in ("decision", "intent"):
        return _decision_lines(receipt)
    if kind == "outcome":
        size, confirmation = receipt.get("response_bytes"), receipt.get("confirmation")
        reply = say("{} bytes", f"{size:,}") if isinstance(size, int) else VisibleText("")
        return [
            ("Detail", visible(receipt.get("detail", ""))),
            ("Confirmed", confirmation_words(confirmation) if confirmation else VisibleText("")),
            ("Reply", reply),
            ("Redacted", join(", ", receipt.get("redacted", []))),
        ]
    if kind.startswith("approval."):
        return _approval_lines(receipt)
    return [("", summarize_receipt(receipt))] if "tool" not in receipt or kind.startswith("catalog.") else []


def _decision_lines(receipt: Receipt) -> list[tuple[str, str]]:
    risk: Any = receipt.get("risk") or {}
    because = [say("{}: {}", n, why) for n, why in zip(risk.get("signals", ()), risk.get("because", ()), strict=False)]
    history: Any = receipt.get("history") or {}
    would: Any = receipt.get("would") or {}
    score = say("{} of 100, {}", risk["score"], risk["level"]) if "score" in risk else VisibleText("")
    return [
        ("Why", join("; ", reason_texts(receipt))),
        ("Policies", join(", ", receipt.get("policies", []))),
        ("Errors", join("; ", receipt.get("errors", []))),
        ("Would be", say("{} in enforce mode", would["outcome"]) if "outcome" in would else VisibleText("")),
        ("Risk", join("; ", [score, *because]) if score else score),
        ("History", join("; ", (words for name, words in HISTORY.items() if history.get(name)))),
        ("Rates", join(", ", (say("{} {}", name, count) for name, count in (receipt.get("rates") or {}).items()))),
        ("Came before", join(", ", map(quote, (n for n, taken in (receipt.get("sequences") or {}).items() if taken)))),
    ]


def _approval_lines(receipt: Receipt) -> list[tuple[str, str]]:
    signature: Any = receipt.get("signature") or {}
    member = receipt.get("drill")
    drill = say("{}: {}", results_text(member), member["why"]) if member else VisibleText("")
    how = "a passkey" if "authenticator_data" in signature else "a key file"
    rules = receipt.get("rules", []) if receipt["kind"] == "approval.requested" else []
    routes = [say("{}: {}", rule["route"], some_of(rule["quorum"], rule["approvers"])) for rule in rules]
    return [
        ("Drill", drill),
        ("Rationale", visible(receipt.get("rationale"))),
        ("Signed with", say("{}, {}", how, receipt.get("key")) if signature else VisibleText("")),
        ("Who may approve", join("; ", routes)),
        ("Until", visible(str(receipt["expires"])[:16].replace("T", " ") + " UTC") if rules else VisibleText("")),
        ("Note", visible("" if "rationale" in receipt else receipt.get("note"))),
        ("Approval", visible(receipt.get("approval"))),
    ]
