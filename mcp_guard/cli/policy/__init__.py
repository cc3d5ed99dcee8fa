"""`mcp-guard policy COMMAND`: write, validate, test and replay policies."""

from mcp_guard.cli import dispatch

COMMANDS: dispatch.Commands = {
    "new": ("policy.new", "create a policy file and its cases from a tool's schema"),
    "fmt": ("policy.fmt", "format the policy files, keeping comments"),
    "lint": ("policy.lint", "find policies that are valid but probably wrong"),
    "schema": ("policy.export:schema", "print the schema that policies are checked against"),
    "validate": ("policy.lint:validate", "check the policies against the tools that are listed now"),
    "test": ("policy.test", "run the cases (*.cases.toml) beside the policies"),
    "coverage": ("policy.coverage", "show policies that no case or recorded decision exercises"),
    "explain": ("policy.explain", "explain a recorded decision and what would change it"),
    "replay": ("policy.replay", "re-evaluate recorded decisions under other policies"),
    "shadow": ("policy.replay:shadow", "compare the shadow policies with the recorded decisions"),
    "prove": ("policy.prove", "prove statements about the policies for all requests, or disprove them"),
    "suggest": ("policy.suggest", "suggest the narrowest policies for calls that were always approved, or observed"),
    "pending": ("policy.approval:pending", "show the policies that wait for approval, and how they differ"),
    "propose": ("policy.approval:propose", "propose the policy files for approval"),
    "approve": ("policy.approval:approve", "approve policies that wait for approval"),
    "deny": ("policy.approval:deny", "deny policies that wait for approval"),
    "export": ("policy.export", "export plain Cedar for Cedar's analysis tools"),
}


def main(arguments: list[str]) -> int:
    return dispatch.run("mcp-guard policy", COMMANDS, arguments)
