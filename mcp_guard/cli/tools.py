"""`mcp-guard tools`: list, compare, accept and refuse the definitions of the upstreams' tools."""

import argparse
import sys
from dataclasses import asdict

from mcp_guard.cli import tool_effects
from mcp_guard.cli.hidden_tools import find_hidden
from mcp_guard.cli.options import Parser, account, add_config, add_json
from mcp_guard.cli.output import print_hint, print_json, print_lines, print_result, print_table, print_text, print_words
from mcp_guard.cli.prompts import confirm
from mcp_guard.cli.signed_changes import add_signing_options, open_signer
from mcp_guard.cli.upstreams import list_tools
from mcp_guard.config import load
from mcp_guard.core import definition_diff
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.hidden_characters import DefinitionFinding
from mcp_guard.core.model import Effect, Json, ToolRule
from mcp_guard.core.nearest import suggest_tools
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.diagnostics.hidden_tools import HiddenFrom
from mcp_guard.ledger import tool_pins
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.tool_entries import ToolEntry, findings, tool_entries
from mcp_guard.ledger.writer import Writer
from mcp_guard.server_log import note
from mcp_guard.settings import Settings
from mcp_guard.upstream.catalog import resolve_effect

SHORT = slice(7, 19)
"""The characters of a hash that are shown and typed."""
DECISIONS = {"accept": (tool_pins.accept, PinState.PINNED), "refuse": (tool_pins.refuse, PinState.REFUSED)}
"""By verb: what records the decision, and the state of the definition after it."""


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.verb == "effects":
        return tool_effects.main(options)
    settings = load(options.config)
    writer = open_writer(ledger_settings(settings), CLOCK)
    if options.verb == "list" and options.now:
        list_tools(settings, options.json, tool_pins.ToolPins(writer, settings.pin_rules, note))
    verbs = {"list": show_all, "show": show, "diff": show_diff, "accept": accept, "refuse": refuse}
    return verbs[options.verb](writer, options)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mcp-guard tools", description="List, compare, accept and refuse tool definitions, and show effects."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="list every tool ever seen, its state and findings")
    showing = verbs.add_parser("show", help="show a tool's definition: the latest, or the one with a hash")
    diffing = verbs.add_parser("diff", help="show how a definition differs from the pinned one, word by word")
    accepting = verbs.add_parser("accept", help="pin a definition that you have reviewed")
    refusing = verbs.add_parser("refuse", help="refuse a definition; a pinned one is disabled at once")
    listing.add_argument("--now", action="store_true", help="start the upstreams and read their current listings first")
    effects = verbs.add_parser("effects", help="show each tool's effect, and propose reads from the servers' hints")
    effects.add_argument("--yes", action="store_true", help="write the proposed effects without asking")
    for verb in (showing, diffing):
        verb.add_argument("name", metavar="TOOL[@HASH]", help="the listed name of a tool, and a definition hash")
    for verb in (accepting, refusing):
        verb.add_argument(
            "names", nargs="*", metavar="TOOL[@HASH]", help="a tool, and the hash of the definition you have reviewed"
        )
        verb.add_argument("--why", required=True, metavar="TEXT", help="the reason; recorded in the ledger")
        add_signing_options(verb)
    accepting.add_argument("--all", action="store_true", help="accept every new or changed tool")
    for verb in (listing, showing, diffing, accepting, refusing, effects):
        add_config(verb)
        add_json(verb)
    return parser


def find_definition(writer: Writer, word: str) -> tuple[ToolEntry, Pin | None]:
    """The tool, and the definition that the word names by its hash. Raises: ApprovalError."""
    name, _, hash = word.partition("@")
    known = writer.read(tool_entries)
    if name not in known:
        hint = f"{suggest_tools(name, known)} (all: mcp-guard tools list --now)"
        raise ApprovalError(f"no tool `{name}` has been seen", hint)
    if not hash:
        return known[name], None
    matches = [row for row in known[name].rows if row.hash[SHORT].startswith(hash) or row.hash == hash]
    if len(matches) != 1 or len(hash) < 8:
        have = ", ".join(row.hash[SHORT] for row in known[name].rows)
        raise ApprovalError(
            f"`{hash}` matches no single definition of `{name}`", f"use eight or more characters of: {have}"
        )
    return known[name], matches[0]


