"""`mcp-guard policy suggest`: policies for calls that were always approved, or observed, and the open questions."""

import argparse
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcp_guard.cli.client_files import find_own, find_reached
from mcp_guard.cli.ledger_reader import make_ledger_parser, open_for_reading, reading_receipts
from mcp_guard.cli.options import whole_number
from mcp_guard.cli.output import print_code, print_hint, print_json, print_lines, print_text
from mcp_guard.cli.policy.inputs import add_span, recorded_environment
from mcp_guard.cli.policy.newly_permitted import find_newly_permitted
from mcp_guard.clients.effects import read_effects
from mcp_guard.config import load
from mcp_guard.config.errors import nearest_or
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, ToolRule
from mcp_guard.policy.authoring.past import decisions, latest_version, versions
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.authoring.recorded_cases import case_of
from mcp_guard.policy.authoring.suggest import (
    MIN_CALLS,
    Candidate,
    Group,
    Knowledge,
    attributes_of,
    build_candidate,
    group_of,
)
from mcp_guard.policy.schema import TOOL
from mcp_guard.policy.shapes import input_shape
from mcp_guard.policy.source import EFFECTS, read_files
from mcp_guard.settings import Settings
from mcp_guard.storage.contract import Store
from mcp_guard.verifier.progress import Progress
from mcp_guard.verifier.report import count

PERMITS, CASES = "suggested.cedar", "suggested.cases.toml"
NOT_SENT = "not_sent"
NOT_GUARDED = """\
not guarded against: whoever may write files may make other tools run them. Scripts, build files and instructions to
agents have ordinary endings too (`conftest.py`, `package.json`, `CMakeLists.txt`, `CLAUDE.md`). Files that are there
already can be overwritten or emptied. Adopt a rule that lets files be written only if no program runs what it finds
there, and if you have copies"""
"""What a suggestion that lets files be written leaves to the reader."""
REFUSING = {"approval.denied": "denied", "approval.revoked": "revoked their approval of"}


@reading_receipts()
def main(arguments: list[str]) -> int:
    """Exit codes: 0 something is suggested, 1 nothing."""
    options = build_parser().parse_args(arguments)
    settings, store = load(options.config), open_for_reading(options)
    latest, find_version = latest_version(store), versions(store)
    with Progress("decisions", options.json) as progress:
        past = list(decisions(store, options.since, options.last, progress.update))
        check_free(freed(options), past)
        check_destructive(named(options.destructive), past)
        failed = failures(store)
        progress.show(f"testing the suggestions on {len(past):,} decisions …")
        candidate = build_candidate(
            [decision for decision in past if failed.get(decision.receipt["seq"]) != NOT_SENT],
            with_effects(latest, settings.tool_rules),
            lambda version: with_effects(found, settings.tool_rules) if (found := find_version(version)) else None,
            texts=read_files(settings.policies),
            routes=tuple(settings.routes),
            permits_file=PERMITS,
            known=know(settings, store, options, failed),
        )
    reached = find_reached(settings)
    permitted = find_newly_permitted(candidate, read_files(settings.policies), latest.schema)
    if options.out and candidate.suggestions.suggested:
        write(options.out, candidate, cases(store, candidate))
    if options.json:
        more = {"reached": list(map(str, reached)), "newly_permits": permitted.to_json()}
        print_json(as_json(candidate) | more, indent=2)
    else:
        print_candidate(candidate, options.out)
        print_lines(permitted.lines())
        print_lines(f"warning: {reach}; {reach.fix}" for reach in reached)
    return 0 if candidate.suggestions.suggested else 1


def know(settings: Settings, store: Store, options: argparse.Namespace, failed: Mapping[int, str]) -> Knowledge:
    tools = {tool.listed_as: tool for tool in recorded_environment(settings, (), settings.upstreams.keys()).retained}
    shapes = {name: shape.fields for name, tool in tools.items() if (shape := input_shape(tool))}
    return Knowledge(
        refused=refused(store),
        failed=failed,
        min_calls=options.least,
        free=freed(options),
        destructive=named(options.destructive),
        listed={name: [key for key, kind in fields.items() if kind.allowed] for name, fields in shapes.items()},
        read_only={row.tool for row in read_effects(tools.values()) if row.proposed is Effect.READ},
        own={str(file.path) for file in find_own(settings)} | {str(settings.path), str(settings.state_dir)},
        labels=any(rule.returns for rule in settings.tool_rules.values()),
    )


