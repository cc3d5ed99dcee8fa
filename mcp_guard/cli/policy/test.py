"""`mcp-guard policy test`: run the cases beside the policies on the real engine."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_json, print_lines, print_table, print_text
from mcp_guard.cli.policy.inputs import live_engine, settings_of_cases
from mcp_guard.cli.policy.lint import lines
from mcp_guard.config import load
from mcp_guard.core.errors import PolicyError
from mcp_guard.policy.authoring.cases import CaseResult, read_cases, run_cases
from mcp_guard.policy.authoring.coverage import reached_by_cases
from mcp_guard.policy.authoring.lint import WARNINGS_OF_TEST, lint, read_lint_input

HEADINGS = ("file", "case", "expected", "got", "policies", "ms")


def main(arguments: list[str]) -> int:
    """Exit codes: 0 all as expected, 1 not."""
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    engine, tools = live_engine(settings, options.json)
    where = options.cases or settings.policies
    cases = read_cases(where)
    if not cases:
        hint = "write NAME.cases.toml beside the policies, or let mcp-guard policy new TOOL create one"
        raise PolicyError(f"no cases in `{where}`", hint)
    results, case_settings = [], settings_of_cases(settings)
    for case in cases:
        begun = time.perf_counter()
        result = run_cases(engine, tools, [case], case_settings)[0]
        results.append((result, (time.perf_counter() - begun) * 1000))
    uncovered: list[str] = []
    if options.coverage:
        reached = frozenset[str]().union(*reached_by_cases(engine, (result for result, _ in results)))
        uncovered = sorted(engine.rules.policies.keys() - reached)
    failed = [result for result, _ in results if result.differences]
    linted = read_lint_input(engine.source.texts, None, tuple(settings.routes), {})
    print_lines((line for finding in lint(linted, WARNINGS_OF_TEST) for line in lines(finding)), file=sys.stderr)
    if options.json:
        rows = [as_json(result, ms) for result, ms in results]
        report: Any = {"cases": rows, "uncovered": uncovered} if options.coverage else rows
        print_json(report, indent=2)
        return 1 if failed or uncovered else 0
    if options.table:
        print_table(HEADINGS, (row(result, ms) for result, ms in results))
    print_lines(f"{result.case.file}: {result.case.name}: {'; '.join(result.differences)}" for result in failed)
    print_lines(f"no case reaches `{id}`" for id in uncovered)
    print_text(f"{len(results) - len(failed)} of {len(results)} cases as expected")
    return 1 if failed or uncovered else 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "policy test", "Run the cases (*.cases.toml) beside the policies. Starts the upstreams to list their tools."
    )
    parser.add_argument(
        "--cases", type=Path, metavar="PATH", help="a cases file or folder (default: the policy folder)"
    )
    parser.add_argument("--table", action="store_true", help="list every case, not only failed ones")
    parser.add_argument(
        "--coverage", action="store_true", help="list policies that no case reaches; exit code 1 if there are any"
    )
    add_json(parser)
    return parser


def as_json(result: CaseResult, ms: float) -> dict[str, Any]:
    decision = result.decision
    document = {"case": result.case.name, "differences": list(result.differences), "ms": round(ms, 3)}
    return document | {
        "outcome": decision.outcome if decision else None,
        "policies": list(decision.policies) if decision else [],
    }


def row(result: CaseResult, ms: float) -> list[object]:
    decision = result.decision
    outcome = decision.outcome if decision else "-"
    mark = "" if not result.differences else " FAILED"
    policies = ", ".join(decision.policies) if decision else ""
    return [result.case.file, result.case.name, result.case.table["outcome"], f"{outcome}{mark}", policies, f"{ms:.2f}"]
