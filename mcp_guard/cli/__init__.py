"""The command line, one noun a file. Only the module of the command that is run is imported."""

import sys

from mcp_guard.cli import dispatch
from mcp_guard.core.errors import (
    ApprovalError,
    ConfigError,
    GuardError,
    IdentityError,
    LedgerError,
    PolicyError,
    UpstreamError,
)

COMMANDS: dispatch.Commands = {
    "init": ("init", "make the configuration and the first policies of a new guard"),
    "wrap": ("wrap", "put the servers of an MCP client behind the guard"),
    "unwrap": ("unwrap", "give a client its servers back, as they were"),
    "run": ("run", "serve one MCP client on stdin and stdout"),
    "serve": ("serve", "serve many MCP clients over HTTP"),
    "connect": ("connect", "carry standard input and output to a guard of another user"),
    "call": ("client", "make one call as an agent would"),
    "demo": ("demo", "see calls allowed, denied, approved and proved, in front of an example server"),
    "log": ("log", "list receipts"),
    "show": ("show", "tell the story of one call"),
    "tail": ("log:tail", "follow receipts as they come"),
    "status": ("status", "what stands in the ledger, who runs, what waits, what was called last"),
    "doctor": ("doctor", "look for what is wrong, and say what mends it"),
    "verify": ("verify", "verify the ledger with its public key"),
    "ledger": ("ledger", "export the ledger, prove a receipt, have witnesses see its head"),
    "keys": ("keys", "the keys that the ledger is signed with: list, rotate, replace"),
    "approvals": ("approvals", "list, show, approve, deny and grant held calls"),
    "inbox": ("inbox", "serve the page on which approvers decide"),
    "approvers": ("approvers", "the keys of the people who approve"),
    "agents": ("agents", "the programs that may call"),
    "instances": ("instances", "runs of agents: issue, delegate and revoke their credentials"),
    "tools": ("tools", "the definitions of tools: list, show, diff, accept and refuse them"),
    "secrets": ("secrets", "where the tools' secrets are; entries of the keyring"),
    "upstreams": ("upstreams", "sign in to upstreams that take a person's word"),
    "policy": ("policy", "validate policies and run their cases"),
    "completion": ("completion", "print a script that completes these commands in bash, zsh or fish"),
}

EXIT_CODES: dict[type[GuardError], int] = {
    ConfigError: 3,
    PolicyError: 4,
    LedgerError: 5,
    UpstreamError: 6,
    ApprovalError: 7,
    IdentityError: 8,
}
OK, INTERRUPTED = 0, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Every failure leaves through here."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] in (["-V"], ["--version"]):
        from mcp_guard import __version__

        print(f"mcp-guard {__version__}")
        return OK
    try:
        return dispatch.run("mcp-guard", COMMANDS, words)
    except GuardError as error:
        print(f"mcp-guard: {error}", file=sys.stderr)
        return EXIT_CODES[type(error)]
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return OK
