"""Slack, by an incoming webhook whose address is the secret, or as an app with a token (docs.slack.dev: incoming
webhooks, Block Kit, chat.postMessage, chat.update).

An app updates its message when the request ends. Where each route of the request accepts it, its message has buttons
that decide; `web/pages/slack.py` takes their answers. Nobody approves by a message that does not show the whole call.

INVARIANT: nothing that an agent wrote becomes a mention, a link, an emoji or formatting. The blocks are `plain_text`;
in the message's own text, which Slack shows in its notification and parses, addresses are taken apart as well.
"""

import json
from collections.abc import Sequence
from typing import Any

from mcp_guard.core.model import SECOND, Json
from mcp_guard.core.visible_text import VisibleText, say
from mcp_guard.ledger.approvals.transitions import ENDED
from mcp_guard.notify.chat import facts, fit, unlinked
from mcp_guard.notify.kept import Kept
from mcp_guard.notify.message import Message
from mcp_guard.outbound import DeliveryError, Destination, check_success, post, post_json

SERVICE = "slack"
APPROVE, DENY, OPEN = "mcp-guard-approve", "mcp-guard-deny", "mcp-guard-open"
"""The ids of the buttons."""
MAX_FIELDS = 10
"""Fields of a section."""
MAX_HEADER, MAX_FIELD, MAX_TEXT = 150, 2000, 4000
"""Characters of a header block, of a field of a section, and of the message's own text. Slack refuses a longer block,
and cuts a text of over 40,000 characters; what is over 4,000 it does not show."""
MAX_BUTTON, MAX_CONFIRM_TITLE, MAX_CONFIRM_TEXT = 75, 100, 300
MAX_ENTITY = len("&amp;")
KEPT_SECONDS = 3600
"""How long a message is remembered after its request has expired."""
GONE = ("message_not_found", "channel_not_found", "is_archived", "cant_update_message")
"""Why a message cannot be updated any more."""
HINTS = {
    "not_in_channel": "invite the app to the channel: /invite @NAME",
    "channel_not_found": "use the channel's id, and invite the app to a private one",
    "missing_scope": "add the scope `chat:write` to the app, and install it again",
    "invalid_auth": "put the app's bot token (xoxb-…) where `token` points",
    "not_authed": "put the app's bot token (xoxb-…) where `token` points",
    "token_revoked": "install the app again, and put its new token where `token` points",
}


def send(destination: Destination, message: Message, kept: Kept | None) -> None:
    """`kept` is None for a webhook, which says nothing of the end. Raises: DeliveryError."""
    if destination.options.get("url") is not None:
        post_json(destination.secret("url"), json.dumps(make_body(message)).encode(), {}, destination.network)
        return
    assert kept is not None
    if message.event == ENDED:
        _update(destination, message, kept)
        return
    takes_votes = SERVICE in message.accepts and destination.options.get("signing_secret") is not None
    buttons = _deciding_buttons(message) if takes_votes else []
    body = make_body(message, buttons)
    answer = call_api(destination, "chat.postMessage", {"channel": destination.options["channel"], **body})
    if message.approval and not message.is_over:
        place: Json = {"channel": str(answer.get("channel", "")), "ts": str(answer.get("ts", ""))}
        place["buttons"] = [button["action_id"] for button in buttons]
        kept.add_message(message.approval, place, (message.expires + KEPT_SECONDS) * SECOND)


def _update(destination: Destination, message: Message, kept: Kept) -> None:
    for key, place in kept.messages(message.approval).items():
        try:
            where = {"channel": place["channel"], "ts": place["ts"]}
            call_api(destination, "chat.update", where | make_body(message))
        except SlackError as error:
            if error.code not in GONE:
                raise
        kept.forget_message(key)


class SlackError(DeliveryError):
    """Slack has refused a call of its API. `code` is its `error`."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code


def call_api(destination: Destination, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The answer to a call of Slack's Web API. Raises: DeliveryError."""
    headers = {
        "content-type": "application/json; charset=utf-8",
        "authorization": f"Bearer {destination.secret('token')}",
    }
    url = f"{destination.options['api']}/{method}"
    response = post(url, json.dumps(arguments).encode(), headers, destination.network)
    check_success(response)
    try:
        answer = json.loads(response.body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise DeliveryError(f"the answer to {method} is not Slack's")
    if answer.get("ok") is not True:
        code = fit(unlinked(str(answer.get("error"))), MAX_BUTTON)
        hint = f"; {HINTS[code]}" if code in HINTS else ""
        raise SlackError(code, f"Slack refused {method}: {code}{hint}")
    return answer


def make_body(message: Message, buttons: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The text and the blocks of a message, with these buttons beside that which opens the request."""
    fields = _fields(message)
    button = {"type": "button", "text": _plain(message.verb, MAX_BUTTON), "url": message.link, "action_id": OPEN}
    return {
        "text": _parsed(message.title),
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
            {"type": "actions", "elements": [button, *buttons]},
        ],
    }


def _deciding_buttons(message: Message) -> list[dict[str, Any]]:
    """Deny, and Approve if the message shows the whole call; only an approval is asked about again."""
    confirm = {
        "title": _plain("Approve?", MAX_CONFIRM_TITLE),
        "text": _plain(message.title, MAX_CONFIRM_TEXT),
        "confirm": _plain("Approve", 30),
        "deny": _plain("Cancel", 30),
    }
    approve = {"type": "button", "text": _plain("Approve", MAX_BUTTON), "action_id": APPROVE, "style": "primary"}
    deny = {"type": "button", "text": _plain("Deny", MAX_BUTTON), "action_id": DENY, "style": "danger"}
    is_whole = not message.omission and fit(message.title, MAX_HEADER) == message.title
    is_whole = is_whole and all(fit(field, MAX_FIELD) == field for field in _fields(message))
    approvals = [approve | {"value": message.approval, "confirm": confirm}] if is_whole else []
    return [*approvals, deny | {"value": message.approval}]


def _fields(message: Message) -> list[VisibleText]:
    return [say("{}:\n{}", name, value) for name, value in facts(message) if value]


def _plain(text: str, length: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": fit(text, length), "emoji": False}


def _parsed(text: str) -> str:
    fitting = fit(unlinked(text), MAX_TEXT // MAX_ENTITY)
    return fitting.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
