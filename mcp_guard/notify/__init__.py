"""Notifiers: how approvers are told. Each is one file with `send(options, message)`, and one line here."""

NOTIFIERS: dict[str, str] = {
    "desktop": "mcp_guard.notify.desktop",
    "webhook": "mcp_guard.notify.webhook",
    "slack": "mcp_guard.notify.slack",
    "email": "mcp_guard.notify.email",
    "command": "mcp_guard.notify.command",
}
"""Kind in the configuration: module. It is imported when a message is due."""
