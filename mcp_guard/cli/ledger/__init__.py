"""`mcp-guard ledger COMMAND`: the ledger in the hands of others."""

from mcp_guard.cli import dispatch

COMMANDS: dispatch.Commands = {
    "export": ("ledger.export", "write the ledger as files that others can verify"),
    "witness": ("ledger.witness", "send the checkpoint to outside witnesses"),
    "prove": ("ledger.prove", "print a receipt, or those of a call, with the proof that it stands in the ledger"),
    "forget": ("ledger.forget", "erase payloads that must go; the receipts and the proof stay"),
    "events": ("ledger.events", "receipts as events of other systems: CloudEvents, OCSF, OpenTelemetry"),
}


def main(arguments: list[str]) -> int:
    return dispatch.run("mcp-guard ledger", COMMANDS, arguments)
