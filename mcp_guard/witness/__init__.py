"""Witnesses: outside parties that keep our checkpoints. Each is a module with `send(destination, submission)`, listed.

`send` returns an `Acceptance`. It raises `DeliveryError` if the witness did not accept the checkpoint, and
`Contradicted` if the witness holds a checkpoint that the ledger does not continue.
"""

WITNESSES: dict[str, str] = {
    "file": "mcp_guard.witness.file",
    "git": "mcp_guard.witness.git",
    "webhook": "mcp_guard.witness.webhook",
    "rfc3161": "mcp_guard.witness.rfc3161",
    "cosignature": "mcp_guard.witness.cosignature",
}
"""`kind` in the configuration: the module, which is imported when a checkpoint is sent."""
