"""Notifications on a device: switched on at the page of keys, sent by the guard, shown by the real service worker.

Chromium gets push messages from Google's service only, so the page's `PushManager` is a stand-in that subscribes at the
test's own push service, and the DevTools protocol hands the message that this service has opened to the worker.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import CDPSession, Page

from mcp_guard.config import load
from mcp_guard.ledger.place import ledger_place
from mcp_guard.notify.push import KIND
from mcp_guard.storage.engines import find_engine
from tests.live.running_guard import Json, cli, log, text
from tests.notify.push_service import PushService, push_service
from tests.web.axe import violations
from tests.web.fleet_process import Fleet, fleet
from tests.web.inbox_process import CHROMIUM, add_passkeys
from tests.web.software_passkey import SoftwarePasskey
from tests.web.web_client import WebClient
from tests.web.web_process import browser_at

SUBSCRIBING = """
const document_ = %s;
const bytes = (buffer) => new Uint8Array(buffer);
class Subscription {
  constructor(key) { this.options = { applicationServerKey: bytes(key).buffer }; }
  toJSON() { return document_; }
  async unsubscribe() { localStorage.removeItem("subscribed"); return true; }
}
PushManager.prototype.subscribe = async function (options) {
  if (!options.userVisibleOnly || bytes(options.applicationServerKey).length !== 65) throw new Error("not so");
  localStorage.setItem("subscribed", JSON.stringify([...bytes(options.applicationServerKey)]));
  return new Subscription(options.applicationServerKey);
};
PushManager.prototype.getSubscription = async () => {
  const key = localStorage.getItem("subscribed");
  return key && new Subscription(Uint8Array.from(JSON.parse(key)));
};
"""


@contextmanager
def scenario(folder: Path) -> Iterator[tuple[Fleet, PushService]]:
    with push_service(folder / "service") as service:
        host = service.url.removeprefix("https://")
        section = f'\n[notifiers.phones]\nkind = "push"\nservices = ["{host}"]\n'
        section += f'[network]\nca_file = "{service.certificate}"\n'

        def edit(text: str) -> str:
            return text.replace("[routes.crm-approvers]", '[routes.crm-approvers]\nnotify = ["phones"]', 1)

        with fleet(folder, edit, section) as on:
            yield on, service


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, PushService]]:
    with scenario(tmp_path_factory.mktemp("push")) as made:
        yield made


def find_registration(page: Page, session: CDPSession) -> str:
    """The id of the page's service worker."""
    registrations: list[str] = []
    session.on(
        "ServiceWorker.workerRegistrationUpdated",
        lambda event: registrations.extend(item["registrationId"] for item in event["registrations"]),
    )
    session.send("ServiceWorker.enable")
    until(page, lambda: registrations, "no service worker")
    return registrations[0]


