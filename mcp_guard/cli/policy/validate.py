"""`mcp-guard policy validate`: the policies against the tools that are listed now."""

import json

from mcp_guard.cli.options import add_json, parser
from mcp_guard.cli.policy.live import live_engine
from mcp_guard.config import load


def main(arguments: list[str]) -> int:
    made = parser("policy validate", "Load the policies against the tools that are listed now; starts the upstreams.")
    add_json(made)
    options = made.parse_args(arguments)
    engine, tools = live_engine(load(options.config), options.json)
    about = {"version": engine.version, "tools": len(tools), "dormant": list(engine.dormant)}
    print(json.dumps(about) if options.json else f"valid against {len(tools)} tools, version {engine.version}")
    for policy in () if options.json else engine.dormant:
        print(f"  {policy}: waits for tools that are not listed now")
    return 0
