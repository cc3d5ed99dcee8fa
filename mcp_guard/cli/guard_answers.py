"""What a client may get from a guard that it has started, beside a plain answer."""

from typing import Any

from mcp_guard.core import replies


class GuardEnded(Exception):
    """The guard exited without an answer; it has printed the reason on standard error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"mcp-guard run exited with {code}")
        self.code = code


class UnusableAnswer(Exception):
    """An error in place of a listing, or an answer of an upstream that MCP does not have."""


def held_approval(message: Any) -> tuple[str, str] | None:
    """Id and routes of the approval that a result or a progress notification waits for (`core.replies.held_meta`)."""
    match message:
        case {"_meta": {replies.META: {"outcome": "require_approval", "approval": str(id), "routes": list(routes)}}}:
            return id, ", ".join(map(str, routes))
    return None
