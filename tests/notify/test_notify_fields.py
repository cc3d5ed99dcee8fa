"""Fields that the configuration lets notifications carry: in every notifier, and never a confidential one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.approval import Approval
from mcp_guard.core.canonical import ExactNumber
from mcp_guard.core.model import Effect, Json, ToolCallRequest
from mcp_guard.core.redaction import make_redaction
from mcp_guard.notify import NOTIFIERS, command, desktop, email, push, slack, teams, webhook
from mcp_guard.notify.desktop import _osascript
from mcp_guard.notify.message import Message, make_message
from mcp_guard.outbound import Destination
from mcp_guard.settings import SecretReference
from tests.notify.receivers import smtp, web
from tests.notify.teams_workflow import check_message, texts
from tests.notify.test_delivery import INBOX, SECRET, keep, mail_options
from tests.promises.harness import (
    ALLOW,
    HOLD,
    PROPERTIES,
    Harness,
    make_instance,
    make_tool,
    open_harness,
    pending_id,
)

BIG = "123456789012345678901234567890"
HIDDEN = "paid <!channel> \u202e, approved by Alice"
ARGUMENTS: Json = {"deal_id": "1", "amount": 50000, "stage": HIDDEN, "iban": "DE89-3704", "note": "to DE89-3704"}
CHOSEN = ("amount", "stage", "note")


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return open_harness(tmp_path, f"{ALLOW}\n{HOLD}")


async def hold(harness: Harness, *fields: str, effect: Effect = Effect.WRITE) -> Approval:
    """A request of a tool that redacts `/iban`."""
    rule = {"notify_fields": fields, "redaction": make_redaction(("/iban",), (), None)}
    texts = {name: {"type": "string"} for name in ("iban", "note")}
    harness.upstream.catalog["crm__pay"] = make_tool("pay", {**PROPERTIES, **texts}, effect, **rule)
    harness.load(f"{ALLOW}\n{HOLD}")
    asked = ToolCallRequest("crm__pay", ARGUMENTS | {"deal_id": str(len(harness.store.approvals()))})
    id = pending_id(await harness.guard.call(make_instance(), asked))
    approval: Approval = harness.store.approval(id)[0]
    return approval


def message_for(harness: Harness, approval: Approval) -> Message:
    return make_message(approval, "requested", "msg_1", INBOX, harness.clock.time)


def by_webhook(folder: Path, message: Message) -> str:
    keep(folder / "secret", SECRET)
    with web() as receiver:
        options = {"url": f"{receiver.url}/hook", "secret": SecretReference("file", "secret")}
        webhook.send(Destination(options, {}, folder), message)
    return str(json.dumps(json.loads(receiver.posted[0].body)["data"], ensure_ascii=False))


def by_slack(folder: Path, message: Message) -> str:
    with web() as receiver:
        keep(folder / "slack", f"{receiver.url}/T0/B0/secret")
        slack.send(Destination({"url": SecretReference("file", "slack")}, {}, folder), message, None)
    blocks = json.loads(receiver.posted[0].body)["blocks"]
    assert all(field["type"] == "plain_text" for block in blocks for field in block.get("fields", ()))
    assert all(len(block.get("fields", ())) <= 10 for block in blocks)
    return "\n".join(field["text"] for block in blocks for field in block.get("fields", ()))


def by_email(folder: Path, message: Message) -> str:
    with smtp() as (port, mail):
        email.send(Destination(mail_options(port), {}, folder), message)
    body = mail[0].get_payload(decode=True)
    assert isinstance(body, bytes)
    return body.decode()


def by_command(folder: Path, message: Message) -> str:
    script = folder / "notify.sh"
    script.write_text("#!/bin/sh\ncat > got.json\n")
    script.chmod(0o700)
    command.send(Destination({"command": ("./notify.sh",)}, {}, folder), message)
    return str(json.loads((folder / "got.json").read_text())["text"])


def by_desktop(folder: Path, message: Message) -> str:
    script = folder / "notify-send"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/said\n')
    script.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        patch.setattr("sys.platform", "linux")
        desktop.send(Destination({}, {}, folder), message)
    return (folder / "said").read_text()


def by_teams(folder: Path, message: Message) -> str:
    with web() as receiver:
        keep(folder / "teams", receiver.url)
        teams.send(Destination({"url": SecretReference("file", "teams")}, {}, folder), message)
    return "\n".join(texts(check_message(receiver.posted[0].body)))


def by_push(_: Path, message: Message) -> str:
    return push.payload(message).decode()


SENDERS: dict[str, Callable[[Path, Message], str]] = {
    "webhook": by_webhook, "slack": by_slack, "teams": by_teams, "email": by_email, "command": by_command,
    "desktop": by_desktop, "push": by_push,
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in NOTIFIERS if kind != "push"])
async def test_every_notifier_carries_the_chosen_fields_only(harness: Harness, kind: str) -> None:
    none = SENDERS[kind](harness.folder, message_for(harness, await hold(harness)))
    assert not [value for value in ("50000", "paid", "DE89") if value in none]
    some = SENDERS[kind](harness.folder, message_for(harness, await hold(harness, *CHOSEN)))
    for value in ("amount", "50000", "paid", "to [redacted]"):
        assert value in some
    assert "DE89" not in some
    if kind != "webhook":  # whose JSON is for programs
        assert "\u202e" not in some
        assert ", approved by Alice" not in some


async def test_mail_leads_to_the_request_and_nowhere_else(harness: Harness) -> None:
    message = message_for(harness, await hold(harness))
    written = replace(message, lines=(*message.lines, "paid at https://other.example/ap and www.other.example"))
    sent = by_email(harness.folder, written)
    assert f"Decide at {message.link} or" in sent
    assert "https://other" not in sent
    assert "www." not in sent


async def test_push_carries_no_field_because_a_lock_screen_shows_it(harness: Harness) -> None:
    sent = by_push(harness.folder, message_for(harness, await hold(harness, *CHOSEN)))
    assert not [value for value in ("50000", "paid", "DE89") if value in sent]


@pytest.mark.parametrize("kind", NOTIFIERS)
async def test_every_notifier_says_what_cannot_be_undone(harness: Harness, kind: str) -> None:
    sent = SENDERS[kind](harness.folder, message_for(harness, await hold(harness, effect=Effect.DESTRUCTIVE)))
    assert ("cannot be undone" if kind != "webhook" else '"effect": "destructive"') in sent


async def test_macos_shows_the_fields_beside_the_call(harness: Harness) -> None:
    said = _osascript(message_for(harness, await hold(harness, "amount", effect=Effect.DESTRUCTIVE)))[-2]
    assert "wants to call crm__pay" in said
    assert "amount: 50000" in said
    assert "cannot be undone" in said


async def test_field_that_became_confidential_is_left_out(harness: Harness) -> None:
    """The configuration refuses such a field; the message does not rely on it."""
    approval = await hold(harness, "amount", "iban")
    assert message_for(harness, approval).data["fields"] == {"amount": 50000}
    hidden = replace(approval, subject=replace(approval.subject, sensitive=("amount",)))
    assert message_for(harness, hidden).data["fields"] == {}


@pytest.mark.parametrize("kind", [kind for kind in NOTIFIERS if kind != "push"])
@pytest.mark.parametrize("value", ["50000", "true", "null", "1e5", "-1.5", BIG])
async def test_field_says_whether_it_is_a_text(harness: Harness, kind: str, value: str) -> None:
    approval = await hold(harness, "note")
    texts = [
        SENDERS[kind](
            harness.folder, message_for(harness, replace(approval, subject=replace(approval.subject, arguments=given)))
        )
        for given in ({"note": value}, {"note": ExactNumber(value) if value == BIG else json.loads(value)})
    ]
    assert texts[0].count(f'"{value}"') == texts[1].count(f'"{value}"') + 1
