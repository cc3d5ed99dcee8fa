"""Votes by Slack's buttons: signed by Slack, recent, once, by an approver, and only where every route accepts them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2 as httpx
import pytest

from mcp_guard.core.approval import ApprovalState, Route
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.notify.delivery import NotificationDispatcher
from mcp_guard.notify.start import make_dispatcher
from tests.notify.due import deliver_due
from tests.notify.slack_service import CHANNEL, SECRET, TEAM, TOKEN, Slack, sign, slack_service
from tests.notify.test_delivery import keep
from tests.notify.test_slack_app import buttons, notify_fields
from tests.promises.harness import ALLOW, HOLD, SECOND, Harness, make_instance, open_harness, pending_id
from tests.web.pages_in_process import ORIGIN, pages_over

APPROVE, DENY = "mcp-guard-approve", "mcp-guard-deny"
SECOND_CHANNEL, SECOND_TEAM, SECOND_SECRET = "C0SECOND", "T0SECOND", "b" * 32
ROUTES = {
    "people": Route(
        "people", ("alice", "bob", "carol"), 3600 * SECOND, notify=("app",), follow=("app",), accept=("slack",)
    ),
    "keys": Route("keys", ("alice",), 3600 * SECOND, notify=("app",), follow=("app",)),
}
BOTH = '@id("both") @require_approval("people,keys") forbid (principal, action == Action::"crm__note", resource);'
CONFIG = f"""
[guard]
policies = "policies.cedar"
[approvers.alice]
name = "Alice"
slack = "U0ALICE"
[approvers.bob]
name = "Bob"
slack = "U0BOB"
[approvers.carol]
name = "Carol"
[routes.people]
approvers = ["alice", "bob", "carol"]
notify = ["app"]
accept = ["slack"]
[notifiers.app]
kind = "slack"
token = {{ file = "token" }}
channel = "{CHANNEL}"
signing_secret = {{ file = "signing" }}
team = "{TEAM}"
api = "API"
MORE
[web]
url = "{ORIGIN}"
"""


@dataclass
class Pages:
    """The pages and the dispatcher over a real ledger, and Slack."""

    harness: Harness
    client: httpx.AsyncClient
    dispatcher: NotificationDispatcher
    slack: Slack
    routes: dict[str, Route]

    async def ask(self, request: ToolCallRequest | None = None) -> str:
        """Make a call that is held, and wait for its message; returns the request's id."""
        id = pending_id(await self.harness.guard.call(make_instance(), request or call("1")))
        await deliver_due(self.dispatcher)
        return id

    @property
    def ts(self) -> str:
        return list(self.slack.messages)[-1]

    def now(self) -> float:
        return self.harness.clock.time / SECOND

    async def press(self, action: str, presser: str = "U0ALICE", **changes: Any) -> int:
        body, _ = self.slack.press(self.ts, action, presser, **changes)
        return await self.post(*sign(body, self.now()))

    async def post(self, body: bytes, headers: dict[str, str]) -> int:
        return (await self.client.post("/slack/interactions", content=body, headers=headers)).status_code

    def state(self, id: str) -> ApprovalState:
        state: ApprovalState = self.harness.store.approval(id)[0].state
        return state

    async def press_in(self, channel: str, team: str, user: str, secret: str) -> int:
        """Approve by the message in this channel."""
        [ts] = [ts for ts, message in self.slack.messages.items() if message["channel"] == channel]
        place: Json = {"container": {"channel_id": channel, "message_ts": ts}, "user": {"id": user, "team_id": team}}
        body, _ = self.slack.press(ts, APPROVE, **place)
        return await self.post(*sign(body, self.now(), secret))

    @property
    def told(self) -> str:
        """What only the user has seen last."""
        method, arguments = self.slack.called[-1]
        assert method == "chat.postEphemeral"
        return str(arguments["blocks"][0]["text"]["text"])


def call(deal: str) -> ToolCallRequest:
    return ToolCallRequest("crm__update_deal", {"deal_id": deal, "amount": 150})


def second(team: str, secret: str) -> str:
    """A notifier for another channel."""
    text = CONFIG[CONFIG.index("[notifiers.app]") : CONFIG.index("MORE")].replace("[notifiers.app]", "[notifiers.two]")
    return text.replace(CHANNEL, SECOND_CHANNEL).replace(TEAM, team).replace('{ file = "signing" }', secret)


@asynccontextmanager
async def open_pages(folder: Path, more: str = "", quorum: int = 1) -> AsyncIterator[Pages]:
    notify = ("app", "two") if more else ("app",)
    people = replace(ROUTES["people"], notify=notify, follow=notify, quorum=quorum)
    routes = ROUTES | {"people": people}
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}", routes=routes)
    notify_fields(harness, "amount")
    keep(folder / "token", TOKEN)
    keep(folder / "signing", SECRET)
    keep(folder / "signing-two", SECOND_SECRET)
    with slack_service() as slack:
        slack.channels = (CHANNEL, SECOND_CHANNEL)
        text = CONFIG.replace("MORE", more).replace("API", slack.url).replace('slack = "', f'slack = "{TEAM}/')
        async with pages_over(harness, folder, text, routes) as made:
            client, ledger = made.client(), harness.ledger
            del client.headers["origin"]  # Slack is no browser
            dispatcher = make_dispatcher(made.console.settings, ledger.writer, ledger.reader, made.console.items)
            yield Pages(harness, client, dispatcher, slack, routes)


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    async with open_pages(tmp_path) as opened:
        yield opened