def named(words: str) -> frozenset[str]:
    return frozenset(words.split(",")) - {""}


def freed(options: argparse.Namespace) -> frozenset[str]:
    return named(options.free)


def check_destructive(tools: Collection[str], past: Iterable[RecordedDecision]) -> None:
    """Raises: PolicyError for a tool that was never called."""
    known = {decision.receipt["tool"] for decision in past}
    for tool in sorted(set(tools) - known):
        raise PolicyError(
            f"--destructive: no recorded call of a tool `{tool}`",
            nearest_or(tool, known, "mcp-guard policy suggest, whose questions name the tools"),
        )


def check_free(free: Collection[str], past: Iterable[RecordedDecision]) -> None:
    """Raises: PolicyError for a name that no recorded call has, which would leave nothing unrestricted."""
    known = set[str]()
    for decision in past if free else ():
        if decision.material:
            context = decision.material["request"]["context"]
            unknown = (path.partition("/")[0] for path in context["input_unknown"])
            names = {*context["input"], *unknown, *context.get("meta", {}), *attributes_of(decision, "resource")}
            known |= names | {f"{decision.receipt['tool']}.{name}" for name in names}
    for name in sorted(set(free) - known):
        raise PolicyError(
            f"--free: no recorded call has an argument `{name}`",
            nearest_or(name, known, "mcp-guard policy suggest, whose questions name the arguments"),
        )


def with_effects(version: PolicyVersion, rules: Mapping[str, ToolRule]) -> PolicyVersion:
    """The version with the effects that are configured now: what was called before they were is judged by them."""
    actions = dict(version.schema[""]["actions"])
    for name, rule in rules.items():
        if rule.effect is not None and name in actions and actions[name].get("memberOf"):
            others = [parent for parent in actions[name]["memberOf"] if parent["id"] not in EFFECTS]
            actions[name] = {**actions[name], "memberOf": [{"id": str(rule.effect)}, *others]}
    schema = {**version.schema, "": {**version.schema[""], "actions": actions}}
    return PolicyVersion(version.version, version.rules.policies, schema)


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy suggest",
        "Suggest policies for calls that were always approved, or observed. Each is bounded by what its calls had in "
        "common: names by their values, numbers by their range, paths by folder (with those below) and ending.",
    )
    parser.add_argument(
        "--least",
        type=whole_number(1),
        default=MIN_CALLS,
        metavar="N",
        help="how many calls a suggestion needs (default 3)",
    )
    parser.add_argument("--free", default="", metavar="A,B", help="arguments to leave unrestricted: NAME, or TOOL.NAME")
    parser.add_argument("--destructive", default="", metavar="TOOL,TOOL", help="destructive tools to suggest rules for")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the complete candidate policies and cases there")
    add_span(parser)
    return parser


def failures(store: Store) -> dict[int, str]:
    """How calls ended that did not succeed, by their intent; one without an outcome is `unknown`.

    One that was not sent would be counted twice when it is made again.
    """
    endings: dict[int, str] = {}
    with store.reading():
        for row in store.receipts_after(-1):
            if row.kind == "intent":
                endings[row.seq] = "unknown"
            elif row.kind == "outcome":
                receipt = json.loads(row.body)
                endings |= dict.fromkeys(receipt["follows"], receipt["ending"])
    return {seq: ending for seq, ending in endings.items() if ending != "ok"}


def refused(store: Store) -> dict[Group, str]:
    """The groups of calls of which a person denied one, with the reason to print."""
    refusals: dict[Group, str] = {}
    with store.reading():
        for row in store.receipts_after(-1):
            if row.kind in REFUSING:
                receipt = json.loads(row.body)
                if "drill" in receipt:
                    continue
                who = receipt.get("name", receipt.get("approver", "somebody"))
                refusals[group_of(receipt)] = f"{who} {REFUSING[row.kind]} such a call (receipt {row.seq})"
    return refusals