def show_all(writer: Writer, options: argparse.Namespace) -> int:
    known = writer.read(tool_entries)
    findings_by_tool = findings(known)
    settings = load(options.config)
    hidden: dict[str, list[HiddenFrom]] = {name: [] for name in known}
    for hidden_from in find_hidden(settings):
        if hidden_from.is_now:
            hidden[hidden_from.tool].append(hidden_from)
    effects = {name: str(_effect(entry, settings)) for name, entry in known.items()}
    if options.json:
        listing = [
            _as_json(entry, findings_by_tool[name])
            | {"effect": effects[name], "hidden": [asdict(row) for row in hidden[name]]}
            for name, entry in known.items()
        ]
        print_json(listing, indent=2)
        return 0
    rows = []
    for name, entry in known.items():
        flags = ", ".join(sorted({finding.check for finding in findings_by_tool[name]}))
        why_hidden = "; ".join(dict.fromkeys(row.reason for row in hidden[name]))
        rows.append(
            (name, effects[name], entry.state, entry.latest.hash[SHORT], flags, entry.latest.why, why_hidden)
        )  # fmt: skip
    print_table(("tool", "effect", "state", "definition", "flags", "why", "not listed because"), rows)
    return 0


def _effect(entry: ToolEntry, settings: Settings) -> Effect:
    return resolve_effect(entry.latest.definition, settings.tool_rules.get(entry.name, ToolRule()))


def _as_json(entry: ToolEntry, tool_findings: tuple[DefinitionFinding, ...]) -> Json:
    return {
        "tool": entry.name,
        "state": entry.state,
        "pinned": entry.pinned.hash if entry.pinned else None,
        "waiting": entry.waiting.hash if entry.waiting else None,
        "why": entry.latest.why,
        "receipt": entry.latest.receipt,
        "findings": [{"check": f.check, "where": f.where, "what": f.what} for f in tool_findings],
    }


def show(writer: Writer, options: argparse.Namespace) -> int:
    entry, named = find_definition(writer, options.name)
    pin = named or entry.latest
    tool_findings = findings(writer.read(tool_entries))[entry.name] if pin == entry.latest else ()
    if options.json:
        about = _as_json(entry, tool_findings) | {"definition": pin.definition, "hash": pin.hash, "of": str(pin.state)}
        print_json(about, indent=2)
        return 0
    print_lines([f"{entry.name}@{pin.hash[SHORT]}: {pin.state}: {pin.why}"])
    print_json(pin.definition, indent=2)
    print_lines(_said(tool_findings))
    return 0


def _said(tool_findings: tuple[DefinitionFinding, ...]) -> list[str]:
    return [f"! {finding.check}: {finding.where}: {finding.what}" for finding in tool_findings]


def show_diff(writer: Writer, options: argparse.Namespace) -> int:
    entry, named = find_definition(writer, options.name)
    after = named or entry.latest
    before = entry.pinned
    differences = definition_diff.compare_definitions(before.definition if before else {}, after.definition)
    tool_findings = findings(writer.read(tool_entries))[entry.name] if after == entry.latest else ()
    if options.json:
        rows = [
            {"where": difference.where, "before": difference.before, "after": difference.after}
            for difference in differences
        ]
        print_json(_as_json(entry, tool_findings) | {"hash": after.hash, "differences": rows}, indent=2)
        return 0
    print_diff(entry, after, tool_findings)
    if after.state is not PinState.PINNED:
        print_hint(f'mcp-guard tools accept {entry.name}@{after.hash[SHORT]} --why "…"')
    return 0


