"""Notifications to real receivers: their content, signatures and retries, sent once and never delaying a call."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mcp_guard.core.approval import ApprovalState, Route
from mcp_guard.core.model import Json, Task, ToolCallRequest
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol, remove
from mcp_guard.ledger.approvals.transitions import queue_notifications
from mcp_guard.notify import NOTIFIERS, slack
from mcp_guard.notify.delivery import READ_AT_ONCE, SENT_AT_ONCE, NotificationDispatcher
from mcp_guard.notify.message import make_message
from mcp_guard.outbound import Destination
from mcp_guard.secrets import NETWORK_VARIABLES, TOOL_CERTIFICATES
from mcp_guard.settings import NotifierSettings, SecretReference
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import Delivery
from tests.live.running_guard import ALLOW_ALL, Client, cli, scripted, write_config
from tests.notify.due import deliver_due
from tests.notify.receivers import Web, smtp, web
from tests.promises.harness import ALLOW, HOLD, ROUTES, SECOND, Harness, make_instance, open_harness, pending_id

T = TypeVar("T")
ASKED = ToolCallRequest("crm__update_deal", {"deal_id": "789", "amount": 150, "stage": "a secret argument"})
INBOX = "http://localhost:8765"
KEY = b"0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    yield harness
    await harness.ledger.reader.close()


def keep(path: Path, secret: str) -> None:
    """Write a secret to a private file."""
    path.touch(0o600)
    path.write_text(secret)


def dispatcher(harness: Harness, kind: str, **options: Any) -> NotificationDispatcher:
    notifiers = {"one": NotifierSettings(kind, options, harness.folder)}
    writer, reader = harness.ledger.writer, harness.ledger.reader
    return NotificationDispatcher(writer, reader, ROUTES, notifiers, INBOX, retry_seconds=(1, 1))


async def ask(harness: Harness) -> str:
    """Make a new request with one message due for the notifier `one`."""
    id = pending_id(await harness.guard.call(make_instance(), ASKED))
    approval = harness.store.approval(id)[0]
    route = replace(ROUTES["people"], notify=("one",))
    harness.ledger.writer.run(lambda tx: queue_notifications(tx, approval, "requested", [route]))
    return id


async def deliver(harness: Harness, carrier: NotificationDispatcher, rounds: int = 1) -> Delivery:
    """Run some rounds, each after all retry delays; returns the delivery."""

    for _ in range(rounds):
        await deliver_due(carrier)
        harness.clock.time += 2 * SECOND
    [delivery] = harness.store.deliveries(harness.store.approvals()[0].id)
    assert isinstance(delivery, Delivery)
    return delivery


def webhook(harness: Harness, receiver: Web) -> NotificationDispatcher:
    keep(harness.folder / "secret", SECRET + "\n")
    return dispatcher(harness, "webhook", url=f"{receiver.url}/hook", secret=SecretReference("file", "secret"))


async def test_webhook_is_signed_per_standard_webhooks(harness: Harness) -> None:
    with web() as receiver:
        id = await ask(harness)
        assert (await deliver(harness, webhook(harness, receiver))).state == "delivered"
    [posted] = receiver.posted
    headers = posted.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + posted.body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    document = json.loads(posted.body)
    assert document["type"] == "approval.requested"
    assert document["data"]["approval"] == id
    assert document["data"]["link"] == f"{INBOX}/requests/{id}"
    assert document["data"]["reasons"] == ["people decide"]
    assert b"a secret argument" not in posted.body


async def test_failed_delivery_is_shown_and_retried(harness: Harness) -> None:
    with web(500, 302) as receiver:
        await ask(harness)
        carrier = webhook(harness, receiver)
        first = await deliver(harness, carrier)
        assert (first.state, first.attempts, first.note) == ("due", 1, "the receiver answered HTTP 500")
        assert "answered HTTP 302, a redirect to `" in (await deliver(harness, carrier)).note  # which is not followed
        last = await deliver(harness, carrier)
    assert (last.state, last.attempts) == ("delivered", 3)
    assert len({posted.headers["webhook-id"] for posted in receiver.posted}) == 1  # so that a receiver can tell
    assert [posted.path for posted in receiver.posted] == ["/hook"] * 3


async def test_delivery_fails_after_the_last_attempt(harness: Harness) -> None:
    await ask(harness)
    with web() as receiver:
        dead = webhook(harness, receiver)
    delivery = await deliver(harness, dead, rounds=4)
    assert (delivery.state, delivery.attempts) == ("failed", 3)
    assert delivery.note.startswith("the receiver could not be reached")
    assert "127.0.0.1" not in delivery.note


async def test_decided_request_is_not_notified(harness: Harness) -> None:
    with web() as receiver:
        harness.approve(await ask(harness))
        assert (await deliver(harness, webhook(harness, receiver))).note == "decided before the message was sent"
    assert receiver.posted == []


async def test_two_dispatchers_deliver_once(harness: Harness) -> None:
    with web() as receiver:
        await ask(harness)
        first, second = webhook(harness, receiver), webhook(harness, receiver)

        await asyncio.gather(deliver_due(first), deliver_due(second))
    assert len(receiver.posted) == 1


async def test_slack_message_has_blocks_and_no_mentions(harness: Harness) -> None:
    with web() as receiver:
        keep(harness.folder / "slack", f"{receiver.url}/T0/B0/secret")
        asked = ToolCallRequest("crm__update_deal", {"deal_id": "<!channel>", "amount": 150})
        id = pending_id(await harness.guard.call(make_instance(), asked))
        approval = harness.store.approval(id)[0]
        route = replace(ROUTES["people"], notify=("one",))
        harness.ledger.writer.run(lambda tx: queue_notifications(tx, approval, "requested", [route]))
        assert (
            await deliver(harness, dispatcher(harness, "slack", url=SecretReference("file", "slack")))
        ).state == "delivered"
    document = json.loads(receiver.posted[0].body)
    assert [block["type"] for block in document["blocks"]] == ["header", "section", "actions"]
    assert document["blocks"][2]["elements"][0]["url"] == f"{INBOX}/requests/{id}"
    assert "<!channel>" not in document["text"]
    assert "&lt;!channel&gt;" in document["text"]


@pytest.mark.parametrize("character", ["é", "<", ".a", "😀", "\u202e"])
async def test_slack_message_keeps_slacks_limits(harness: Harness, character: str) -> None:
    """Of block texts (Block Kit: header 150, fields 2000) and of the message's text, in UTF-16 code units."""
    with web() as receiver:
        keep(harness.folder / "slack", f"{receiver.url}/T0/B0/secret")
        asked = ToolCallRequest("crm__update_deal", {"deal_id": "<!channel> " + character * 9000, "amount": 150})
        id = pending_id(await harness.guard.call(make_instance(), asked))
        approval = harness.store.approval(id)[0]
        approval = replace(approval, subject=replace(approval.subject, reasons=(character * 9000,)))
        message = make_message(approval, "requested", "msg_1", INBOX, harness.clock.time)
        slack.send(Destination({"url": SecretReference("file", "slack")}, {}, harness.folder), message, None)
    document = json.loads(receiver.posted[0].body)
    header, section, _ = document["blocks"]
    assert units(header["text"]["text"]) <= 150
    assert max(units(field["text"]) for field in section["fields"]) <= 2000
    assert units(document["text"]) <= 4000
    assert "<!" not in document["text"]
    assert max(map(units, (message.title, *message.lines))) < 16_000


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def mail_options(port: int) -> Json:
    return {
        "host": "127.0.0.1", "port": port, "sender": "guard@example.com", "to": ("a@example.com", "b@example.com"),
        "starttls": False, "user": None, "password": None,
    }  # fmt: skip


