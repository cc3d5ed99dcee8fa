"""Notifiers tell approvers of requests. Each is a module with `send(destination, message)`, listed here."""

NOTIFIERS: dict[str, str] = {
    "desktop": "mcp_guard.notify.desktop",
    "webhook": "mcp_guard.notify.webhook",
    "slack": "mcp_guard.notify.slack",
    "email": "mcp_guard.notify.email",
    "command": "mcp_guard.notify.command",
}
"""`kind` in the configuration: the module, which is imported when a message is sent."""
