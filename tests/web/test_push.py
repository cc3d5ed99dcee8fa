"""Notifications on a device: switched on at the page of keys, sent by the guard, shown by the real service worker.

Chromium gets push messages from Google's service only, so the page's `PushManager` is a stand-in that subscribes at the
test's own push service, and the DevTools protocol hands the message that this service has opened to the worker.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from mcp_guard.config import load
from mcp_guard.ledger.place import ledger_place
from mcp_guard.notify.push import KIND
from mcp_guard.storage.engines import find_engine
from tests.live.running_guard import cli
from tests.notify.push_service import PushService, push_service
from tests.web.software_passkey import SoftwarePasskey
from tests.web.web_client import WebClient
from tests.web.web_process import WebScenario, browser_at, web_scenario

SUBSCRIBING = """
const document_ = %s;
let subscription = null;
const bytes = (buffer) => new Uint8Array(buffer);
class Subscription {
  constructor(key) { this.options = { applicationServerKey: bytes(key).buffer }; }
  toJSON() { return document_; }
  async unsubscribe() { subscription = null; return true; }
}
PushManager.prototype.subscribe = async function (options) {
  if (!options.userVisibleOnly || bytes(options.applicationServerKey).length !== 65) throw new Error("not so");
  return (subscription = new Subscription(options.applicationServerKey));
};
PushManager.prototype.getSubscription = async () => subscription;
"""


@contextmanager
def scenario(folder: Path) -> Iterator[tuple[WebScenario, PushService]]:
    with push_service(folder / "service") as service:
        host = service.url.removeprefix("https://")
        section = f'\n[notifiers.phones]\nkind = "push"\nservices = ["{host}"]\n'
        section += f'[network]\nca_file = "{service.certificate}"\n'

        def edit(text: str) -> str:
            return text.replace("[routes.crm-approvers]", '[routes.crm-approvers]\nnotify = ["phones"]', 1)

        with web_scenario(folder, edit, section) as on:
            yield on, service


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebScenario, PushService]]:
    with scenario(tmp_path_factory.mktemp("push")) as made:
        yield made


def deliver(context: BrowserContext, page: Page, on: WebScenario, message: Any) -> None:
    """Hand a push message to the page's service worker."""
    session = context.new_cdp_session(page)
    registrations: list[str] = []
    session.on(
        "ServiceWorker.workerRegistrationUpdated",
        lambda event: registrations.extend(item["registrationId"] for item in event["registrations"]),
    )
    session.send("ServiceWorker.enable")
    while not registrations:
        page.wait_for_timeout(50)
    data = {"origin": on.url, "registrationId": registrations[0], "data": json.dumps(message)}
    session.send("ServiceWorker.deliverPushMessage", data)


SHOWN = """async () => (await (await navigator.serviceWorker.ready).getNotifications()).map(
  (item) => [item.title, item.body, item.tag, item.data.path])"""


def test_request_is_approved_from_a_push_message(running: tuple[WebScenario, PushService]) -> None:
    on, service = running
    assert on.certificate is not None
    phone = service.subscribe("phone")
    with browser_at(on.certificate) as browser:
        context = browser.new_context(viewport={"width": 390, "height": 844})
        context.grant_permissions(["notifications"], origin=on.url)
        context.add_init_script(SUBSCRIBING % json.dumps(phone.to_json()))
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto(f"{on.url}/keys")
        page.get_by_label("One-time code").fill(on.code())
        page.get_by_role("button", name="Sign in with the code").click()
        page.get_by_role("button", name="Switch notifications on").click()
        page.get_by_text("It is on.").wait_for()
        call = on.hold()
        [request] = on.requests()
        while not service.got:
            page.wait_for_timeout(50)
        _, message, _ = service.got[-1]
        deliver(context, page, on, message)
        while not (shown := page.evaluate(SHOWN)):
            page.wait_for_timeout(50)
        assert shown == [[message["title"], message["body"], request["id"], f"/requests/{request['id']}"]]
        page.goto(on.url + shown[0][3])  # what a click on it opens
        page.get_by_role("heading", name="Proposed change").wait_for()
        page.goto(f"{on.url}/keys")
        page.evaluate("0")
        assert [problem for problem in problems if "401" not in problem] == []
        context.close()
    on.client.notify("notifications/cancelled", {"requestId": call})


def test_subscriptions_are_their_owners_and_of_known_services(running: tuple[WebScenario, PushService]) -> None:
    on, service = running
    assert on.certificate is not None
    stranger = WebClient(on.url, context=on.certificate.context)
    document = service.subscribe("laptop").to_json()
    assert stranger.post("/push/subscriptions", document)[0] == 401
    alice = WebClient(on.url, context=on.certificate.context).sign_in(on.code())
    assert alice.enrol(SoftwarePasskey(on.url))[0] in (200, 403)
    assert alice.post("/push/subscriptions", document) == (200, {})
    for wrong in ({**document, "endpoint": "https://169.254.169.254/"}, {"endpoint": 1}, {**document, "keys": {}}):
        status, answer = alice.post("/push/subscriptions", wrong)
        assert status == 400
        assert "notifications cannot be switched on" in answer["problem"]
    assert alice.post("/push/unsubscribe", document) == (200, {})
    assert alice.get("/push/key")[0] == 200
    manifest = alice.get("/manifest.webmanifest")
    assert manifest[0] == 200
    assert alice.get("/service-worker.js")[0] == 200


def devices(on: WebScenario, approver: str) -> int:
    """How many devices of an approver are notified."""

    async def count() -> int:
        settings = load(on.config)
        items = find_engine(ledger_place(settings)).open_items(settings.state_dir)
        found = await items.find_all(KIND, approver, 0)
        await items.close()
        return len(found)

    return asyncio.run(count())


def test_device_of_a_stolen_session_is_notified_no_more_after_signing_out_everywhere(
    running: tuple[WebScenario, PushService],
) -> None:
    on, service = running
    assert on.certificate is not None
    client = WebClient(on.url, context=on.certificate.context)
    stolen, document = client.sign_in(on.code()), service.subscribe("thief").to_json()
    assert stolen.post("/push/subscriptions", document) == (200, {})
    assert client.sign_in(on.code()).post("/sign-out/everywhere")[0] == 200
    assert devices(on, "alice") == 0
    assert client.sign_in(on.code()).post("/push/subscriptions", document) == (200, {})
    cli("approvers", "sign-out", "alice", "--config", str(on.config))
    assert devices(on, "alice") == 0