async def test_approve_button_approves_and_the_receipt_says_by_what(pages: Pages, tmp_path: Path) -> None:
    id = await pages.ask()
    assert await pages.press(APPROVE) == 200
    assert pages.state(id) is ApprovalState.APPROVED
    [receipt] = pages.harness.receipts("approval.granted")
    assert receipt["method"] == "slack"
    assert receipt["reported"] == {"team": TEAM, "user": "U0ALICE", "channel": CHANNEL, "message": pages.ts}
    assert receipt["approver"] == "alice"
    assert "key" not in receipt
    assert "signature" not in receipt
    await deliver_due(pages.dispatcher)
    assert "Approved by Alice (by Slack, not by a key)" in json.dumps(pages.slack.only)
    reply = await pages.harness.guard.call(make_instance(), call("1"))
    assert len(pages.harness.upstream.writes()) == 1, reply
    [intent] = [intent for intent in pages.harness.receipts("intent") if "approval" in intent]
    assert intent["approval"]["approvers"][0]["method"] == "slack"


async def test_deny_button_denies_at_once(pages: Pages) -> None:
    id = await pages.ask()
    assert await pages.press(DENY, "U0BOB") == 200
    assert pages.state(id) is ApprovalState.REQUESTED  # bob owns the agent: his own request
    assert "may not decide on their own request" in pages.told
    assert await pages.press(DENY) == 200
    assert pages.state(id) is ApprovalState.DENIED


@pytest.mark.parametrize("fault", ["signature", "secret", "body", "old", "ahead", "no time", "again"])
async def test_request_that_slack_did_not_sign_just_now_is_refused(pages: Pages, fault: str) -> None:
    id = await pages.ask()
    body, _ = pages.slack.press(pages.ts, APPROVE)
    at = {"old": pages.now() - 302, "ahead": pages.now() + 310}.get(fault, pages.now())
    body, headers = sign(body, at, "another" if fault == "secret" else SECRET)
    if fault == "signature":
        headers["x-slack-signature"] = "v0=" + "0" * 64
    if fault == "no time":
        del headers["x-slack-request-timestamp"]
    if fault == "body":
        body = body.replace(b"U0ALICE", b"U0CAROL")
    if fault == "again":
        assert await pages.post(body, headers) == 200
        pages.harness.clock.time += SECOND
        await pages.harness.guard.call(make_instance(), call("1"))
        id = await pages.ask(call("2"))
    assert await pages.post(body, headers) == 403
    assert pages.state(id) is ApprovalState.REQUESTED


@pytest.mark.parametrize(
    ("user", "changes", "problem"),
    [
        ("U0STRANGER", {}, "is not an approver's"),
        ("U0ALICE", {"user": {"id": "U0ALICE", "team_id": "T0OTHER"}}, "another workspace"),
        ("U0ALICE", {"container": {"channel_id": "C0OTHER", "message_ts": "1.1"}}, "another workspace or channel"),
        ("U0ALICE", {"container": {"channel_id": CHANNEL, "message_ts": "1.1"}}, "is not about this request"),
    ],
)
async def test_vote_by_somebody_else_or_elsewhere_is_refused_and_said(
    pages: Pages, user: str, changes: dict[str, Any], problem: str
) -> None:
    id = await pages.ask()
    assert await pages.press(APPROVE, user, **changes) == 200
    assert pages.state(id) is ApprovalState.REQUESTED
    if changes.get("container", {}).get("channel_id") != "C0OTHER":  # where the guard cannot write
        assert problem in pages.told


async def test_button_of_another_request_does_not_decide_this_one(pages: Pages) -> None:
    first = await pages.ask()
    second = await pages.ask(call("2"))
    body, _ = pages.slack.press(pages.ts, APPROVE)
    body = body.replace(second.encode(), first.encode())
    await pages.post(*sign(body, pages.now()))
    assert pages.state(first) is pages.state(second) is ApprovalState.REQUESTED
    assert "is not about this request" in pages.told


async def test_request_of_a_route_that_does_not_accept_slack_has_no_buttons_and_takes_no_vote(pages: Pages) -> None:
    pages.harness.load(ALLOW + BOTH)
    id = await pages.ask(ToolCallRequest("crm__note", {"text": "x"}))
    assert buttons(pages.slack.only) == ["mcp-guard-open"]
    forged = {"action_id": APPROVE, "value": id, "type": "button"}
    body, _ = pages.slack.press(pages.ts, "mcp-guard-open", actions=[forged])
    assert await pages.post(*sign(body, pages.now())) == 200
    assert pages.state(id) is ApprovalState.REQUESTED
    assert "the message has no button to approve" in pages.told