def cases(store: Store, candidate: Candidate) -> Iterator[str]:
    """One case for each call that a suggestion is based on, if its payloads are stored."""
    yield "# The calls these suggestions are based on. Until the policies are adopted, they are held or denied; then:"
    yield f"# mcp-guard policy test --cases {CASES}\n"
    for suggestion in candidate.suggestions.suggested:
        for past in suggestion.basis:
            payloads = store.payloads(past.receipt["seq"])
            if payloads.get("request"):
                facts = json.loads(payloads["facts"] or b"null") if "facts" in payloads else None
                yield from case_of(past, json.loads(payloads["request"] or b"{}")["arguments"], facts)


def write(folder: Path, candidate: Candidate, case_lines: Iterator[str]) -> None:
    """Raises: PolicyError if the folder is not empty."""
    if folder.exists() and any(folder.iterdir()):
        raise PolicyError(f"`{folder}` is not empty", "name a new or empty folder: --out DIR")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in candidate.texts.items():
        (folder / name).write_text(text)
    (folder / CASES).write_text("\n".join(case_lines))


def as_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "suggestions": [
            {
                "id": suggestion.id,
                "group": suggestion.group,
                "gates": suggestion.gates,
                "calls": len(suggestion.basis),
                "basis": [past.receipt["seq"] for past in suggestion.basis],
                "text": suggestion.exception() if suggestion.gates else suggestion.permit(),
                "not_guarded": " ".join(NOT_GUARDED.split()) if suggestion.opens_paths else "",
            }
            for suggestion in candidate.suggestions.suggested
        ],
        "questions": [asdict(question) for question in candidate.suggestions.questions],
        "left": [{"group": group, "why": why} for group, why in candidate.suggestions.skipped.items()],
        "failed": candidate.suggestions.failed,
        "replayed": sum(candidate.replay.matrix.values()),
        "more_permissive": [
            suggestion.receipt["seq"] for suggestion in candidate.replay.differences if suggestion.looser
        ],
    }


def print_candidate(candidate: Candidate, out: Path | None) -> None:
    """Suggestions by tool, then the open questions, then what else has no suggestion and why."""
    suggestions = candidate.suggestions
    for suggestion in suggestions.suggested:
        print_text(f"{who_called(suggestion.group)}, {count(len(suggestion.basis), 'call')}:")
        if suggestion.gates:
            gates = " and ".join(f"`{gate}`" for gate in suggestion.gates)
            print_text(f"an exception to {gates}:")
            print_code(f"unless\n{{\n{suggestion.exception()}\n}}\n")
        else:
            print_code(suggestion.permit())
        print_text("")
    if suggestions.questions:
        print_text("open questions:")
    for question in suggestions.questions:
        print_text(f"  {who_called(question.group)}, {count(question.calls, 'call')}: {question.text}")
        print_text(f"      if so: {question.if_so}")
    for group, why in suggestions.skipped.items():
        print_text(f"no suggestion for {who_called(group)}: {why}")
    if suggestions.failed:
        print_text(f"left out: {count(suggestions.failed, 'call')} that failed")
    if not suggestions.suggested:
        print_text("no suggestions")
        return
    if any(suggestion.opens_paths for suggestion in suggestions.suggested):
        print_lines(NOT_GUARDED.splitlines())
    looser = sum(difference.looser for difference in candidate.replay.differences)
    replayed = sum(candidate.replay.matrix.values())
    print_text(f"replayed {replayed} decisions: more permissive for {looser}, all allowed or approved before")
    if out:
        print_text(f"the complete candidate is in `{out}`")
    else:
        print_hint("write it with --out DIR, then run mcp-guard policy replay")


def who_called(group: Group) -> str:
    agent, tool, type = group
    return f"{tool}{'' if type == TOOL else f' on {type}'}, called by {agent}"
