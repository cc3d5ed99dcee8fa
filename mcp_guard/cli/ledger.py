"""`mcp-guard ledger COMMAND`: the ledger in the hands of others."""

from mcp_guard.cli import group

COMMANDS: group.Commands = {
    "export": ("ledger_export", "write the ledger as files that others can verify"),
    "witness": ("ledger_witness", "send the checkpoint to outside witnesses"),
    "prove": ("ledger_prove", "print a receipt, or those of a call, with the proof that it stands in the ledger"),
    "forget": ("ledger_forget", "erase payloads that must go; the receipts and the proof stay"),
    "events": ("ledger_events", "receipts as events of other systems: CloudEvents, OCSF, OpenTelemetry"),
}


def main(arguments: list[str]) -> int:
    return group.run("mcp-guard ledger", COMMANDS, arguments)
