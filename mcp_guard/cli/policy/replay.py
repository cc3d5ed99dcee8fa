"""`mcp-guard policy replay`: the ledger's decisions under other policies."""

import argparse
import json
from pathlib import Path
from typing import Any

from mcp_guard.cli.ledger_reader import make_ledger_parser, open_for_reading
from mcp_guard.cli.output import print_lines, print_table
from mcp_guard.cli.policy.inputs import add_span, decisions, latest_version, read_candidate, versions
from mcp_guard.config import load
from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.model import Outcome
from mcp_guard.policy.authoring.replay import ReplayDifference, ReplayReport, compare_shadow, replay
from mcp_guard.verifier.progress import Progress

HEADINGS = ("seq", "time", "agent", "tool", "was", "would be", "because of", "")


def main(arguments: list[str]) -> int:
    """Exit codes: 0 never more permissive, 1 more permissive."""
    options = build_parser().parse_args(arguments)
    settings, store = load(options.config), open_for_reading(options)
    candidate = read_candidate(options.candidate, tuple(settings.routes), latest_version(store))
    with Progress("decisions", options.json) as progress:
        past = decisions(store, options.since, options.last, progress.update)
        done = replay(past, versions(store), candidate)
    if options.json:
        print(json.dumps(as_json(done), indent=2, ensure_ascii=False))
    else:
        show(done)
    return 0 if done.never_more_permissive else 1


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy replay", "Re-evaluate recorded decisions under other policies. No tool is called."
    )
    parser.add_argument("--candidate", type=Path, required=True, metavar="DIR", help="the candidate policies")
    add_span(parser)
    return parser


def as_json(done: ReplayReport) -> dict[str, Any]:
    return {
        "never_more_permissive": done.never_more_permissive,
        "matrix": [{"was": was, "would": would, "count": count} for (was, would), count in sorted(done.matrix.items())],
        "differences": [
            {**about(each.receipt), "was": side(each.was), "would": side(each.would), "more_permissive": each.looser}
            for each in done.differences
        ],
        "newly_listed": [about(receipt) for receipt in done.listed],
        "left_out": dict(done.left_out),
        "unlike_recorded": [about(receipt) for receipt in done.unlike],
    }


def about(receipt: dict[str, Any]) -> dict[str, Any]:
    return {name: receipt.get(name) for name in ("seq", "time", "call", "agent", "tool")}


def side(ruling: PolicyOutcome) -> dict[str, Any]:
    return {name: getattr(ruling, name) for name in ("outcome", "policies", "routes", "errors")}


def show(done: ReplayReport) -> None:
    """The matrix, each difference, what was left out, and the answer."""
    print_table(
        ("was \\ would be", *Outcome), ([was, *(done.matrix[was, would] for would in Outcome)] for was in Outcome)
    )
    if done.differences:
        print()
        print_table(HEADINGS, map(row, done.differences))
    lines = [
        f"{receipt['seq']}: `{receipt['tool']}` was not listed for {receipt['agent']}, and would now be listed"
        for receipt in done.listed
    ]
    lines += [f"not re-evaluated: {count}, {why}" for why, count in sorted(done.left_out.items())]
    lines += [
        f"receipt {receipt['seq']} differs from what its own policies give today (decided by {receipt['software']})"
        for receipt in done.unlike
    ]
    print_lines(["", *lines, f"never more permissive: {'yes' if done.never_more_permissive else 'no'}"])


def row(difference: ReplayDifference) -> list[object]:
    """One difference as a line of the table."""
    receipt, would, was = difference.receipt, difference.would, difference.was
    because = ", ".join(would.policies or was.policies) or "; ".join(would.errors)
    sides = [said(was), said(would), because, "MORE PERMISSIVE" if difference.looser else "stricter"]
    return [receipt["seq"], receipt["time"][:19].replace("T", " "), receipt.get("agent"), receipt.get("tool"), *sides]


def said(ruling: PolicyOutcome) -> str:
    return f"{ruling.outcome} ({', '.join(ruling.routes)})" if ruling.routes else str(ruling.outcome)


# `mcp-guard policy shadow`: what the shadow policies said, beside what was decided.


def shadow(arguments: list[str]) -> int:
    """Exit codes: 0 never more permissive, 1 more permissive."""
    options = build_shadow_parser().parse_args(arguments)
    store = open_for_reading(options)
    with Progress("decisions", options.json) as progress:
        done = compare_shadow(decisions(store, options.since, options.last, progress.update), versions(store))
    if options.json:
        print(json.dumps(as_json(done), indent=2, ensure_ascii=False))
    else:
        show(done)
    return 0 if done.never_more_permissive else 1


def build_shadow_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy shadow", "Compare the decisions of the shadow policies ([guard] shadow) with the recorded ones."
    )
    add_span(parser)
    return parser
