"""`mcp-guard show`: the full record of one call, from its receipts."""

import argparse
import time
from contextlib import closing
from typing import Any

from mcp_guard.cli.ledger_reader import (
    Receipt,
    find_ledger,
    make_ledger_parser,
    open_for_reading,
    reading_receipts,
    warn_if_discontinued,
)
from mcp_guard.cli.output import print_hint, print_json, print_lines
from mcp_guard.core.call_summary import LOOK_UP, is_look_up, summarize_call
from mcp_guard.core.confirmation import ChangedValue, changed_values, confirmation_words
from mcp_guard.core.receipt import BY_SERVICE, caller, claim_mark, format_time, name_of_approver, revoked
from mcp_guard.core.visible_text import VisibleText, join, labelled_text, quote, say, shorten, visible, visible_json
from mcp_guard.ledger.call_receipts import find_problem, find_receipts, last_call, read_payloads
from mcp_guard.ledger.keys import PUBLISHED

NEGATIVE = 1


@reading_receipts()
def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    ledger, now = find_ledger(options), format_time(time.time_ns() // 1000)
    with closing(open_for_reading(options)) as store, store.reading():
        receipts = find_receipts(store, options.what or last_call(store))
        payloads = {str(receipt["seq"]): read_payloads(store, receipt["seq"]) for receipt in receipts}
        problem = find_problem(ledger.engine, ledger.folder, receipts)
        if options.json:
            summary = [f"{sentence}." for sentence in summaries(receipts, now)]
            document = {"summary": summary, "receipts": receipts, "payloads": payloads, "problem": problem or None}
            print_json(document, indent=2)
        else:
            print_lines([*([say("NOT VERIFIED: {}", problem), ""] if problem else []), *story(receipts, payloads, now)])
        warn_if_discontinued(store, ledger.folder)
    if options.ledger is not None and not (key := options.ledger.with_name(PUBLISHED)).exists():
        print_hint(f"copy the guard's {PUBLISHED} to {key}, or: mcp-guard verify {options.ledger} --key FILE")
    elif options.ledger is not None:
        print_hint("checked with the key beside it only; mcp-guard verify LEDGER --key FILE proves whose ledger it is")
    return NEGATIVE if problem else 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "show", "Show the full record of one call: who called what and why, who approved it, and the outcome."
    )
    parser.add_argument(
        "what", nargs="?", metavar="SEQ|CALL", help="a receipt number or call id (default: the last call)"
    )
    return parser


def story(receipts: list[Receipt], payloads: dict[str, dict[str, object]], now: str) -> list[str]:
    """What became of the call, then its steps. What the guard looked up for a step is indented below it."""
    lines: list[str] = [say("{}.", sentence) for sentence in summaries(receipts, now)]
    look_ups: list[Receipt] = []
    for receipt in receipts:
        if is_look_up(receipt):
            look_ups.append(receipt)
            continue
        lines += ["", *step(receipt, payloads)]
        if receipt["kind"] in ("decision", "intent", "outcome"):
            for look_up in [look_up for look_up in look_ups if look_up.get("call") == receipt.get("call")]:
                look_ups.remove(look_up)
                lines += indented(step(look_up, payloads))
    for look_up in look_ups:
        lines += ["", *step(look_up, payloads)]
    return lines


def summaries(receipts: list[Receipt], now: str) -> list[VisibleText]:
    return summarize_call(receipts, now) or [_no_sentence(receipts[0])]


def step(receipt: Receipt, payloads: dict[str, dict[str, object]]) -> list[str]:
    """One receipt: a heading, and a line for each member and payload."""
    mark = say(" ({})", LOOK_UP) if is_look_up(receipt) else ""
    lines: list[str] = [say("{}  {}  {}{}", receipt["seq"], receipt["time"], receipt["kind"], mark)]
    for name in SHOWN:
        if receipt.get(name) not in (None, [], {}):
            shown = RENDERED.get(name, _plain)(receipt[name])
            lines.append(say("    {:<15} {}{}", name, shown, claim_mark(receipt, name)))
    lines += changed_lines(receipt, payloads)
    for name, value in payloads[str(receipt["seq"])].items():
        if name in ("request", "response", "facts"):
            lines.append(say("    {:<15} {}", name, NOT_STORED if value is None else _plain(value)))
    return lines


