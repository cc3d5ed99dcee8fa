"""`mcp-guard ledger SUBCOMMAND`: the ledger in the hands of others. One module a subcommand, imported if it is run."""

import importlib
import sys

SUBCOMMANDS: tuple[tuple[str, str, str], ...] = (
    ("export", "ledger_export", "write the ledger as files that others can verify"),
    ("witness", "ledger_witness", "send the checkpoint to outside witnesses"),
    ("prove", "ledger_prove", "print a receipt, or those of a call, with the proof that it stands in the ledger"),
    ("forget", "ledger_forget", "erase payloads that must go; the receipts and the proof stay"),
    ("events", "ledger_events", "receipts as events of other systems: CloudEvents, OCSF, OpenTelemetry"),
)
"""Name, module below `mcp_guard.cli` (its function `main(arguments)` returns the exit code), and help."""


def usage() -> str:
    rows = [f"  {name:<10} {text}" for name, _, text in SUBCOMMANDS]
    return "\n".join(["usage: mcp-guard ledger SUBCOMMAND …   (mcp-guard ledger SUBCOMMAND --help)", "", *rows])


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    modules = {name: module for name, module, _ in SUBCOMMANDS}
    if arguments[0] not in modules:
        print(f"mcp-guard: no subcommand `ledger {arguments[0]}`\nhint: mcp-guard ledger --help", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"mcp_guard.cli.{modules[arguments[0]]}").main(arguments[1:])
    return code
