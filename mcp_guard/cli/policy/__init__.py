"""`mcp-guard policy`: writing, testing and trusting policies. One verb a file; only the one that is run is imported."""

import importlib
import sys

VERBS: dict[str, str] = {
    "new": "start a policy file and its cases from a tool's schema",
    "fmt": "format the policy files, comments kept",
    "lint": "find what is legal and probably not meant",
    "schema": "print the schema that policies are checked against",
    "validate": "load the policies against the tools that are listed now",
    "test": "run the *.cases.toml beside the policies",
    "coverage": "which policies no case and no decision is determined by",
    "explain": "why a decision came out as it did, and what would alter it",
    "replay": "run the ledger's decisions again under other policies",
    "shadow": "what the shadow policies would have decided",
    "suggest": "the narrowest policies for what was always approved, or observed",
    "export": "plain Cedar, for Cedar's own analysis tools",
}
"""Name: help. Its module here has `main(arguments)`, which returns the exit code."""


def usage() -> str:
    rows = [f"  {name:<10} {text}" for name, text in VERBS.items()]
    return "\n".join(["usage: mcp-guard policy VERB …   (mcp-guard policy VERB --help)", "", *rows])


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] not in VERBS:
        print(f"mcp-guard: no verb `{arguments[0]}`\nhint: mcp-guard policy --help", file=sys.stderr)
        return 2
    module = importlib.import_module(f"mcp_guard.cli.policy.{arguments[0]}")
    code: int = module.main(arguments[1:])
    return code
