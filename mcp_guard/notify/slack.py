"""Slack, by an incoming webhook whose address is the secret (docs.slack.dev: incoming webhooks, Block Kit).

INVARIANT: nothing that an agent wrote becomes a mention, a link, an emoji or formatting. The blocks are `plain_text`;
in the message's own text, which Slack shows in its notification and parses, addresses are taken apart as well.
"""

import json
import re
from typing import Any

from mcp_guard.core.receipt import CLAIMED
from mcp_guard.core.visible_text import VisibleText, escape, join, quote, say, shorten
from mcp_guard.notify.message import Message
from mcp_guard.outbound import Destination, post_json

MAX_FIELDS = 10
"""Fields of a section."""
MAX_HEADER, MAX_FIELD, MAX_TEXT = 150, 2000, 4000
"""Characters of a header block, of a field of a section, and of the message's own text. Slack refuses a longer block,
and cuts a text of over 40,000 characters; what is over 4,000 it does not show."""
MAX_ENTITY = len("&amp;")
_ADDRESS = re.compile(r"://|(?<=\w)[.@](?=\w)")
"""What Slack makes links of: a scheme, and the dots and signs within host names and mail addresses."""


def send(destination: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    fields = [say("{}:\n{}", name, value) for name, value in _facts(message) if value]
    button = {"type": "button", "text": _plain("Review and decide", MAX_HEADER), "url": message.link}
    body = {
        "text": _unlinked(message.title),
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "header", "text": _plain(message.title, MAX_HEADER)},
            *(
                {"type": "section", "fields": [_plain(field, MAX_FIELD) for field in fields[at : at + MAX_FIELDS]]}
                for at in range(0, len(fields), MAX_FIELDS)
            ),
            {"type": "actions", "elements": [button]},
        ],
    }
    post_json(destination.secret("url"), json.dumps(body).encode(), {}, destination.network)


def _facts(message: Message) -> list[tuple[str, object]]:
    data = message.data
    if data.get("event") == "enrolled":
        return [("What", join(" ", message.lines)), ("Key", data["key"])]
    mark = CLAIMED if "ticket" in data.get("claimed", ()) else ""
    user, ticket = data["on_behalf_of"], data["ticket"]
    return [
        *message.fields,
        ("Caution", message.caution),
        ("Why", "; ".join(data["reasons"])),
        ("Risk", f"{data['risk']['score']} {data['risk']['level']}"),
        ("On behalf of", quote(user) if user else ""),
        ("Ticket", say("{}{}", quote(ticket), mark) if ticket else ""),
        ("Routes", join(", ", map(quote, data["routes"]))),
        ("Until", data["expires"]),
    ]


def _plain(text: str, length: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": _fit(text, length), "emoji": False}


def _fit(text: str, length: int) -> str:
    """The text, cut to `length` UTF-16 code units: a program may count a character outside the BMP as two."""
    fitting = shorten(text, length - 1)
    return fitting if len(fitting.encode("utf-16-le")) <= 2 * length else shorten(text, length // 2 - 1)


def _unlinked(text: str) -> str:
    apart = VisibleText(_ADDRESS.sub(lambda match: "".join(map(escape, match[0])), text))
    return _fit(apart, MAX_TEXT // MAX_ENTITY).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
