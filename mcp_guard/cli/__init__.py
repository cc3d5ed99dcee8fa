"""The command line, one noun per file. Only the module of the command that runs is imported."""

import os
import sys

from mcp_guard.cli import dispatch
from mcp_guard.cli.output import (
    NO_OUTPUT,
    complete_commands,
    flush_output,
    log_errors,
    print_error,
    print_lines,
    print_text,
)
from mcp_guard.core.errors import (
    ApprovalError,
    ConfigError,
    GuardError,
    IdentityError,
    LedgerError,
    ListenError,
    PolicyError,
    SignInRequired,
    UpstreamError,
    reason_of,
)

COMMANDS: dispatch.Commands = {
    "init": ("init", "create the configuration and first policies of a new guard"),
    "wrap": ("wrap", "put the servers of an MCP client behind the guard"),
    "unwrap": ("unwrap", "restore an MCP client's original servers"),
    "run": ("run", "serve one MCP client on stdin and stdout"),
    "serve": ("serve", "serve many MCP clients over HTTP, and the hooks of coding agents"),
    "connect": ("connect", "relay stdin and stdout to a guard that another user runs"),
    "hook": ("hook", "answer a hook of a coding agent, which asks before it uses a tool of its own"),
    "call": ("client", "make one tool call as an agent would"),
    "demo": ("demo", "run a demonstration: calls allowed, denied, approved and verified"),
    "log": ("log", "list receipts"),
    "show": ("show", "show the full record of one call"),
    "tail": ("log:tail", "print receipts as they are written"),
    "status": ("status", "show the ledger, running guards, pending approvals and the last calls"),
    "doctor": ("doctor", "diagnose problems and suggest fixes"),
    "verify": ("verify", "verify the ledger with public keys"),
    "ledger": ("ledger", "export, prove, witness, back up, restore, erase from and stream the ledger"),
    "keys": ("keys", "manage the keys that sign the ledger"),
    "approvals": ("approvals", "list, show, approve, deny and grant held calls"),
    "inbox": ("inbox", "serve the web page on which approvers decide, on this machine"),
    "web": ("web", "serve the web pages at an address of your own, for phones and for a team"),
    "approvers": ("approvers", "manage the keys of approvers"),
    "agents": ("agents", "manage the programs that may call tools"),
    "instances": ("instances", "issue, delegate and revoke the credentials of agent runs"),
    "tools": ("tools", "list, show, compare, accept and refuse tool definitions"),
    "secrets": ("secrets", "list configured secrets, and manage those in the keyring"),
    "upstreams": ("upstreams", "sign in to upstreams that require a user"),
    "policy": ("policy", "write, validate, test and replay policies"),
    "completion": ("completion", "print a completion script for bash, zsh or fish"),
}

EXIT_CODES: dict[type[GuardError], int] = {
    ConfigError: 3,
    PolicyError: 4,
    LedgerError: 5,
    UpstreamError: 6,
    ApprovalError: 7,
    SignInRequired: 7,
    IdentityError: 8,
    ListenError: 9,
}
OK, INTERRUPTED = 0, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Every failure leaves through here."""
    words = sys.argv[1:] if arguments is None else arguments
    if sys.stderr is None:  # it was closed at the start, and `print` would use stdout instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    complete_commands(None)  # as an earlier command of this process had it
    log_errors(None)
    try:
        return _run(words)
    except GuardError as error:
        print_error(error)
        return EXIT_CODES[type(error)]
    except KeyboardInterrupt as error:
        from mcp_guard.cli.prompts import PromptEnded

        if isinstance(error, PromptEnded):  # the cursor is still behind the question
            print_lines(["", "mcp-guard: interrupted: the question was not answered"], file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return OK
    except OSError as error:  # a file or folder that was named on the command line
        if error.filename is None:
            raise
        what = f"cannot use `{error.filename}`: {reason_of(error)}"
        print_error(ConfigError(what, "check the path and its permissions"))
        return EXIT_CODES[ConfigError]


def _run(words: list[str]) -> int:
    """Raises: ConfigError also if there is no standard output, or not all could be written there."""
    if sys.stdout is None:
        raise ConfigError(f"{NO_OUTPUT}: it is closed", "send it to a file, or to /dev/null")
    try:
        if words[:1] in (["-V"], ["--version"]):
            from mcp_guard import __version__

            print_text(f"mcp-guard {__version__}")
            return OK
        return dispatch.run("mcp-guard", COMMANDS, words)
    finally:
        flush_output()
