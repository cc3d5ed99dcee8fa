"""`mcp-guard policy suggest`: the narrowest policies that let what was always approved, or observed."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_guard.cli.ledger_reader import make_ledger_parser, open_for_reading, reads_receipts
from mcp_guard.cli.output import print_json, print_lines
from mcp_guard.cli.policy.inputs import add_span, decisions, latest_version, versions
from mcp_guard.config import load
from mcp_guard.core.errors import PolicyError
from mcp_guard.policy.authoring.suggest import MIN_CALLS, Candidate, Group, build_candidate, case_of, group_of
from mcp_guard.policy.source import read_files
from mcp_guard.storage.sqlite import Store, reading
from mcp_guard.verifier.progress import Progress

PERMITS, CASES = "suggested.cedar", "suggested.cases.toml"
NOT_SENT = b'"ending":"not_sent"'
REFUSING = {"approval.denied": "denied", "approval.revoked": "revoked their approval of"}


@reads_receipts
def main(arguments: list[str]) -> int:
    """Exit codes: 0 something is suggested, 1 nothing."""
    options = build_parser().parse_args(arguments)
    settings, store = load(options.config), open_for_reading(options)
    with Progress("decisions", options.json) as progress:
        past = list(decisions(store, options.since, options.last, progress.update))
        unsent = not_sent(store)
        progress.show(f"testing the suggestions on {len(past):,} decisions …")
        candidate = build_candidate(
            [decision for decision in past if decision.receipt["seq"] not in unsent],
            latest_version(store),
            versions(store),
            texts=read_files(settings.policies),
            routes=tuple(settings.routes),
            permits_file=PERMITS,
            refused=refused(store),
            min_calls=options.least,
            free=frozenset(options.free.split(",")) - {""},
        )
    if options.out and candidate.suggestions.suggested:
        write(options.out, candidate, cases(store, candidate))
    if options.json:
        print_json(as_json(candidate), indent=2)
    else:
        print_lines(lines(candidate, options.out))
    return 0 if candidate.suggestions.suggested else 1


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy suggest", "Suggest the narrowest policies for calls that were always approved, or observed."
    )
    parser.add_argument(
        "--least", type=int, default=MIN_CALLS, metavar="N", help="how many calls a suggestion needs (default 3)"
    )
    parser.add_argument("--free", default="", metavar="A,B", help="arguments that suggestions leave unrestricted")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the complete candidate policies and cases there")
    add_span(parser)
    return parser


def not_sent(store: Store) -> set[int]:
    """The intents of calls that were not sent: when they are made again, they would be counted twice."""
    with reading(store.path):
        outcomes = (row.body for row in store.receipts_after(-1) if row.kind == "outcome" and NOT_SENT in row.body)
        return {seq for body in outcomes for seq in json.loads(body)["follows"]}


def refused(store: Store) -> dict[Group, str]:
    """The groups of calls of which a person denied one, with the reason to print."""
    refusals: dict[Group, str] = {}
    with reading(store.path):
        for row in store.receipts_after(-1):
            if row.kind in REFUSING:
                receipt = json.loads(row.body)
                who = receipt.get("name", receipt.get("approver", "somebody"))
                refusals[group_of(receipt)] = f"{who} {REFUSING[row.kind]} such a call (receipt {row.seq})"
    return refusals


def cases(store: Store, candidate: Candidate) -> Iterator[str]:
    """One case for each call that a suggestion is based on, if its payloads are stored."""
    yield f"# The calls these suggestions are based on. Run them: mcp-guard policy test --cases {CASES}\n"
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
                "basis": [past.receipt["seq"] for past in suggestion.basis],
                "text": suggestion.exception() if suggestion.gates else suggestion.permit(),
            }
            for suggestion in candidate.suggestions.suggested
        ],
        "left": [{"group": group, "why": why} for group, why in candidate.suggestions.skipped.items()],
        "replayed": sum(candidate.replay.matrix.values()),
        "more_permissive": [
            suggestion.receipt["seq"] for suggestion in candidate.replay.differences if suggestion.looser
        ],
    }


def lines(candidate: Candidate, out: Path | None) -> Iterator[str]:
    for suggestion in candidate.suggestions.suggested:
        agent, tool, type = suggestion.group
        yield f"{agent}, {tool} on {type}, from {len(suggestion.basis)} calls:"
        if suggestion.gates:
            yield f"an exception to {' and '.join(f'`{gate}`' for gate in suggestion.gates)}:"
            yield from ["unless {", *suggestion.exception().splitlines(), "}", ""]
        else:
            yield from [*suggestion.permit().splitlines(), ""]
    for (agent, tool, type), why in candidate.suggestions.skipped.items():
        yield f"no suggestion for {agent}, {tool} on {type}: {why}"
    if not candidate.suggestions.suggested:
        yield "no suggestions"
        return
    looser = sum(suggestion.looser for suggestion in candidate.replay.differences)
    replayed = sum(candidate.replay.matrix.values())
    yield f"replayed {replayed} decisions: more permissive for {looser}, all allowed or approved before"
    yield (
        f"the complete candidate is in `{out}`"
        if out
        else "hint: write it with --out DIR, then run mcp-guard policy replay"
    )