def print_diff(entry: ToolEntry, after: Pin, tool_findings: tuple[DefinitionFinding, ...]) -> None:
    """Everything that an operator must see before they accept."""
    before = entry.pinned.definition if entry.pinned else {}
    since = f"pinned {entry.pinned.hash[SHORT]}" if entry.pinned else "never pinned"
    print_lines([f"{entry.name}@{after.hash[SHORT]}: {after.state}: {after.why} ({since})"])
    for difference, parts in definition_diff.diff_definitions(before, after.definition):
        print_lines([f"  {difference.where}"])
        print_words(parts)
    print_lines(_said(tool_findings))


def accept(writer: Writer, options: argparse.Namespace) -> int:
    known = writer.read(tool_entries)
    words = [name for name, entry in known.items() if entry.waiting] if options.all else options.names
    shown = [_shown(writer, word, options.verb) for word in words]
    unseen = [(entry, pin) for (entry, pin), word in zip(shown, words, strict=True) if "@" not in word]
    _look(unseen, options)
    return _decide(writer, options, shown)


def refuse(writer: Writer, options: argparse.Namespace) -> int:
    return _decide(writer, options, [_shown(writer, word, options.verb) for word in options.names])


def _decide(writer: Writer, options: argparse.Namespace, shown: list[tuple[ToolEntry, Pin]]) -> int:
    record, state = DECISIONS[options.verb]
    signer = open_signer(writer, load(options.config), options) if shown else None
    for entry, pin in shown:
        if signer is not None:
            about = signer.perform(f"tool.{options.verb}", _target(entry, pin), options.why)
        else:
            about = _about(entry, record(writer, pin, account(), options.why))
        _say(options, entry, about, state)
    if not shown:
        print_text("no tool definition is waiting for review", file=sys.stderr)
    return 0


def _shown(writer: Writer, word: str, verb: str) -> tuple[ToolEntry, Pin]:
    """The definition that is meant: the one named, else the one that waits, else, to refuse, the one in force."""
    entry, named = find_definition(writer, word)
    pin = named or entry.waiting or (entry.pinned if verb == "refuse" else None)
    if pin is None or pin.state is DECISIONS[verb][1]:
        raise ApprovalError(
            f"`{entry.name}` has no definition to {verb}; its state is `{entry.state}`", "mcp-guard tools list"
        )
    return entry, pin


def _look(unseen: list[tuple[ToolEntry, Pin]], options: argparse.Namespace) -> None:
    """What is accepted was shown: named by its hash, or shown now. Raises: ApprovalError."""
    if not unseen:
        return
    if not sys.stdin.isatty() or options.json:
        names = " ".join(f"{entry.name}@{pin.hash[SHORT]}" for entry, pin in unseen)
        raise ApprovalError("no definition hash given", f'mcp-guard tools accept {names} --why "…"')
    findings_by_tool = findings({entry.name: entry for entry, _ in unseen})
    for entry, pin in unseen:
        print_diff(entry, pin, findings_by_tool[entry.name])
    if not confirm(f"accept {'this' if len(unseen) == 1 else f'these {len(unseen)}'}?"):
        raise ApprovalError("nothing was accepted", "to keep a tool out: mcp-guard tools refuse TOOL")


def _target(entry: ToolEntry, pin: Pin) -> dict[str, str]:
    return {"upstream": pin.upstream, "tool": entry.name, "definition": pin.hash}


def _about(entry: ToolEntry, pin: Pin) -> Json:
    return {"tool": entry.name, "hash": pin.hash, "state": str(pin.state), "receipt": pin.receipt}


def _say(options: argparse.Namespace, entry: ToolEntry, about: Json, state: PinState) -> None:
    signed = f", signed by {options.operator}" if options.operator else ""
    text = f"{entry.name}@{about['hash'][SHORT]} is {state} (receipt {about['receipt']}{signed})"
    print_result(options.json, about, text)
