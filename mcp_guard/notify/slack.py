"""Slack, by an incoming webhook (docs.slack.dev: incoming webhooks, Block Kit). The address is the secret."""

import json

from mcp_guard.notify.message import Message
from mcp_guard.outbound import Options, post


def send(options: Options, message: Message) -> None:
    """Raises: Undelivered."""
    fields = [f"*{name}*\n{_escape(str(value))}" for name, value in _facts(message) if value]
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": message.title[:150]}},
        {"type": "section", "fields": [{"type": "mrkdwn", "text": text[:2000]} for text in fields]},
        {
            "type": "actions",
            "elements": [
                {"type": "button", "text": {"type": "plain_text", "text": "Look and decide"}, "url": message.link}
            ],
        },
    ]
    post(options.secret("url"), json.dumps({"text": _escape(message.title), "blocks": blocks}).encode(), {})


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
    """Slack's three control characters; nothing that an agent wrote becomes a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