async def test_email_is_sent_by_smtp(harness: Harness) -> None:
    with smtp() as (port, mail):
        id = await ask(harness)
        assert (await deliver(harness, dispatcher(harness, "email", **mail_options(port)))).state == "delivered"
    [message] = mail
    assert message["To"] == "a@example.com, b@example.com"
    assert message["Subject"] == "agent needs approval: crm__update_deal on Deal 789"
    body = str(message.get_payload(decode=True))
    assert f"{INBOX}/requests/{id}" in body
    assert "a secret argument" not in body


ENROLLED = NewKey("ed25519", bytes(range(32)), {})


async def deliver_enrolment(harness: Harness, carrier: NotificationDispatcher, rounds: int = 1) -> Delivery:
    """Enrol a key for the approver `dana`, and deliver the message about it."""
    enrol(harness.ledger.writer, Approver("dana", "Dana <!channel>\n"), ENROLLED, ("one",))
    for _ in range(rounds):
        await deliver_due(carrier)
        harness.clock.time += 2 * SECOND
    [delivery] = harness.store.deliveries(ENROLLED.id)
    assert isinstance(delivery, Delivery)
    return delivery


async def test_enrolment_is_reported_by_email(harness: Harness) -> None:
    with smtp() as (port, mail):
        delivery = await deliver_enrolment(harness, dispatcher(harness, "email", **mail_options(port)))
        assert delivery.state == "delivered"
    [message] = mail
    assert message["Subject"].startswith("New key file for approver ")
    body = str(message.get_payload(decode=True))
    for words in ("by the operator, on the command line", f"mcp-guard approvers remove dana {ENROLLED.id} --why TEXT"):
        assert words in body


