"""Notifiers tell approvers of requests. Each is a module with `send(destination, message)`, listed here.

Those that keep something beside the ledger take it as a third argument (`notify/kept.py`).
"""

NOTIFIERS: dict[str, str] = {
    "desktop": "mcp_guard.notify.desktop",
    "webhook": "mcp_guard.notify.webhook",
    "slack": "mcp_guard.notify.slack",
    "teams": "mcp_guard.notify.teams",
    "push": "mcp_guard.notify.push",
    "email": "mcp_guard.notify.email",
    "command": "mcp_guard.notify.command",
}
"""`kind` in the configuration: the module, which is imported when a message is sent."""
KEEPING = ("slack", "push")
"""The kinds that keep something."""
