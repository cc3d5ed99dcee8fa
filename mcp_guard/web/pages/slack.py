"""Approve and Deny by the buttons of a Slack message, for requests whose routes all accept it (docs.slack.dev:
verifying requests from Slack, block_actions payloads). What is wrong with a vote is told to whoever pressed the button.

No key signs such a vote. It rests on what Slack says of the user, and on the signing secret that Slack and the guard
share.
"""

import hmac
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qs

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.drill_results import drill_lines
from mcp_guard.core.errors import ApprovalError, ConfigError, GuardError
from mcp_guard.core.model import SECOND, Json
from mcp_guard.core.visible_text import VisibleText, join, quote, say
from mcp_guard.notify.kept import MESSAGE
from mcp_guard.notify.slack import APPROVE, DENY, SERVICE, call_api
from mcp_guard.outbound import DeliveryError, Destination
from mcp_guard.secrets import read_secret
from mcp_guard.settings import NotifierSettings, SecretReference
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.kept_value import KeptValue, keep_secret

NAV: tuple[NavigationLink, ...] = ()
PATH = "/slack/interactions"
MAX_BODY_BYTES = 256 * 1024
"""The request repeats the whole message, as JSON in a form."""
WINDOW_SECONDS = 5 * 60
"""How old a request may be, or how far its time may be ahead."""
SIGNATURE = re.compile(r"v0=[0-9a-f]{64}")
VERDICTS = {APPROVE: "approve", DENY: "deny"}


def routes(console: Console) -> list[Route]:
    apps = tuple(
        notifier
        for notifier in console.settings.notifiers.values()
        if notifier.kind == SERVICE and notifier.options.get("signing_secret") is not None
    )
    folders = {app.options["signing_secret"]: app.base_dir for app in apps}
    kept = {secret: keep_secret(partial(read_secret, secret, here, os.environ)) for secret, here in folders.items()}
    return [Route(PATH, _SlackPage(console, apps, kept).take, methods=["POST"])] if apps else []


@dataclass(frozen=True, slots=True)
class Press:
    """Somebody has pressed a button of a message."""

    button: str
    approval: str
    user: str
    team: str
    channel: str
    message: str
    """The message's `ts`."""

    def reported(self) -> Json:
        return {"team": self.team, "user": self.user, "channel": self.channel, "message": self.message}


