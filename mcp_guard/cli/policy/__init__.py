"""`mcp-guard policy COMMAND`: writing, testing and trusting policies."""

from mcp_guard.cli import dispatch

COMMANDS: dispatch.Commands = {
    "new": ("policy.new", "start a policy file and its cases from a tool's schema"),
    "fmt": ("policy.fmt", "format the policy files, comments kept"),
    "lint": ("policy.lint", "find what is legal and probably not meant"),
    "schema": ("policy.export:schema", "print the schema that policies are checked against"),
    "validate": ("policy.lint:validate", "load the policies against the tools that are listed now"),
    "test": ("policy.test", "run the *.cases.toml beside the policies"),
    "coverage": ("policy.coverage", "which policies no case and no decision is determined by"),
    "explain": ("policy.explain", "why a decision came out as it did, and what would alter it"),
    "replay": ("policy.replay", "run the ledger's decisions again under other policies"),
    "shadow": ("policy.replay:shadow", "what the shadow policies would have decided"),
    "suggest": ("policy.suggest", "the narrowest policies for what was always approved, or observed"),
    "export": ("policy.export", "plain Cedar, for Cedar's own analysis tools"),
}


def main(arguments: list[str]) -> int:
    return dispatch.run("mcp-guard policy", COMMANDS, arguments)
