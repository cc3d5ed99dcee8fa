"""Witnesses: outside places that remember our checkpoints. Each is a file with `send(place, submission)`, a line here.

What it raises says why the checkpoint was not taken: `Undelivered`, or `Contradicted`.
"""

WITNESSES: dict[str, str] = {
    "file": "mcp_guard.witness.file",
    "git": "mcp_guard.witness.git",
    "webhook": "mcp_guard.witness.webhook",
    "rfc3161": "mcp_guard.witness.rfc3161",
    "cosignature": "mcp_guard.witness.cosignature",
}
"""Kind in the configuration: module. It is imported when a checkpoint is sent there."""
