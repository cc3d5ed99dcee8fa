"""`mcp-guard ledger COMMAND`: export, prove, witness, back up, restore, copy, migrate, forget and stream the ledger."""

from mcp_guard.cli import dispatch

COMMANDS: dispatch.Commands = {
    "export": ("ledger.export", "write the ledger as files that others can verify"),
    "witness": ("ledger.witness", "send the checkpoint to outside witnesses"),
    "prove": ("ledger.prove", "print the proof that a receipt, or a call's receipts, are in the ledger"),
    "backup": ("ledger.backup", "copy the ledger while guards use it, and verify the copy"),
    "restore": ("ledger.restore", "put the ledger of a backup in place, also on a new machine"),
    "copy": ("ledger.copy", "copy a ledger file into a database, and verify the copy"),
    "migrate": ("ledger.migrate", "bring a ledger of an older format to the one of this version"),
    "forget": ("ledger.forget", "erase payloads; receipts and proofs remain"),
    "events": ("ledger.events", "print or send receipts as CloudEvents, OCSF or OpenTelemetry events"),
}


def main(arguments: list[str]) -> int:
    return dispatch.run("mcp-guard ledger", COMMANDS, arguments)