def until(page: Page, condition: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, otherwise
        page.wait_for_timeout(50)


SHOWN = """async () => (await (await navigator.serviceWorker.ready).getNotifications()).map(
  (item) => [item.title, item.body, item.tag, item.data.path])"""
CLICK = """async (tag) => {
  const [notification] = await registration.getNotifications({ tag });
  const opened = new Promise((resolve) => { clients.openWindow = async (address) => resolve(address); });
  dispatchEvent(new NotificationEvent("notificationclick", { notification }));
  return opened;
}"""
"""A browser opens a window only for a person's click, so the worker's call for one is taken here."""


def show(page: Page, session: CDPSession, worker: Json, message: Json) -> list[list[str]]:
    """What is on the screen once the worker has shown the message. One that is just being ended may miss it."""
    for _ in range(6):
        session.send("ServiceWorker.deliverPushMessage", {**worker, "data": json.dumps(message)})
        for _ in range(100):
            shown: list[list[str]] = page.evaluate(SHOWN)
            if message["title"] in [title for title, *_ in shown]:
                return shown
            page.wait_for_timeout(50)
    raise AssertionError("no notification")


def wait_for_message(page: Page, service: PushService, title: str) -> Json:
    """The one with this in its title: the enrolled key is news, too."""

    def found() -> list[Json]:
        return [message for _, message, _ in service.got if title in message["title"]]

    until(page, found, f"no message that it {title}")
    return found()[-1]


def sign_out(page: Page, url: str) -> None:
    keys: list[str] = []
    page.on("request", lambda request: keys.append(request.url) if request.url.endswith("/push/key") else None)
    page.goto(f"{url}/keys")
    page.get_by_text("It is on.").wait_for()
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.wait_for_url(f"{url}/sign-in*")
    assert len(keys) == 1


def test_request_is_approved_from_a_push_message_at_another_gateway(running: tuple[Fleet, PushService]) -> None:
    on, service = running
    assert on.certificate is not None
    phone = service.subscribe("phone")
    with browser_at(on.certificate, program=CHROMIUM) as browser:
        context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        context.grant_permissions(["notifications"], origin=on.url)
        context.add_init_script(SUBSCRIBING % json.dumps(phone.to_json()))
        page = context.new_page()
        page.set_default_timeout(30_000)
        problems: list[str] = []
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        add_passkeys(context, page)
        page.goto(f"{on.url}/keys")
        page.get_by_label("One-time code").fill(on.code())
        page.get_by_role("button", name="Sign in with the code").click()
        page.get_by_text("It is off.").wait_for()  # by the page's script, without which no button does anything
        page.get_by_role("button", name="Enrol a passkey").click()
        page.locator("li.card.flat").wait_for()
        page.get_by_role("button", name="Switch notifications on").click()
        page.get_by_text("It is on.").wait_for()
        assert violations(page) == []
        call = on.hold()
        [request] = on.requests()
        session = context.new_cdp_session(page)
        worker = {"origin": on.url, "registrationId": find_registration(page, session)}
        message = wait_for_message(page, service, "needs approval")
        path = f"/requests/{request['id']}"
        assert show(page, session, worker, message) == [[message["title"], message["body"], request["id"], path]]
        address = context.service_workers[0].evaluate(CLICK, request["id"])
        assert address == on.url + path
        page.goto(address)
        page.get_by_label("Rationale").fill("Seen on my phone.")
        page.get_by_role("button", name="Approve").tap()
        page.wait_for_url(f"{on.url}/")
        assert json.loads(text(on.client.wait(call)))["deal"]["stage"] == "Closed Won"
        message = wait_for_message(page, service, "was approved")
        assert show(page, session, worker, message) == [
            [message["title"], "There is nothing left to decide.", request["id"], path]
        ]
        page.goto(address)
        until(page, lambda: not page.evaluate(SHOWN), "it stays")  # the page of what is over takes it off the screen
        assert [problem for problem in problems if "401" not in problem] == []
        sign_out(page, on.url)
        context.close()
    assert devices(on, "alice") == 0
    [granted] = log(on.config, "--kind", "approval.granted")
    assert granted["rationale"] == "Seen on my phone."
    assert granted["signature"].keys() == {"signature", "authenticator_data", "client_data"}
    cli("verify", "--config", str(on.config))


def test_subscriptions_are_their_owners_and_of_known_services(running: tuple[Fleet, PushService]) -> None:
    on, service = running
    assert on.certificate is not None
    stranger = WebClient(on.url, context=on.certificate.context)
    document = service.subscribe("laptop").to_json()
    assert stranger.post("/push/subscriptions", document)[0] == 401
    alice = WebClient(on.url, context=on.certificate.context).sign_in(on.code())
    assert alice.enrol(SoftwarePasskey(on.url))[0] in (200, 403, 409)
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


def devices(on: Fleet, approver: str) -> int:
    """How many devices of an approver are notified."""

    async def count() -> int:
        settings = load(on.config)
        items = find_engine(ledger_place(settings)).open_items(settings.state_dir)
        found = await items.find_all(KIND, approver, 0)
        await items.close()
        return len(found)

    return asyncio.run(count())


def test_device_of_a_stolen_session_is_notified_no_more_after_signing_out_everywhere(
    running: tuple[Fleet, PushService],
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
