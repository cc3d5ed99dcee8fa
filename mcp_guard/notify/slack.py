"""Slack, by an incoming webhook whose address is the secret (docs.slack.dev: incoming webhooks, Block Kit)."""

import json

from mcp_guard.notify.message import Message
from mcp_guard.outbound import Destination, post_json


def send(destination: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    fields = [f"*{name}*\n{_escape(str(value))}" for name, value in _facts(message) if value]
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": message.title[:150]}},
        {"type": "section", "fields": [{"type": "mrkdwn", "text": text[:2000]} for text in fields]},
        {
            "type": "actions",
            "elements": [
                {"type": "button", "text": {"type": "plain_text", "text": "Review and decide"}, "url": message.link}
            ],
        },
    ]
    post_json(destination.secret("url"), json.dumps({"text": _escape(message.title), "blocks": blocks}).encode(), {})


def _facts(message: Message) -> list[tuple[str, object]]:
    data = message.data
    return [
        ("Why", "; ".join(data["reasons"])),
        ("Risk", f"{data['risk']['score']} {data['risk']['level']}"),
        ("On behalf of", data["on_behalf_of"]),
        ("Ticket", data["ticket"]),
        ("Routes", ", ".join(data["routes"])),
        ("Until", data["expires"]),
    ]


def _escape(text: str) -> str:
    """Escape Slack's three control characters, so that text from an agent becomes neither a mention nor a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