async def test_button_of_a_route_that_accepts_slack_no_more_is_refused(pages: Pages) -> None:
    id = await pages.ask()
    pages.routes["people"] = replace(pages.routes["people"], accept=())
    assert await pages.press(APPROVE) == 200
    assert pages.state(id) is ApprovalState.REQUESTED
    assert "route `people` accepts no votes by Slack" in pages.told


async def test_link_button_and_other_interactions_are_acknowledged_and_do_nothing(pages: Pages) -> None:
    id = await pages.ask()
    before = list(pages.slack.called)
    assert await pages.press("mcp-guard-open") == 200
    for payload, status in (({"type": "view_submission"}, 200), ({}, 400), ([], 400), ({"type": "block_actions"}, 400)):
        body = urlencode({"payload": json.dumps(payload)}).encode()
        assert await pages.post(*sign(body, pages.now())) == status
    assert await pages.post(*sign(b"{}", pages.now())) == 400
    assert pages.slack.called == before
    assert pages.state(id) is ApprovalState.REQUESTED


async def test_votes_by_slack_and_by_keys_make_a_quorum_together(pages: Pages) -> None:
    two = {"people": replace(ROUTES["people"], quorum=2)}
    pages.harness.guard = replace(
        pages.harness.guard, approvals=replace(pages.harness.ledger.approvals, routes=ROUTES | two)
    )
    id = await pages.ask()
    assert await pages.press(APPROVE) == 200
    assert pages.told == "Your approval is recorded. Still needed on: people"
    assert await pages.press(APPROVE) == 200
    assert "`alice` has already voted" in pages.told
    pages.harness.approve(id, "carol")
    assert pages.state(id) is ApprovalState.APPROVED


async def test_second_workspace_does_not_vote_as_the_people_of_the_first(tmp_path: Path) -> None:
    async with open_pages(tmp_path, second(SECOND_TEAM, '{ file = "signing-two" }'), quorum=2) as pages:
        id = await pages.ask()
        for user in ("U0ALICE", "U0CAROL"):
            assert await pages.press_in(SECOND_CHANNEL, SECOND_TEAM, user, SECOND_SECRET) == 200
            assert f"your Slack user {user} is not an approver's" in pages.told
            assert f'slack = "{SECOND_TEAM}/{user}"' in pages.told
        assert pages.harness.receipts("approval.granted") == []
        assert pages.state(id) is ApprovalState.REQUESTED


async def test_one_app_takes_votes_in_each_of_its_channels(tmp_path: Path) -> None:
    async with open_pages(tmp_path, second(TEAM, '{ file = "signing" }')) as pages:
        id = await pages.ask()
        assert await pages.press_in(SECOND_CHANNEL, TEAM, "U0ALICE", SECRET) == 200
        assert pages.state(id) is ApprovalState.APPROVED


async def test_requests_without_a_signature_run_the_command_of_a_secret_once_for_all(tmp_path: Path) -> None:
    count = tmp_path / "count"
    command = f"echo x >> {count}; sleep 0.1; cat {tmp_path}/signing-two"
    async with open_pages(tmp_path, second(SECOND_TEAM, f'{{ command = ["sh", "-c", "{command}"] }}')) as pages:
        body, headers = sign(b"payload=x", pages.now(), "of nobody")
        malformed = await pages.post(body, headers | {"x-slack-signature": "v0=00"})
        assert (malformed, count.exists()) == (403, False)
        assert set(await asyncio.gather(*(pages.post(body, headers) for _ in range(20)))) == {403}
        assert count.read_text() == "x\n"


async def test_secret_that_cannot_be_read_is_said_and_stops_no_other_app(tmp_path: Path) -> None:
    async with open_pages(tmp_path, second(SECOND_TEAM, '{ file = "nowhere" }')) as pages:
        id = await pages.ask()
        assert await pages.press_in(SECOND_CHANNEL, SECOND_TEAM, "U0ALICE", SECOND_SECRET) == 503
        assert await pages.press_in(CHANNEL, TEAM, "U0ALICE", SECRET) == 200
        assert pages.state(id) is ApprovalState.APPROVED


async def test_approval_by_a_message_that_shows_not_everything_is_refused(pages: Pages) -> None:
    notify_fields(pages.harness)
    id = await pages.ask()
    assert buttons(pages.slack.only) == ["mcp-guard-open", DENY]
    forged = {"action_id": APPROVE, "value": id, "type": "button"}
    body, _ = pages.slack.press(pages.ts, DENY, actions=[forged])
    assert await pages.post(*sign(body, pages.now())) == 200
    assert pages.state(id) is ApprovalState.REQUESTED
    assert "the message has no button to approve" in pages.told
    assert await pages.press(DENY) == 200
    assert pages.state(id) is ApprovalState.DENIED
