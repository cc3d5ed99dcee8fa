"""A setup for inbox tests: the example CRM behind a real guard, a real inbox process, a real browser with a passkey."""

import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, expect, sync_playwright

from mcp_guard.cli import demo
from tests.live.preloaded_cli import PIPE, Forked, stand_in
from tests.live.running_guard import Client, Json, cli

CLOSING: Json = {
    "deal_id": "789",
    "stage": "Closed Won",
    "amount": 50000.0,
    "guard_reason": "The customer signed this morning.",
}
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SHELL = shutil.which("chromium-headless-shell") or CHROMIUM
"""Without windows, Chromium takes half the processor time. It shows no notifications."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


expect.set_options(timeout=20_000)  # on a busy machine, five seconds are over before a page is loaded


class OpenPage(Protocol):
    """The fixture `open_page`."""

    def __call__(self, **options: Any) -> Page: ...


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def prepare(folder: Path) -> Path:
    """The example CRM. Its server is forked, because its import of pydantic takes longer than the guard's start."""
    config, words = demo.prepare(folder), ["server.py", "--database", "crm.sqlite"]
    command, *forked = stand_in(folder / words[0], *words[1:])
    text = config.read_text().replace(json.dumps(words), json.dumps(forked))
    config.write_text(text.replace(json.dumps(sys.executable), json.dumps(command)))
    return config


@dataclass
class InboxScenario:
    """A guard with an agent's client, and an inbox."""

    config: Path
    url: str
    client: Client
    held: list[int] = field(default_factory=list)

    def hold(self, **changes: Any) -> int:
        """Make a call that is held; returns its request id once it is pending."""
        before = len(self.requests())
        arguments = {**CLOSING, **changes}
        id = self.client.send("tools/call", {"name": "crm__update_deal", "arguments": arguments})
        while len(self.requests()) == before:
            time.sleep(0.05)  # each look is a process
        self.held.append(id)
        return id

    def requests(self) -> list[Json]:
        listed: list[Json] = json.loads(cli("approvals", "list", "--json", "--config", str(self.config)).stdout)
        return listed

    def code(self, approver: str = "alice") -> str:
        document = json.loads(cli("approvers", "code", approver, "--json", "--config", str(self.config)).stdout)
        return str(document["code"])


@contextmanager
def inbox_scenario(folder: Path, edit: Callable[[str], str] = str) -> Iterator[InboxScenario]:
    """`edit` changes the text of the example's configuration."""
    config, port = prepare(folder), free_port()
    text = edit(config.read_text().replace("[guard]", '[guard]\non_cancel = "withdraw"', 1))
    config.write_text(f"{text}\n[inbox]\nport = {port}\n")
    with inbox(config) as url, Client(config, ("--ticket", "INC-4451")) as client:
        client.start()
        client.tools()
        yield InboxScenario(config, url, client)


@contextmanager
def inbox(config: Path) -> Iterator[str]:
    """Runs the inbox of this configuration in its own process; yields its URL."""
    process = Forked(["inbox", "--config", str(config), "--json"], stdout=PIPE, text=True)
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


@contextmanager
def browser(program: str = SHELL, *flags: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])
        yield launched
        launched.close()


def touch(session: CDPSession, authenticator: str, enabled: bool) -> None:
    """Whether somebody touches the authenticator when it is asked."""
    options = {"authenticatorId": authenticator, "enabled": enabled}
    session.send("WebAuthn.setAutomaticPresenceSimulation", options)


def add_passkeys(context: BrowserContext, page: Page) -> CDPSession:
    """Give the page a platform authenticator that verifies its user."""
    session = context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    add_authenticator(session, "internal")
    return session


def add_authenticator(session: CDPSession, transport: str) -> str:
    """Returns its id."""
    options = {
        "protocol": "ctap2", "transport": transport, "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": True, "automaticPresenceSimulation": True,
    }  # fmt: skip
    return str(session.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"])


def sign_in(page: Page, on: InboxScenario) -> None:
    page.goto(f"{on.url}/sign-in")
    page.get_by_label("One-time code").fill(on.code())
    page.get_by_role("button", name="Sign in with the code").click()
    page.wait_for_url(f"{on.url}/")


def enrol(page: Page) -> None:
    page.get_by_role("button", name="Enrol a passkey").click()
    page.get_by_role("button", name="Enrol a passkey").wait_for(state="detached")
    page.wait_for_load_state()  # the script of the page that follows
