"""`mcp-guard doctor`: look at everything that a guard needs, and say of each what is wrong and what mends it."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields

from mcp_guard.app import CLOCK, ledger_settings, policy_world
from mcp_guard.cli.client_files import client_files
from mcp_guard.cli.options import add_json, parser
from mcp_guard.cli.output import print_table
from mcp_guard.cli.upstreams import list_tools
from mcp_guard.config import load
from mcp_guard.core.errors import GuardError
from mcp_guard.core.model import Tool
from mcp_guard.diagnostics.checks import Finding, Level, Seen, Trial, examine, worst
from mcp_guard.diagnostics.self_test import try_refusals
from mcp_guard.diagnostics.state_folder import Examined, examine_folder
from mcp_guard.ledger.open import configured_keys
from mcp_guard.policy.engine import load_policies
from mcp_guard.settings import Settings
from mcp_guard.verifier.report import count

EXIT_CODES = {Level.OK: 0, Level.WARNING: 1, Level.PROBLEM: 2}


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    findings = examine(look(load(options.config), options.upstreams, options.json))
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        print_table(("check", "", "what", "fix"), map(row, findings))
        levels = Counter(finding.level for finding in findings)
        print(f"{count(levels[Level.PROBLEM], 'problem')}, {count(levels[Level.WARNING], 'warning')}")
    return EXIT_CODES[worst(findings)]


def parse(arguments: list[str]) -> argparse.Namespace:
    made = parser("doctor", "Look at what a guard needs. Exit 0: all is well, 1: warnings, 2: problems.")
    made.add_argument(
        "--upstreams", action="store_true", help="start the servers too, and check policies on their tools"
    )
    add_json(made)
    return made.parse_args(arguments)


def row(finding: Finding) -> Sequence[object]:
    return finding.check, str(finding.level), finding.what, finding.fix


def look(settings: Settings, start_upstreams: bool, quiet: bool) -> Seen:
    """See everything; what cannot be seen is a finding, never an error of this command."""
    examined = examine_folder(settings.state_dir, configured_keys(ledger_settings(settings)).find)
    tools: list[Tool] = []
    absent, missing = set(settings.servers), set[str]()
    if start_upstreams:
        tools, absent = list_tools(settings, quiet)
        missing = absent
    failure, note, trials = check_policies(settings, tools, absent)
    seen = {field.name: getattr(examined, field.name) for field in fields(Examined)}
    return Seen(
        now=CLOCK.wall(),
        user=os.geteuid(),
        policies_failure=failure,
        policies_note=note,
        agents=tuple((name, (each.agent.owner, each.on_behalf_of)) for name, each in settings.agents.items()),
        routes=tuple(settings.routes.values()),
        has_upstreams=bool(settings.servers),
        absent=tuple(sorted(missing)),
        trials=tuple(trials),
        clients=tuple(client_files(settings.path)),
        **seen,
    )


def check_policies(
    settings: Settings, tools: list[Tool], absent: set[str]
) -> tuple[tuple[str, str] | None, str, list[Trial]]:
    """Why they do not load, or what is to be said of them; and the calls that were tried."""
    try:
        load_policies(settings.policies, policy_world(settings, tools, absent))
        against = f"against {len(tools)} tools" if tools else "as text; --upstreams checks them against the tools"
        return None, f"loaded, {against}", try_refusals(settings, tools, absent)
    except GuardError as error:
        return (error.message, error.hint), "", []
