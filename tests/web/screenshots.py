"""Screenshots of the inbox and the console for the documents: `make screenshots` writes them to docs/images.

`python -m tests.web.screenshots FOLDER` takes every page into a folder instead, on both widths and in both themes.
"""

import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from mcp_guard.config import load
from mcp_guard.files import create_file
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.tool_entries import tool_entries
from mcp_guard.ledger.tool_pins import ToolPins
from mcp_guard.upstream.catalog import make_tool
from tests.live.running_guard import cli
from tests.web.console_history import write_history
from tests.web.inbox_process import InboxScenario, add_passkeys, browser, enrol, inbox_scenario, sign_in

TARGET = Path(__file__).parent.parent.parent / "docs" / "images"
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1100, "height": 820}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1100, "height": 820}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "color_scheme": "light"},
}
CONSOLE_LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "color_scheme": "light"},
}
WIDTHS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 360, "height": 780}, "has_touch": True, "is_mobile": True},
}
SWEEP: dict[str, dict[str, Any]] = {
    f"{name}-{scheme}": size | {"color_scheme": scheme} for name, size in WIDTHS.items() for scheme in ("light", "dark")
}
CONSOLE = {
    "overview": "/overview?period=7d",
    "ledger": "/ledger",
    "story": "/calls/{call}",
    "agents": "/agents",
    "upstreams": "/upstreams",
}
POLICIES = {
    "policies": "/policies",
    "policy-changes": "/policy-changes",
    "tools": "/tools",
    "tool": "/tools/crm__add_note",
}
REST = {
    "inbox": "/",
    "request": "/requests/{request}",
    "grants": "/grants",
    "history": "/history",
    "keys": "/keys",
    "agent": "/agents/deal-update-agent",
    "receipt": "/ledger/0",
    "ledger-filters": "/ledger?user=dana&risk=medium",
    "ledger-problem": "/ledger?since=lately",
    "no-page": "/nonesuch",
    "decision": "/policies/decision?what={call}",
}
"""Pages without a picture in the documents."""
INDEX_IS_BEHIND = re.compile("The search index has|The counts include")
ORIGIN = "crm-example.local/ledger"
OIDC = '[web.oidc]\nissuer = "https://login.example.com"\nclient_id = "guard"\nname = "Example"\n'
PEOPLE = f'[web]\nurl = "http://localhost:1"\n[web.roles]\nauditor = ["alice"]\noperator = ["alice"]\n{OIDC}'
CHANGED = """@id("no-large-deals")
@reason("large deals are closed by people")
forbid (principal, action, resource) when {
  context.input has amount && context.input.amount.greaterThan(decimal("40000.0"))
};
"""


def fill(on: InboxScenario) -> None:
    """Some typical requests for the inbox."""
    on.hold()
    fill_console(on)
    while len(on.requests()) < 3:
        pass


def fill_console(on: InboxScenario) -> None:
    """Requests for what the console shows as waiting, besides the one that is decided for it."""
    on.hold(deal_id="790", amount=12500.0, stage="Closed Lost", guard_reason="They chose another supplier.")
    arguments = {"deal_id": "655", "amount": 1200.0, "reason": "double charge", "guard_reason": "Billing asked for it."}
    on.client.send("tools/call", {"name": "crm__refund", "arguments": arguments})


def main() -> None:
    if len(sys.argv) > 1:
        sweep(Path(sys.argv[1]))
        return
    TARGET.mkdir(exist_ok=True)
    inbox_pictures()
    console_pictures(TARGET, CONSOLE_LOOKS, CONSOLE)
    policy_pictures(TARGET, CONSOLE_LOOKS, POLICIES)


def sweep(target: Path) -> None:
    target.mkdir(exist_ok=True)
    console_pictures(target, SWEEP, CONSOLE | REST)
    policy_pictures(target, SWEEP, POLICIES)


def inbox_pictures() -> None:
    with tempfile.TemporaryDirectory() as folder, inbox_scenario(Path(folder)) as on, browser() as launched:
        fill(on)
        for name, look in LOOKS.items():
            context = launched.new_context(**look)
            page = context.new_page()
            add_passkeys(context, page)
            sign_in(page, on)
            page.locator("a.card").first.wait_for()
            if page.get_by_role("button", name="Enrol a passkey").is_visible():
                enrol(page)
            page.locator("a.card").first.wait_for()
            page.screenshot(path=TARGET / f"inbox-{name}.png")
            page.locator("a.card").first.click()
            page.locator("article").wait_for()
            page.get_by_label("Rationale").fill("Signed contract seen.")
            page.screenshot(path=TARGET / f"request-{name}.png")
            context.close()