async def test_enrolment_is_reported_in_slack_without_mentions(harness: Harness) -> None:
    with web() as receiver:
        keep(harness.folder / "slack", f"{receiver.url}/T0/B0/secret")
        carrier = dispatcher(harness, "slack", url=SecretReference("file", "slack"))
        assert (await deliver_enrolment(harness, carrier)).state == "delivered"
    document = json.loads(receiver.posted[0].body)
    assert document["blocks"][2]["elements"][0]["url"] == f"{INBOX}/keys"
    assert ENROLLED.id in json.dumps(document["blocks"][1])
    assert "<!channel>" not in document["text"]


async def test_enrolment_is_reported_again_after_a_failure_and_also_if_the_key_was_removed(harness: Harness) -> None:
    with web(500) as receiver:
        carrier = webhook(harness, receiver)
        assert (await deliver_enrolment(harness, carrier)).state == "due"
        remove(harness.ledger.writer, "dana", ENROLLED.id, "not hers")
        await deliver_due(carrier)
    [_, posted] = [json.loads(posted.body) for posted in receiver.posted]
    assert posted["type"] == "approver.enrolled"
    assert posted["data"]["authorized_by"] == "terminal"
    assert harness.store.deliveries(ENROLLED.id)[0].state == "delivered"


async def test_email_is_not_sent_without_starttls(harness: Harness) -> None:
    with smtp() as (port, mail):
        await ask(harness)
        delivery = await deliver(harness, dispatcher(harness, "email", **mail_options(port) | {"starttls": True}))
    assert "SMTPNotSupportedError" in delivery.note
    assert mail == []


async def test_command_gets_json_on_stdin_and_no_environment(harness: Harness) -> None:
    script = harness.folder / "notify.sh"
    script.write_text("#!/bin/sh\ncat > got.json\nenv > got.env\n")
    script.chmod(0o700)
    id = await ask(harness)
    assert (await deliver(harness, dispatcher(harness, "command", command=("./notify.sh",)))).state == "delivered"
    document = json.loads((harness.folder / "got.json").read_text())
    assert document["approval"] == id
    assert "needs approval" in document["title"]
    assert {line.split("=")[0] for line in (harness.folder / "got.env").read_text().splitlines()} <= {
        "PATH", "HOME", "LANG", "PWD", "SHLVL", "_", "OLDPWD", *NETWORK_VARIABLES, *TOOL_CERTIFICATES,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "note"),
    [
        ("command", {"command": ("false",)}, "`false` exited with status 1"),
        ("command", {"command": ("./nonesuch",)}, "cannot run `./nonesuch`"),
        ("webhook", {"url": "http://x", "secret": SecretReference("env", "NONESUCH")}, "`NONESUCH` is not set"),
        ("slack", {"url": SecretReference("file", "nonesuch")}, "cannot read `nonesuch`"),
    ],
)
async def test_failed_delivery_says_why(harness: Harness, kind: str, options: Json, note: str) -> None:
    await ask(harness)
    assert note in (await deliver(harness, dispatcher(harness, kind, **options))).note