def changed_lines(outcome: Receipt, payloads: dict[str, dict[str, object]]) -> list[str]:
    """What a confirmed call has changed, as far as its payloads are kept."""
    confirmation, after = outcome.get("confirmation", {}), payloads[str(outcome["seq"])].get("facts")
    intent = payloads.get(str(outcome["follows"][0]), {}) if confirmation else {}
    request, before = intent.get("request"), intent.get("facts")
    if not (isinstance(request, dict) and isinstance(before, dict) and isinstance(after, dict)):
        return []
    return [
        say("    {:<15} {}", "change", _changed_value(value))
        for value in changed_values(confirmation, request["arguments"], before, after)
    ]


def _changed_value(value: ChangedValue) -> VisibleText:
    shown = [NONE if each is None else visible_json(each) for each in (value.before, value.after)]
    change = say("{} → {}", *shown) if shown != [NONE, NONE] else VisibleText("")
    wanted = say("asked for {}", visible_json(value.wanted)) if value.wanted is not None else VisibleText("")
    mark = VisibleText(" (differs)" if value.is_difference else "")
    return say("{}: {}{}", quote(value.name), join(", ", filter(None, [change, wanted])), mark)


def indented(lines: list[str]) -> list[str]:
    return [VisibleText(f"    {line}") for line in lines]


def _resource(resource: Any) -> VisibleText:
    return say("{} {}", quote(resource["type"]), quote(resource["id"]))


def _approvers(approval: Any) -> VisibleText:
    """An intent names who approved it; other receipts have only the id of their approval."""
    if not isinstance(approval, dict):
        return visible(approval)
    return join(
        "; ", [approval["id"], *(say("{}: {}", name_of_approver(by), by["rationale"]) for by in approval["approvers"])]
    )


def _risk(risk: Any) -> VisibleText:
    because = [say("{}: {}", name, why) for name, why in zip(risk["signals"], risk.get("because", ()), strict=False)]
    return join("; ", [f"{risk['score']} of 100, {risk['level']}", *because])


def _history(history: Any) -> VisibleText:
    """What the instance had read before, and where the destinations came from."""
    seen = [sentence for name, sentence in SEEN.items() if name in history]
    sinks = [
        say("{} {}", join(", ", map(quote, names)), origin.replace("_", " "))
        for origin, names in history.get("sinks", {}).items()
    ]
    return join("; ", [*seen, *sinks])


def _confirmation(confirmation: Any) -> VisibleText:
    actual = join(", ", map(quote, confirmation.get("actual", ())))
    words = confirmation_words(confirmation)
    return say("{}; facts that have changed: {}", words, actual) if actual else words


def _reported(reported: Any) -> VisibleText:
    """A vote by a button of Slack."""
    names = ("user", "team", "channel", "message")
    by = say(BY_SERVICE, "Slack")
    return say("{}: {}", by, join(", ", (say("{} {}", name, quote(reported.get(name, "?"))) for name in names)))


NOT_STORED, NONE = "(not stored; hash only)", "(none)"
MAX_SHOWN = 400
"""Characters of a value."""
SEEN = {
    "untrusted_seen": "untrusted content was read",
    "sensitive_seen": "sensitive content was read",
    "orders_seen": "it contains instructions to agents",
}
RENDERED = {
    "resource": _resource, "approval": _approvers, "risk": _risk, "history": _history, "reported": _reported,
    "confirmation": _confirmation,
}  # fmt: skip
SHOWN = (
    "tool", "resource", "ticket", "reason", "outcome", "ending", "confirmation", "rounds", "detail", "policies",
    "reasons", "errors", "changes", "decided_at", "time_zone", "mode", "would", "shadow", "risk", "history", "rates",
    "sequences", "routes", "approver", "verdict", "self_approved", "reported", "rationale", "note", "approval",
    "policy_version", "definition", "pinned", "members", "findings", "first_use", "by", "definitions", "scope",
    "instances",
)  # fmt: skip


def _no_sentence(receipt: Receipt) -> VisibleText:
    if receipt["kind"].startswith("catalog."):
        tool = say(" {}", quote(receipt["tool"])) if "tool" in receipt else ""
        return say("the tools of {}: {}{}", quote(receipt["upstream"]), receipt["kind"], tool)
    if receipt["kind"] == "credential.revoked":
        return say("{} revoked {}", quote(receipt.get("by", "?")), revoked(receipt))
    if "agent" not in receipt:
        return say("the guard: {}", receipt["kind"])
    return say("{}: {}", caller(receipt), receipt["kind"])


def _plain(value: object) -> VisibleText:
    """A text that could continue the line is quoted; JSON quotes its texts itself."""
    if not isinstance(value, str):
        return shorten(visible_json(value), MAX_SHOWN)
    return shorten(labelled_text(value), MAX_SHOWN)
