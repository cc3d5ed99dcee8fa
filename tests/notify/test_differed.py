"""Those who were asked to approve a call are told if it changed something else."""

import json
from dataclasses import replace

from mcp_guard.notify import push, slack, teams
from mcp_guard.notify.message import make_differed_message
from tests.notify.due import deliver_due
from tests.notify.receivers import web
from tests.notify.test_delivery import ASKED, INBOX, ask, harness, webhook
from tests.promises.harness import Harness, make_instance

__all__ = ["harness"]


async def test_approvers_are_told_that_something_else_happened(harness: Harness) -> None:
    tool = harness.upstream.catalog[ASKED.name]
    harness.upstream.catalog[ASKED.name] = replace(tool, rule=replace(tool.rule, confirm=True))
    id = await ask(harness)
    harness.approve(id)
    await harness.guard.call(make_instance(), ASKED)
    with web() as receiver:
        await deliver_due(webhook(harness, receiver))
    [posted] = receiver.posted
    document = json.loads(posted.body)
    assert document["type"] == "approval.differed"
    assert document["data"]["confirmation"] == {"finding": "differs", "missed": ["amount", "stage"]}
    assert b"a secret argument" not in posted.body

    approval = harness.store.approval(id)[0]
    message = make_differed_message(approval, harness.receipts("outcome")[-1], "m", INBOX, harness.clock.now())
    assert message.lines[0] == "The resource was read again: DIFFERS: amount, stage not as requested."
    assert "Open the request" in str(slack.make_body(message))
    assert b"Open the request" in teams.make_body(message)
    assert b"what has changed" in push.payload(message)
