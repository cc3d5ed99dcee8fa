"""Teams: an Adaptive Card for each request, and a second one for its end, in which nothing of an agent's is more than
text."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.notify import teams
from mcp_guard.notify.delivery import NotificationDispatcher
from mcp_guard.notify.message import make_message
from mcp_guard.settings import SecretReference
from tests.notify.due import deliver_due
from tests.notify.receivers import Web, web
from tests.notify.teams_workflow import check_message, texts
from tests.notify.test_delivery import INBOX, keep
from tests.notify.test_slack_app import ROUTE, Setup, open_setup

HOSTILE = (
    "[pay](https://evil.example) **now** <at>Alice</at> {{DATE(2026-01-01T00:00:00Z)}} ${secret} @{body()} "
    "https://evil.example mail@evil.example"
)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async for opened in open_setup(tmp_path, ROUTE):
        yield opened


def workflow(setup: Setup, receiver: Web) -> NotificationDispatcher:
    keep(setup.harness.folder / "teams", f"{receiver.url}/workflows/1?sig=secret")
    return setup.dispatcher("teams", url=SecretReference("file", "teams"))


async def test_card_says_who_what_and_why_and_opens_the_request(setup: Setup) -> None:
    with web(202) as receiver:
        id = await setup.ask()
        await deliver_due(workflow(setup, receiver))
    card = check_message(receiver.posted[0].body)
    words = "\n".join(texts(card))
    for part in ("agent needs approval: crm__update_deal on Deal 789", "Why: ", "people decide", "Risk: "):
        assert part in words
    assert card["actions"] == [
        {"type": "Action.OpenUrl", "title": "Review and decide", "url": f"{INBOX}/requests/{id}"}
    ]


async def test_end_of_a_request_is_a_second_card(setup: Setup) -> None:
    with web() as receiver:
        dispatcher = workflow(setup, receiver)
        id = await setup.ask()
        await deliver_due(dispatcher)
        setup.harness.approve(id, verdict="deny", rationale="too much")
        await deliver_due(dispatcher)
    card = check_message(receiver.posted[1].body)
    assert texts(card)[0] == "agent: the request was denied: crm__update_deal on Deal 789"
    assert 'Denied by Alice: "too much"' in texts(card)
    assert card["actions"][0]["title"] == "Open the request"


async def approval_of(setup: Setup, words: str) -> Approval:
    id = await setup.ask(ToolCallRequest("crm__update_deal", {"deal_id": words, "amount": 150}))
    approval: Approval = setup.harness.store.approval(id)[0]
    return approval


async def test_nothing_of_an_agent_is_a_link_a_mention_a_date_or_an_expression(setup: Setup) -> None:
    approval = await approval_of(setup, HOSTILE)
    message = make_message(approval, "requested", "msg_1", INBOX, setup.harness.clock.time)
    card = check_message(teams.make_body(message))
    assert "deal" not in card["fallbackText"]  # older clients read Markdown in it
    for text in texts(card):
        for markup in ("{{", "${", "@{", "<at", "</at", "://", "evil.example", "mail@"):
            assert markup not in text


@pytest.mark.parametrize("character", ["é", "<", "😀", "\u202e"])
async def test_card_keeps_the_size_that_teams_takes(setup: Setup, character: str) -> None:
    approval = await approval_of(setup, character * 9000)
    names = [f"field_{number}" for number in range(100)]
    subject = replace(
        approval.subject,
        reasons=(character * 9000,),
        arguments={name: character * 300 for name in names},
        notify_fields=tuple(names),
    )
    message = make_message(replace(approval, subject=subject), "requested", "msg_1", INBOX, setup.harness.clock.time)
    card = check_message(teams.make_body(message))
    assert json.dumps(card["actions"]).count(approval.id) == 1
    assert "not everything fits into this message" in texts(card)[-1]
