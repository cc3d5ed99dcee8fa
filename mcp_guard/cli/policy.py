"""`mcp-guard policy`: validate the policies against the upstreams' tools, and run their cases."""

import argparse
import asyncio
import json
from pathlib import Path

from mcp_guard.app import listed_tools, policy_world
from mcp_guard.cli.options import add_config, add_json
from mcp_guard.config import load
from mcp_guard.core.errors import PolicyError, UpstreamError
from mcp_guard.policy.cases import read_cases, run_cases
from mcp_guard.policy.engine import load_policies


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    settings = load(options.config)
    tools, absent = asyncio.run(listed_tools(settings))
    if absent:
        names = ", ".join(f"`{name}`" for name in sorted(absent))
        where = settings.state_dir / "upstreams"
        raise UpstreamError(f"no tools from {names}, so no policy on them can be checked", f"see its stderr in {where}")
    engine = load_policies(settings.policies, policy_world(settings, tools, absent))
    if options.verb == "validate":
        about = {"version": engine.version, "tools": len(tools), "dormant": list(engine.dormant)}
        print(json.dumps(about) if options.json else f"valid against {len(tools)} tools, version {engine.version}")
        for policy in () if options.json else engine.dormant:
            print(f"  {policy}: waits for tools that are not listed now")
        return 0
    cases = read_cases(options.cases or settings.policies)
    if not cases:
        where = options.cases or settings.policies
        raise PolicyError(f"no cases in `{where}`", "write NAME.cases.toml beside the policies")
    results = run_cases(engine, {tool.listed_as: tool for tool in tools}, cases)
    failed = [result for result in results if result.differences]
    if options.json:
        rows = [{"case": each.case.name, "differences": list(each.differences)} for each in results]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 1 if failed else 0
    for result in failed:
        print(f"{result.case.file}: {result.case.name}: {'; '.join(result.differences)}")
    print(f"{len(results) - len(failed)} of {len(results)} cases as expected")
    return 1 if failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="mcp-guard policy", description="Check policies; the upstreams are started.")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    validate = verbs.add_parser("validate", help="load the policies against the tools that are listed now")
    test = verbs.add_parser("test", help="run the *.cases.toml beside the policies")
    test.add_argument("--cases", type=Path, metavar="PATH", help="a cases file or folder (default: the policies)")
    for verb in (validate, test):
        add_config(verb)
        add_json(verb)
    return made.parse_args(arguments)
