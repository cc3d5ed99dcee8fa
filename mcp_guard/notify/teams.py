"""Microsoft Teams, by the address of a workflow ("when a Teams webhook request is received"), which is the secret.

The message is an Adaptive Card (adaptivecards.io, version 1.5). Such an address only takes new messages: the end of a
request is a second one, and the first keeps its button.

INVARIANT: nothing that an agent wrote becomes a mention, a link, a date or formatting. Its texts are `TextRun`s, which
have no Markdown; the functions that they do have are taken apart, and so are addresses.
"""

import json
import re
from typing import Any

from mcp_guard.core.visible_text import VisibleText, escape, visible
from mcp_guard.notify.chat import facts, fit, unlinked
from mcp_guard.notify.message import Message
from mcp_guard.outbound import Destination, post_json

SCHEMA = "http://adaptivecards.io/schemas/adaptive-card.json"
CARD = "application/vnd.microsoft.card.adaptive"
MAX_BYTES = 27_000
"""Teams refuses a message of more than 28 KB."""
MAX_TITLE, MAX_VALUE = 300, 2000
FALLBACK = "This version of Teams cannot show the message. Open the approval pages to see what it is about."
"""What clients show that are older than the card's version. They may read Markdown in it, so it is always the same."""
_FUNCTION = re.compile(r"[{$@](?=\{)|<(?=/?at\b)")
"""How a date, a time (`{{DATE(…)}}`), an expression of a template (`${…}`, `@{…}`) or a mention begins."""


def send(destination: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    post_json(destination.secret("url"), make_body(message), {}, destination.network)


def make_body(message: Message) -> bytes:
    """The message. Facts that would make it too large are left out, and it says so: the page shows all of them."""
    rows = [_fact(name, value) for name, value in facts(message) if value]
    body = _dump(message, rows)
    while len(body) > MAX_BYTES and rows:
        rows = [*rows[:-2], _fact("Note", "not everything fits into this message; the page shows all of it")]
        body = _dump(message, rows) if len(rows) > 1 else _dump(message, [])
    return body


def _dump(message: Message, rows: list[dict[str, Any]]) -> bytes:
    title = fit(_text(message.title), MAX_TITLE)
    heading = {"type": "TextRun", "text": title, "weight": "Bolder", "size": "Medium"}
    card = {
        "$schema": SCHEMA,
        "type": "AdaptiveCard",
        "version": "1.5",
        "fallbackText": FALLBACK,
        "body": [{"type": "RichTextBlock", "inlines": [heading]}, *rows],
        "actions": [{"type": "Action.OpenUrl", "title": message.verb, "url": message.link}],
        "msteams": {"width": "Full"},
    }
    attachment = {"contentType": CARD, "contentUrl": None, "content": card}
    return json.dumps({"type": "message", "attachments": [attachment]}).encode()


def _fact(name: str, value: object) -> dict[str, Any]:
    runs = [
        {"type": "TextRun", "text": f"{fit(_text(name), MAX_TITLE)}: ", "isSubtle": True},
        {"type": "TextRun", "text": fit(_text(str(value)), MAX_VALUE)},
    ]
    return {"type": "RichTextBlock", "inlines": runs, "spacing": "Small"}


def _text(text: str) -> VisibleText:
    return VisibleText(_FUNCTION.sub(lambda match: escape(match[0]), unlinked(visible(text))))