@dataclass(frozen=True, slots=True)
class _SlackPage:
    console: Console
    apps: tuple[NotifierSettings, ...]
    secrets: Mapping[SecretReference, KeptValue[str]]
    """The signing secrets of the apps."""

    async def take(self, request: Request) -> Response:
        """Slack wants an answer within three seconds, so what there is to say to the user is sent after it."""
        signers = await self._authenticate(request)
        press = read_press(await request.body())
        if press is None:
            return Response()  # the button that only opens the request
        try:
            notice = await self._vote(signers, press)
        except GuardError as error:
            notice = say("Nothing was recorded: {}", error.message)
            notice = say("{} ({})", notice, error.hint) if error.hint else notice
        say_it = BackgroundTask(tell, destination(signers[0]), press, notice) if notice else None
        return Response(background=say_it)

    async def _authenticate(self, request: Request) -> list[NotifierSettings]:
        """The notifiers of the app whose signing secret has signed the request, which is recent and was not taken
        before. No secret is read for a request that cannot be Slack's.

        Raises: HTTPException.
        """
        stamp = request.headers.get("x-slack-request-timestamp", "")
        signature = request.headers.get("x-slack-signature", "")
        now = self.console.now() // SECOND
        if not (stamp.isascii() and stamp.isdecimal() and len(stamp) < 12) or abs(now - int(stamp)) > WINDOW_SECONDS:
            raise HTTPException(403, "the request is not of these five minutes; is the clock right?")
        if not SIGNATURE.fullmatch(signature):
            raise HTTPException(403, "the request has no signature of Slack's")
        signed = b"v0:" + stamp.encode() + b":" + await request.body()
        signers, is_unread = [], False
        for app in self.apps:
            try:
                secret = await self.secrets[app.options["signing_secret"]].read()
            except ConfigError:
                is_unread = True
                continue
            if hmac.compare_digest(signature, "v0=" + hmac.digest(secret.encode(), signed, "sha256").hex()):
                signers.append(app)
        if not signers and is_unread:
            raise HTTPException(503, "a signing secret cannot be read; this says why: mcp-guard secrets list")
        if not signers:
            raise HTTPException(403, "the request is not signed with the app's signing secret")
        if not await self.console.proofs.use(SERVICE, signature, now, int(stamp) + WINDOW_SECONDS + 1):
            raise HTTPException(403, "the request was taken before")
        return signers

    async def _vote(self, signers: list[NotifierSettings], press: Press) -> VisibleText:
        """Record the vote. Returns what the user should know; empty if the message itself will say it.

        Raises: GuardError.
        """
        if (press.team, press.channel) not in [(app.options["team"], app.options["channel"]) for app in signers]:
            raise ApprovalError("the button was pressed in another workspace or channel than the configured one")
        approver = self.console.settings.slack_users.get((press.team, press.user))
        if approver is None:
            hint = f'an operator can add it to an approver: slack = "{press.team}/{press.user}"'
            raise ApprovalError(f"your Slack user {quote(press.user)} is not an approver's", hint)
        buttons = await self._buttons(press)
        if buttons is None:
            raise ApprovalError("the message is not about this request", "open the request and decide there")
        verdict = VERDICTS[press.button]
        if press.button not in buttons:
            raise ApprovalError(f"the message has no button to {verdict}", "open the request and decide there")
        op = self.console.votes.record_reported_op(press.approval, approver, verdict, SERVICE, press.reported())
        approval = await self.console.writer.submit(op)
        return join(" ", drill_lines(approval, approver)) or still_missing(approval)

    async def _buttons(self, press: Press) -> list[str] | None:
        """The buttons of this message; None if the guard has not posted it about this request."""
        items = await self.console.items.find_all(MESSAGE, press.approval, self.console.now())
        places = [json.loads(item.value) for item in items]
        here = [place for place in places if (place["channel"], place["ts"]) == (press.channel, press.message)]
        return here[0]["buttons"] if here else None


def read_press(body: bytes) -> Press | None:
    """The vote in a request of Slack's; None if no button that decides was pressed. Raises: HTTPException."""
    try:
        payload = json.loads(parse_qs(body.decode(), strict_parsing=True)["payload"][0])
        if payload["type"] != "block_actions":
            return None
        [action] = payload["actions"]
        if action["action_id"] not in VERDICTS:
            return None
        user, container = payload["user"], payload["container"]
        press = Press(
            button=action["action_id"],
            approval=action["value"],
            user=user["id"],
            team=user["team_id"],
            channel=container["channel_id"],
            message=container["message_ts"],
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HTTPException(400, "not a `block_actions` payload of Slack's") from None
    if not all(isinstance(value, str) and value for value in (press.approval, *press.reported().values())):
        raise HTTPException(400, "not a `block_actions` payload of Slack's")
    return press


def still_missing(approval: Approval) -> VisibleText:
    if approval.state is not ApprovalState.REQUESTED:
        return VisibleText("")
    return say("Your approval is recorded. Still needed on: {}", join(", ", map(quote, approval.missing_routes)))


def destination(app: NotifierSettings) -> Destination:
    return Destination(app.options, os.environ, app.base_dir, app.network)


def tell(app: Destination, press: Press, notice: str) -> None:
    """Show it to the user alone, below the message. A failure is not worth more than a missing notice."""
    block = {"type": "section", "text": {"type": "plain_text", "text": notice[:3000], "emoji": False}}
    arguments = {"channel": press.channel, "user": press.user, "text": "About your decision", "blocks": [block]}
    with suppress(DeliveryError):
        call_api(app, "chat.postEphemeral", arguments)
