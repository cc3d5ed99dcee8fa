"""What the messages of chats share: the facts of a request or of its end, and texts from which nothing becomes a link.

INVARIANT: nothing that an agent wrote becomes a mention, a link, an emoji or formatting in a chat.
"""

import re

from mcp_guard.core.approval_card import format_minute
from mcp_guard.core.model import SECOND
from mcp_guard.core.receipt import CLAIMED
from mcp_guard.core.visible_text import VisibleText, escape, join, quote, say, shorten
from mcp_guard.ledger.approvals.approver_keys import ENROLLED
from mcp_guard.notify.message import Message

OF_REQUESTS = ("requested", "escalated")
"""The events of messages that ask for a decision on a call."""
_ADDRESS = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.@])|://|\\\\(?=\w)|(?<=\w)[.@](?=\w)")
"""A number, which is none; and by what chats and mail programs recognize an address: a scheme, the start of a network
path, and the dots and signs within host names and mail addresses."""


def facts(message: Message) -> list[tuple[str, object]]:
    """Names and values; an empty value has nothing to say."""
    data = message.data
    if message.event == ENROLLED:
        return [("What", join(" ", message.lines)), ("Key", data["key"])]
    if message.event not in OF_REQUESTS:
        return [("What", line) for line in message.lines]
    mark = CLAIMED if "ticket" in data.get("claimed", ()) else ""
    user, ticket = data["on_behalf_of"], data["ticket"]
    return [
        *message.fields,
        ("Note", message.omission),
        ("Caution", message.caution),
        ("Why", "; ".join(data["reasons"])),
        ("Risk", f"{data['risk']['score']} {data['risk']['level']}"),
        ("On behalf of", quote(user) if user else ""),
        ("Ticket", say("{}{}", quote(ticket), mark) if ticket else ""),
        ("Routes", join(", ", map(quote, data["routes"]))),
        ("Until", format_minute(message.expires * SECOND)),
    ]


def unlinked(text: str) -> VisibleText:
    """The text with each address in it taken apart."""
    return VisibleText(
        _ADDRESS.sub(lambda match: match[0] if match[0][0].isdigit() else "".join(map(escape, match[0])), text)
    )


def fit(text: str, length: int) -> str:
    """The text, cut to `length` UTF-16 code units: a program may count a character outside the BMP as two."""
    fitting = shorten(text, length - 1)
    return fitting if len(fitting.encode("utf-16-le")) <= 2 * length else shorten(text, length // 2 - 1)
