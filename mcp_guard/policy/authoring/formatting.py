"""Formats policies in Cedar's usual form, keeping comments. Pure."""

from mcp_guard.policy.nesting import find_too_deep

WIDTH = 100
INDENT = 2


def format_policies(text: str, width: int = WIDTH) -> str | None:
    """The formatted text; None if that would change its meaning. Raises: ValueError if Cedar cannot read it."""
    import cedarpy

    if find_too_deep(text):
        raise ValueError
    formatted = cedarpy.format_policies(text, width, INDENT)
    if cedarpy.policies_to_json_str(formatted) != cedarpy.policies_to_json_str(text):
        return None
    return formatted if formatted.endswith("\n") else formatted + "\n"