async def test_desktop_notification_uses_notify_send(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is our own script: there is no desktop here."""
    script = harness.folder / "notify-send"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {harness.folder}/said\n')
    script.chmod(0o700)
    monkeypatch.setenv("PATH", f"{harness.folder}:/usr/bin:/bin")
    monkeypatch.setattr("sys.platform", "linux")
    await ask(harness)
    assert (await deliver(harness, dispatcher(harness, "desktop"))).state == "delivered"
    assert "agent needs approval: crm__update_deal on Deal 789" in (harness.folder / "said").read_text()


async def test_desktop_notification_has_no_markup_and_no_escapes(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an agent writes is neither an option, nor markup, nor an escape that notify-send replaces."""
    script = harness.folder / "notify-send"
    script.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {harness.folder}/said\n')
    script.chmod(0o700)
    monkeypatch.setenv("PATH", f"{harness.folder}:/usr/bin:/bin")
    monkeypatch.setattr("sys.platform", "linux")
    hostile = '<a href="https://evil.example">ok</a>\\n\\033[2J\u202e -- --icon=x'
    asked = ToolCallRequest("crm__update_deal", {"deal_id": hostile, "amount": 150, "guard_ticket": hostile})
    id = pending_id(await harness.guard.call(make_instance(task=Task()), asked))
    approval = harness.store.approval(id)[0]
    route = replace(ROUTES["people"], notify=("one",))
    harness.ledger.writer.run(lambda tx: queue_notifications(tx, approval, "requested", [route]))
    assert (await deliver(harness, dispatcher(harness, "desktop"))).state == "delivered"
    name, dashes, _, body = (harness.folder / "said").read_text().removesuffix("\0").split("\0")
    assert (name, dashes) == ("--app-name=mcp-guard", "--")
    assert "<" not in body
    assert "&lt;a href=" in body
    assert not [match for match in re.findall(r"\\+", body) if len(match) % 2]
    assert "\\\\u{202e}" in body


async def test_a_receiver_that_hangs_has_few_threads_and_delays_no_other_notifier(harness: Harness) -> None:
    connections: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}/"
    with web() as receiver:
        keep(harness.folder / "secret", SECRET)
        keep(harness.folder / "slack", receiver.url)
        other = NotifierSettings("slack", {"url": SecretReference("file", "slack")}, harness.folder)
        carrier = dispatcher(harness, "webhook", url=url, secret=SecretReference("file", "secret"))
        carrier = replace(carrier, notifiers={**carrier.notifiers, "other": other})
        approval = harness.store.approval(await ask(harness))[0]
        for notifier in ["one"] * READ_AT_ONCE + ["other"]:
            route = replace(ROUTES["people"], notify=(notifier,))
            harness.ledger.writer.run(
                partial(queue_notifications, approval=approval, event="requested", routes=[route])
            )
        threads, running = threading.active_count(), asyncio.create_task(carrier.run())
        async with asyncio.timeout(20):
            while not receiver.posted or len(connections) < SENT_AT_ONCE:
                carrier.wake()
                await asyncio.sleep(0)
        for _ in range(3):
            carrier.wake()
            await harness.ledger.reader.read(lambda store: store.open_ids())
        assert len(connections) == SENT_AT_ONCE
        assert threading.active_count() - threads < 2 * SENT_AT_ONCE
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    for connection in connections:
        connection.close()
    hanging.close()


