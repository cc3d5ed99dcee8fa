"""`mcp-guard policy replay` and `policy shadow`: compare recorded decisions with those of other policies."""

import argparse
from pathlib import Path
from typing import Any

from mcp_guard.cli.ledger_reader import make_ledger_parser, open_for_reading, reading_receipts
from mcp_guard.cli.output import print_json, print_lines, print_table, print_text
from mcp_guard.cli.policy.inputs import add_span
from mcp_guard.config import load
from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Outcome
from mcp_guard.policy.authoring.past import decisions, latest_version, read_candidate, versions
from mcp_guard.policy.authoring.replay import ReplayDifference, ReplayReport, compare_shadow, replay
from mcp_guard.verifier.progress import Progress

NO_CALLS = "replay once the guard has decided calls, or with an earlier --since"
NO_SHADOW = 'configure them with `shadow = "DIR"` in [guard], and compare once the guard has decided calls with them'
HEADINGS = ("seq", "time", "agent", "tool", "was", "would be", "because of", "")


@reading_receipts()
def main(arguments: list[str]) -> int:
    """Exit codes: 0 never more permissive, 1 more permissive, 4 nothing was compared."""
    options = build_parser().parse_args(arguments)
    settings, store = load(options.config), open_for_reading(options)
    candidate = read_candidate(options.candidate, tuple(settings.routes), latest_version(store))
    with Progress("decisions", options.json) as progress:
        past = decisions(store, options.since, options.last, progress.update, settings.time_zone)
        comparison = replay(past, versions(store), candidate)
    return conclude(comparison, options.json, NO_CALLS)


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy replay", "Re-evaluate recorded decisions under other policies. No tool is called."
    )
    parser.add_argument("--candidate", type=Path, required=True, metavar="DIR", help="the candidate policies")
    add_span(parser)
    return parser


def conclude(comparison: ReplayReport, json: bool, hint: str) -> int:
    """Print the comparison; returns the exit code. Raises: PolicyError with this hint if nothing was compared."""
    if comparison.is_empty:
        left_out = [f"{count} {why}" for why, count in sorted(comparison.left_out.items())]
        raise PolicyError(f"nothing to compare: {', '.join(left_out) or 'no recorded decisions'}", hint)
    if json:
        print_json(as_json(comparison), indent=2)
    else:
        show(comparison)
    return 0 if comparison.never_more_permissive else 1


def as_json(comparison: ReplayReport) -> dict[str, Any]:
    return {
        "never_more_permissive": comparison.never_more_permissive,
        "matrix": [
            {"was": was, "would": would, "count": count} for (was, would), count in sorted(comparison.matrix.items())
        ],
        "differences": [
            {
                **describe_receipt(difference.receipt),
                "was": side(difference.was),
                "would": side(difference.would),
                "more_permissive": difference.looser,
            }
            for difference in comparison.differences
        ],
        "newly_listed": [describe_receipt(receipt) for receipt in comparison.listed],
        "left_out": dict(comparison.left_out),
        "unlike_recorded": [describe_receipt(receipt) for receipt in comparison.unlike],
    }


def describe_receipt(receipt: dict[str, Any]) -> dict[str, Any]:
    return {name: receipt.get(name) for name in ("seq", "time", "call", "agent", "tool")}


def side(ruling: PolicyOutcome) -> dict[str, Any]:
    return {name: getattr(ruling, name) for name in ("outcome", "policies", "routes", "errors")}


def show(comparison: ReplayReport) -> None:
    """The matrix, each difference, what was left out, and the answer."""
    print_table(
        ("was \\ would be", *Outcome), ([was, *(comparison.matrix[was, would] for would in Outcome)] for was in Outcome)
    )
    if comparison.differences:
        print_text("")
        print_table(HEADINGS, map(row, comparison.differences))
    lines = [
        f"{receipt['seq']}: `{receipt['tool']}` was not listed for {receipt['agent']}, and would now be listed"
        for receipt in comparison.listed
    ]
    lines += [f"not re-evaluated: {count}, {why}" for why, count in sorted(comparison.left_out.items())]
    lines += [
        f"receipt {receipt['seq']} differs from what the same policies decide today (recorded by {receipt['software']})"
        for receipt in comparison.unlike
    ]
    print_lines(["", *lines, f"never more permissive: {'yes' if comparison.never_more_permissive else 'no'}"])


def row(difference: ReplayDifference) -> list[object]:
    """One difference as a line of the table."""
    receipt, would, was = difference.receipt, difference.would, difference.was
    because = ", ".join(would.policies or was.policies) or "; ".join(would.errors)
    sides = [
        describe_outcome(was),
        describe_outcome(would),
        because,
        "MORE PERMISSIVE" if difference.looser else "stricter",
    ]
    return [receipt["seq"], receipt["time"][:19].replace("T", " "), receipt.get("agent"), receipt.get("tool"), *sides]


def describe_outcome(ruling: PolicyOutcome) -> str:
    return f"{ruling.outcome} ({', '.join(ruling.routes)})" if ruling.routes else str(ruling.outcome)


@reading_receipts()
def shadow(arguments: list[str]) -> int:
    """Exit codes: 0 never more permissive, 1 more permissive, 4 nothing was compared."""
    options = build_shadow_parser().parse_args(arguments)
    store = open_for_reading(options)
    with Progress("decisions", options.json) as progress:
        comparison = compare_shadow(decisions(store, options.since, options.last, progress.update), versions(store))
    return conclude(comparison, options.json, NO_SHADOW)


def build_shadow_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy shadow", "Compare the decisions of the shadow policies ([guard] shadow) with the recorded ones."
    )
    add_span(parser)
    return parser