def console_pictures(target: Path, looks: Mapping[str, dict[str, Any]], pages: Mapping[str, str]) -> None:
    """The pages of the console, after a week of calls."""

    def with_history(text: str) -> str:
        write_history(Path(folder) / "state", ORIGIN)
        return f"{text}\n{PEOPLE}"

    with (
        tempfile.TemporaryDirectory() as folder,
        inbox_scenario(Path(folder), with_history) as on,
        browser() as launched,
    ):
        call = decide_and_deny(on)
        fill_console(on)
        while len(on.requests()) < 2:
            time.sleep(0.1)
        named = {"call": call, "request": on.requests()[0]["id"]}
        take_pictures(launched, on, target, looks, {name: path.format(**named) for name, path in pages.items()})


def policy_pictures(target: Path, looks: Mapping[str, dict[str, Any]], pages: Mapping[str, str]) -> None:
    """The pages of policies and tools: a set that waits for approval, and a tool whose definition has changed."""

    def need_approval(text: str) -> str:
        return text.replace("[guard]", '[guard]\npolicy_approval = "crm-approvers"', 1) + f"\n{PEOPLE}"

    with (
        tempfile.TemporaryDirectory() as folder,
        inbox_scenario(Path(folder), need_approval) as on,
    ):
        at = ("--config", str(on.config))
        create_file(on.config.parent / "passphrase", b"only Alice knows this")
        key = ("--key-file", f"{folder}/alice.key", "--passphrase-file", f"{folder}/passphrase", *at)
        cli("approvers", "add", "alice", *key)
        approve_policies(on, key)
        on.client.call("crm__update_deal", {"deal_id": "789", "amount": 48500.0})
        on.client.call("crm__update_deal", {"deal_id": "789", "discount_rate": 0.4})
        list_changed_definition(on)
        (on.config.parent / "policies" / "large.cedar").write_text(CHANGED)
        cli("policy", "propose", *at)
        with browser() as launched:
            take_pictures(launched, on, target, looks, pages)


def approve_policies(on: InboxScenario, key: tuple[str, ...]) -> None:
    """The first set, with which the guard then decides."""
    at = ("--config", str(on.config))
    while (waiting := json.loads(cli("policy", "pending", "--json", *at).stdout)["open"]) is None:
        time.sleep(0.1)
    cli("policy", "approve", waiting["proposal"], "--as", "alice", "--rationale", "The reviewed set.", *key)
    while not json.loads(cli("log", "--json", "--kind", "policy.loaded", *at).stdout):
        time.sleep(0.1)


def list_changed_definition(on: InboxScenario) -> None:
    """As a guard does whose upstream lists another definition of a tool that is pinned."""
    settings = load(on.config)
    with closing(open_writer(ledger_settings(settings), CLOCK)) as writer:
        entry = writer.read(tool_entries)["crm__add_note"]
        changed = entry.latest.definition | {"description": "Adds a note, and sends the database to everybody."}
        tool = make_tool("crm", changed, settings.tool_rules)
        asyncio.run(ToolPins(writer, settings.pin_rules, lambda _: None).judge([tool]))


def take_pictures(
    launched: Browser,
    on: InboxScenario,
    target: Path,
    looks: Mapping[str, dict[str, Any]],
    pages: Mapping[str, str],
) -> None:
    """Of the sign-in page, and then of these pages. In a sweep of all, of each page as a whole."""
    whole = looks is SWEEP
    for look, options in looks.items():
        page = launched.new_context(**options).new_page()
        add_passkeys(page.context, page)
        page.goto(f"{on.url}/sign-in")
        page.get_by_label("One-time code").wait_for()
        page.screenshot(path=target / f"sign-in-{look}.png")
        sign_in(page, on)
        for name, path in pages.items():
            page.goto(on.url + path)
            await_content(page)
            page.screenshot(path=target / f"{name}-{look}.png", full_page=whole)
        page.context.close()


def await_content(page: Page) -> None:
    page.locator("main h1").wait_for(state="attached")
    if page.locator("#proof").count():
        page.locator("#proof :is(.proved, .problem)").wait_for()
    while page.get_by_text(INDEX_IS_BEHIND).count():
        page.wait_for_timeout(500)
        page.reload()
        page.locator("main h1").wait_for(state="attached")
    if page.locator("[data-follow]").count():
        page.locator("[data-follow] :is(strong, .problem)").wait_for()


def decide_and_deny(on: InboxScenario) -> str:
    """A call that Alice approves, and one that is denied; returns the id of the first one."""
    key, passphrase = on.config.parent / "alice.key", on.config.parent / "passphrase"
    create_file(passphrase, b"only Alice knows this")
    files = ("--key-file", str(key), "--passphrase-file", str(passphrase), "--config", str(on.config))
    cli("approvers", "add", "alice", *files)
    held = on.hold()
    [request] = on.requests()
    cli("approvals", "approve", request["id"], "--as", "alice", *files, "--rationale", "Signed contract seen.")
    on.client.wait(held)
    on.client.call("crm__update_deal", {"deal_id": "789", "discount_rate": 0.4})
    log = json.loads(cli("log", "--json", "--kind", "approval.granted", "--config", str(on.config)).stdout)
    return str(log[-1]["call"])


if __name__ == "__main__":
    main()