def fail(*_: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_message_without_a_thread_is_sent_later(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    with web() as receiver:
        await ask(harness)
        carrier = replace(webhook(harness, receiver), reader=OfStore(harness.store))
        with monkeypatch.context() as threadless:
            threadless.setattr(threading.Thread, "start", fail)
            first = await deliver(harness, carrier)
        assert (first.state, first.attempts) == ("due", 1)
        assert first.note == "the guard cannot send it: can't start new thread"
        assert (await deliver(harness, carrier)).state == "delivered"


async def test_a_defect_costs_one_delivery_and_is_shown_with_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_guard.notify.delivery.make_enrolment_message", fail)
    with web() as receiver:
        id, carrier = await ask(harness), webhook(harness, receiver)
        delivery = await deliver_enrolment(harness, carrier)
        assert (delivery.state, delivery.note) == ("due", "internal error: RuntimeError")
    [other] = harness.store.deliveries(id)
    assert other.state == "delivered"


def test_every_notifier_is_tested() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert all(f'"{kind}"' in text for kind in NOTIFIERS)


async def test_pending_request_expires_without_a_waiting_call(harness: Harness) -> None:
    id = await ask(harness)
    harness.clock.time += 3601 * SECOND
    await deliver_due(dispatcher(harness, "desktop"))
    assert harness.store.approval(id)[0].state is ApprovalState.EXPIRED


async def test_escalation_notifies_the_second_route_once(tmp_path: Path) -> None:
    first = Route("people", ("alice",), 3600 * SECOND, escalate_to="chiefs", escalate_after=600 * SECOND)
    routes = {"people": first, "chiefs": Route("chiefs", ("carol",), 3600 * SECOND, notify=("one",))}
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=routes)
    with web() as receiver:
        keep(tmp_path / "secret", SECRET)
        options = {"url": f"{receiver.url}/hook", "secret": SecretReference("file", "secret")}
        notifiers = {"one": NotifierSettings("webhook", options, tmp_path)}
        carrier = NotificationDispatcher(harness.ledger.writer, harness.ledger.reader, routes, notifiers, INBOX)
        id = pending_id(await harness.guard.call(make_instance(), ASKED))
        await deliver_due(carrier)
        assert receiver.posted == []
        harness.clock.time += 601 * SECOND
        for _ in range(3):
            await deliver_due(carrier)
    assert [json.loads(posted.body)["type"] for posted in receiver.posted] == ["approval.escalated"]
    assert harness.store.approval(id)[0].rules[0].approvers == ("alice", "carol")
    [receipt] = harness.receipts("approval.escalated")
    assert receipt["rules"] == [{"approvers": ["alice", "carol"], "quorum": 1, "route": "people"}]


def test_guard_notifies_at_once_and_a_dead_notifier_delays_nothing(tmp_path: Path) -> None:
    with web() as receiver:
        keep(tmp_path / "secret", SECRET)
        more = f"""
[notifiers.hook]
kind = "webhook"
url = "{receiver.url}/hook"
secret = {{ file = "secret" }}
[notifiers.dead]
kind = "command"
command = ["sleep", "60"]
"""
        hold = '@id("g") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);'
        config = write_config(tmp_path, scripted("up", tmp_path), ALLOW_ALL + hold, more, guard="hold_seconds = 0")
        text = config.read_text().replace(
            'approvers = ["alice", "bob"]', 'approvers = ["alice"]\nnotify = ["hook", "dead"]'
        )
        config.write_text(text)
        with Client(config) as client:
            client.start()
            id = client.call("up__echo", {"text": "x"})["result"]["_meta"]["mcp-guard/decision"]["approval"]
            client.call("up__tool_error")
            while not receiver.posted:
                client.request("ping")
            shown = cli("approvals", "show", id, "--config", str(config)).stdout
            assert "notified       hook (requested): delivered, 1 tried" in shown
            assert "notified       dead (requested): due, 1 tried: being sent" in shown
    assert json.loads(receiver.posted[0].body)["data"]["approval"] == id


@dataclass(frozen=True)
class OfStore:
    """Implements `BackgroundReader` on a store whose statements can be watched."""

    store: Store

    async def read(self, query: Callable[[Store], T]) -> T:
        return query(self.store)

    async def close(self) -> None: ...


async def test_body_of_an_open_request_is_read_once(harness: Harness) -> None:
    await ask(harness)
    carrier = replace(dispatcher(harness, "desktop"), reader=OfStore(harness.store))
    await deliver_due(carrier)
    statements: list[str] = []
    harness.store._db.set_trace_callback(statements.append)
    for _ in range(3):
        await deliver_due(carrier)
    harness.store._db.set_trace_callback(None)
    assert statements
    assert not [statement for statement in statements if "SELECT * FROM approval" in statement]
