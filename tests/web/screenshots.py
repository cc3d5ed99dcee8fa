"""Screenshots of the inbox and the console for the documents: `make screenshots` writes them to docs/images."""

import json
import tempfile
from pathlib import Path
from typing import Any

from mcp_guard.files import create_file
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
CONSOLE = {
    "overview": "/overview?period=7d",
    "ledger": "/ledger",
    "story": "/calls/{call}",
    "agents": "/agents",
}
ORIGIN = "crm-example.local/ledger"


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
    TARGET.mkdir(exist_ok=True)
    inbox_pictures()
    console_pictures()


def inbox_pictures() -> None:
    with tempfile.TemporaryDirectory() as folder, inbox_scenario(Path(folder)) as on, browser() as launched:
        fill(on)
        for name, look in LOOKS.items():
            context = launched.new_context(**look)
            page = context.new_page()
            add_passkeys(context, page)
            sign_in(page, on)
            if page.get_by_role("button", name="Enrol a passkey").is_visible():
                enrol(page)
            page.locator("a.card").first.wait_for()
            page.screenshot(path=TARGET / f"inbox-{name}.png")
            page.locator("a.card").first.click()
            page.locator("article").wait_for()
            page.get_by_label("Rationale").fill("Signed contract seen.")
            page.screenshot(path=TARGET / f"request-{name}.png")
            context.close()


def console_pictures() -> None:
    """The pages of the console, after a week of calls."""

    def with_history(text: str) -> str:
        write_history(Path(folder) / "state", ORIGIN)
        return f'{text}\n[web]\nurl = "http://localhost:1"\n[web.roles]\nauditor = ["alice"]\noperator = ["alice"]\n'

    with (
        tempfile.TemporaryDirectory() as folder,
        inbox_scenario(Path(folder), with_history) as on,
        browser() as launched,
    ):
        call = decide_and_deny(on)
        fill_console(on)
        for name, look in CONSOLE_LOOKS.items():
            page = launched.new_context(**look).new_page()
            sign_in(page, on)
            for picture, path in CONSOLE.items():
                page.goto(on.url + path.format(call=call))
                page.locator("main h1").wait_for()
                if picture == "story":
                    page.locator("#proof .proved").wait_for()
                page.screenshot(path=TARGET / f"{picture}-{name}.png")
            page.context.close()


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
