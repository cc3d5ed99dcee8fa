"""`mcp-guard policy coverage`: show policies that no case or recorded decision exercises."""

import argparse
from dataclasses import asdict
from pathlib import Path

from mcp_guard.cli.ledger_reader import find_ledger, make_ledger_parser
from mcp_guard.cli.output import print_json, print_table, print_text
from mcp_guard.cli.policy.inputs import add_span, live_engine, settings_of_cases
from mcp_guard.config import load
from mcp_guard.policy.authoring.cases import read_cases, run_cases
from mcp_guard.policy.authoring.coverage import Coverage, PolicyCoverage
from mcp_guard.policy.authoring.past import decisions, versions
from mcp_guard.storage.engines import open_store
from mcp_guard.verifier.progress import Progress

HEADINGS = ("policy", "file", "cases", "decisions", "about it", "")


def main(arguments: list[str]) -> int:
    """Exit codes: 0 every policy has a case, 1 not."""
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    engine, tools = live_engine(settings, options.json)
    ledger = find_ledger(options)
    covered = Coverage(engine.rules.policies)
    cases = read_cases(options.cases or settings.policies)
    covered.add_cases(engine, run_cases(engine, tools, cases, settings_of_cases(settings)))
    if ledger.engine.exists():
        store = open_store(ledger.place, create=False)
        with Progress("decisions", options.json) as progress:
            recorded = decisions(store, options.since, options.last, progress.update)
            covered.add_decisions(recorded, versions(store))
    rows = covered.policies
    uncovered = [id for id, coverage in rows.items() if not coverage.cases]
    if options.json:
        print_json({id: asdict(coverage) for id, coverage in rows.items()}, indent=2)
    else:
        files = {id: policy.file for id, policy in engine.rules.policies.items()}
        print_table(
            HEADINGS, ([id, files[id], *asdict(coverage).values(), verdict(coverage)] for id, coverage in rows.items())
        )
        print_text(f"{len(rows) - len(uncovered)} of {len(rows)} policies have a case")
    return 1 if uncovered else 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "policy coverage", "Show policies that no case or recorded decision exercises. Starts the upstreams."
    )
    parser.add_argument(
        "--cases", type=Path, metavar="PATH", help="a cases file or folder (default: the policy folder)"
    )
    add_span(parser)
    return parser


def verdict(coverage: PolicyCoverage) -> str:
    if coverage.cases:
        return ""
    return "NO CASE" if coverage.decisions else "NO CASE, NO DECISION"
