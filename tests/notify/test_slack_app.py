"""Slack as an app: one message for each request, with buttons where its routes accept them, updated when it ends."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.approval import Route
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.notify.delivery import NotificationDispatcher
from mcp_guard.notify.kept import NotifierState
from mcp_guard.settings import NotifierSettings, SecretReference
from mcp_guard.shared_secret import SharedSecret
from mcp_guard.storage.items import Items
from mcp_guard.storage.rows import Delivery
from tests.notify.due import deliver_due
from tests.notify.slack_service import CHANNEL, TEAM, TOKEN, Slack, slack_service
from tests.notify.test_delivery import INBOX, keep
from tests.promises.harness import ALLOW, HOLD, SECOND, Harness, make_instance, open_harness, pending_id

ROUTE = Route("people", ("alice", "bob"), 3600 * SECOND, notify=("one",), follow=("one",))
ASKED = ToolCallRequest("crm__update_deal", {"deal_id": "789", "amount": 150})


@dataclass
class Setup:
    harness: Harness
    items: Items

    def dispatcher(self, kind: str, route: Route = ROUTE, **options: Any) -> NotificationDispatcher:
        ledger, state = self.harness.ledger, NotifierState(self.items, SharedSecret("s" * 32, "o"))
        notifiers = {"one": NotifierSettings(kind, options, self.harness.folder)}
        return NotificationDispatcher(
            ledger.writer, ledger.reader, {"people": route}, notifiers, INBOX, state, retry_seconds=(2, 2)
        )

    def app(self, service: Slack, **options: Any) -> NotificationDispatcher:
        keep(self.harness.folder / "token", TOKEN)
        keep(self.harness.folder / "signing", "secret")
        buttons: Json = {"signing_secret": SecretReference("file", "signing"), "team": TEAM}
        token = SecretReference("file", "token")
        return self.dispatcher("slack", token=token, channel=CHANNEL, api=service.url, **buttons, **options)

    async def ask(self, request: ToolCallRequest = ASKED) -> str:
        return pending_id(await self.harness.guard.call(make_instance(), request))

    def pass_time(self, seconds: int = 3) -> None:
        self.harness.clock.time += seconds * SECOND

    def deliveries(self) -> list[Delivery]:
        return list(self.harness.store.deliveries(self.harness.store.approvals()[0].id))


def notify_fields(harness: Harness, *names: str) -> None:
    """Have messages show these arguments of `crm__update_deal`."""
    tool = harness.upstream.catalog["crm__update_deal"]
    harness.upstream.catalog["crm__update_deal"] = replace(tool, rule=replace(tool.rule, notify_fields=names))
    harness.load(f"{ALLOW}\n{HOLD}")


async def open_setup(folder: Path, route: Route) -> AsyncIterator[Setup]:
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}", routes={"people": route})
    items = harness.ledger.engine.open_items(folder)
    yield Setup(harness, items)
    await items.close()
    await harness.ledger.reader.close()


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async for opened in open_setup(tmp_path, ROUTE):
        yield opened


@pytest.fixture
async def accepting(tmp_path: Path) -> AsyncIterator[Setup]:
    async for opened in open_setup(tmp_path, replace(ROUTE, accept=("slack",))):
        yield opened


def buttons(message: Json) -> list[str]:
    return [item["action_id"] for block in message["blocks"] for item in block.get("elements", ())]


async def test_message_is_posted_and_updated_when_the_request_is_decided(setup: Setup) -> None:
    with slack_service() as service:
        dispatcher = setup.app(service)
        id = await setup.ask()
        await deliver_due(dispatcher)
        assert buttons(service.only) == ["mcp-guard-open"]
        assert service.only["text"] == "agent needs approval: crm__update_deal on Deal 789"
        setup.harness.approve(id, rationale="fine <@U1> https://x.example")
        await deliver_due(dispatcher)
        assert [method for method, _ in service.called] == ["chat.postMessage", "chat.update"]
        text = json.dumps(service.only)
        assert "was approved" in text
        assert "Approved by Alice" in text
        assert service.only["text"].startswith("agent: the request was approved")
        assert buttons(service.only) == ["mcp-guard-open"]
    assert [(delivery.event, delivery.state) for delivery in setup.deliveries()] == [
        ("requested", "delivered"), ("ended", "delivered")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "fields", "whole"),
    [
        ({"stage": "won"}, ("stage",), True),
        ({"stage": "won", "amount": 1}, ("stage",), False),
        ({"stage": "x" * 300 + ", and pay"}, ("stage",), False),
        ({"stage": "\u202e" * 290}, ("stage",), False),  # each of them takes eight characters
        ({"deal_id": "7" * 140, "stage": "won"}, ("stage",), False),
    ],
)
async def test_nobody_approves_by_a_message_that_does_not_show_the_whole_call(
    accepting: Setup, arguments: Json, fields: tuple[str, ...], whole: bool
) -> None:
    with slack_service() as service:
        notify_fields(accepting.harness, *fields)
        await accepting.ask(ToolCallRequest("crm__update_deal", {"deal_id": "789"} | arguments))
        await deliver_due(accepting.app(service))
        approve = ["mcp-guard-approve"] if whole else []
        assert buttons(service.only) == ["mcp-guard-open", *approve, "mcp-guard-deny"]
        assert ("1 argument not shown in full here" in json.dumps(service.only)) is (
            "amount" in arguments or ", and pay" in str(arguments)
        )


async def test_message_has_deciding_buttons_only_where_the_route_accepts_them(accepting: Setup) -> None:
    with slack_service() as service:
        notify_fields(accepting.harness, "amount")
        dispatcher = accepting.app(service)
        id = await accepting.ask()
        await deliver_due(dispatcher)
        assert buttons(service.only) == ["mcp-guard-open", "mcp-guard-approve", "mcp-guard-deny"]
        values = [item.get("value") for item in service.only["blocks"][-1]["elements"]]
        assert values == [None, id, id]
        accepting.pass_time(3601)
        await deliver_due(dispatcher)
        assert buttons(service.only) == ["mcp-guard-open"]
        assert "has expired" in service.only["text"]


async def test_slack_decides_when_it_is_asked_again_and_its_errors_are_shown(setup: Setup) -> None:
    with slack_service(30, "not_in_channel") as service:
        dispatcher = setup.app(service)
        await setup.ask()
        await deliver_due(dispatcher)
        [requested, _] = setup.deliveries()
        assert (requested.state, requested.note) == ("due", "the receiver answered HTTP 429")
        setup.pass_time(10)
        await deliver_due(dispatcher)
        assert service.called == []  # although the wait of the dispatcher is over
        setup.pass_time(21)
        await deliver_due(dispatcher)
        note = "Slack refused chat.postMessage: not_in_channel; invite the app to the channel: /invite @NAME"
        assert setup.deliveries()[0].note == note
        setup.pass_time()
        await deliver_due(dispatcher)
        assert setup.deliveries()[0].state == "delivered"
    assert TOKEN not in note


async def test_end_is_not_reported_if_the_request_was_not(setup: Setup) -> None:
    with slack_service() as service:
        dispatcher = setup.app(service)
        setup.harness.approve(await setup.ask())
        await deliver_due(dispatcher)
        setup.pass_time()
        await deliver_due(dispatcher)
        assert service.called == []
    assert [(delivery.event, delivery.state) for delivery in setup.deliveries()] == [
        ("requested", "failed"), ("ended", "failed")
    ]  # fmt: skip


async def test_message_that_somebody_deleted_is_not_updated_again(setup: Setup) -> None:
    with slack_service() as service:
        dispatcher = setup.app(service)
        id = await setup.ask()
        await deliver_due(dispatcher)
        service.messages.clear()
        setup.harness.approve(id, verdict="deny")
        await deliver_due(dispatcher)
    assert setup.deliveries()[1].state == "delivered"
    assert await setup.items.find_all("message", None, setup.harness.clock.time) == []
