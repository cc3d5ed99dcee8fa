"""The pages at a real origin in a real browser, on a phone and on a desktop; the call is held at another gateway."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, Page, expect

from tests.live.running_guard import cli, log, text
from tests.proof_size import in_full
from tests.web.fleet_process import Fleet, fleet
from tests.web.inbox_process import OpenPage, add_authenticator, add_passkeys, enrol, touch
from tests.web.web_process import browser_at

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1100, "height": 820}}
CHANGE_DEVICES = """() => {
  const get = navigator.credentials.get.bind(navigator.credentials);
  navigator.credentials.get = async (options) => { await window.changeDevices(); return get(options); };
}"""


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest.fixture(scope="module")
def chromium(on: Fleet) -> Iterator[Browser]:
    assert on.certificate is not None
    with browser_at(on.certificate) as launched:
        yield launched


def approve(page: Page, why: str) -> None:
    page.wait_for_load_state()  # the script that approves runs once the page is parsed
    page.get_by_label("Rationale").fill(why)
    page.get_by_role("button", name="Approve").click()


def keys_of(on: Fleet) -> list[tuple[str, str]]:
    return [(key["approver"], key["authorized_by"]) for key in log(on.config, "--kind", "approver.enrolled")]


def test_request_is_approved_on_a_phone_at_another_gateway_than_the_one_that_holds_the_call(
    on: Fleet, open_page: OpenPage
) -> None:
    """The link leads to the request after the sign-in. Then the device is lost: another one is enrolled with a code of
    the operator, the old one signs nothing any more, and the ledger says so."""
    page = open_page(**PHONE)
    devices = page.context.new_cdp_session(page)
    devices.send("WebAuthn.enable")
    phone = add_authenticator(devices, "internal")
    call = on.hold()
    [request] = on.requests()
    link = f"{on.url}/requests/{request['id']}"
    page.goto(link)
    page.get_by_label("One-time code").fill(on.code())
    page.get_by_role("button", name="Sign in with the code").tap()
    expect(page.get_by_role("row", name=re.compile("stage.*Negotiation.*Closed Won"))).to_be_visible()
    assert page.url == link
    page.wait_for_load_state()  # the script that enrols runs once the page is parsed
    page.get_by_role("button", name="Enrol a passkey on this device").tap()
    expect(page.get_by_role("button", name="Approve")).to_be_enabled()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]  # no script reads the session
    approve(page, "Signed contract seen.")
    page.wait_for_url(f"{on.url}/")
    assert json.loads(text(on.client.wait(call)))["deal"]["stage"] == "Closed Won"
    [granted] = log(on.config, "--kind", "approval.granted")
    assert granted["signature"].keys() == {"signature", "authenticator_data", "client_data"}
    check_lost_device(on, page, devices, phone)
    cli("verify", "--config", str(on.config))


def check_lost_device(on: Fleet, page: Page, devices: CDPSession, phone: str) -> None:
    key = log(on.config, "--kind", "approver.enrolled")[0]["key"]
    cli("approvers", "remove", "alice", key, "--why", "phone lost", "--config", str(on.config))
    page.goto(f"{on.url}/keys")
    expect(page.get_by_text("Your session has ended. Sign in again.")).to_be_visible()
    page.get_by_role("button", name="Sign in with a passkey").tap()
    expect(page.get_by_role("alert")).to_contain_text("this passkey is not enrolled here")
    devices.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": phone})
    add_authenticator(devices, "internal")
    page.goto(f"{on.url}/sign-in")
    code = json.loads(cli("approvers", "code", "alice", "--enrol", "--json", "--config", str(on.config)).stdout)["code"]
    page.get_by_label("One-time code").fill(code)
    page.get_by_role("button", name="Sign in with the code").tap()
    page.wait_for_url(f"{on.url}/keys")
    page.get_by_role("button", name="Enrol a passkey").tap()
    expect(page.get_by_text("with a one-time code for a further key")).to_be_visible()
    assert keys_of(on) == [("alice", "sign_in_code"), ("alice", "enrolment_code")]
    page.clock.install()
    page.evaluate("void (navigator.serviceWorker.getRegistration = () => new Promise(() => {}))")  # no service answers
    page.get_by_role("button", name="Sign out", exact=True).tap()
    page.clock.run_for(3000)
    page.wait_for_url(f"{on.url}/sign-in")


@in_full
def test_second_passkey_is_confirmed_with_the_first_and_signs_in(on: Fleet, open_page: OpenPage) -> None:
    page = open_page(**DESKTOP)
    devices = page.context.new_cdp_session(page)
    devices.send("WebAuthn.enable")
    laptop = add_authenticator(devices, "internal")
    page.goto(f"{on.url}/sign-in")
    page.get_by_label("One-time code").fill(on.code("bob"))
    page.keyboard.press("Enter")
    page.wait_for_url(f"{on.url}/")
    enrol(page)
    page.get_by_role("link", name="Keys").click()
    stick = add_authenticator(devices, "usb")
    touch(devices, laptop, False)

    def change_devices() -> None:
        touch(devices, stick, False)
        touch(devices, laptop, True)

    page.expose_function("changeDevices", change_devices)
    page.evaluate(CHANGE_DEVICES)
    page.get_by_role("button", name="Enrol a passkey").click()
    expect(page.get_by_text("with another key of the approver")).to_be_visible()
    devices.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": laptop})
    touch(devices, stick, True)
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.wait_for_url(f"{on.url}/sign-in")
    page.goto(f"{on.url}/history")
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()  # where they wanted to go
    expect(page.get_by_text("Bob", exact=True)).to_be_visible()
    check_revoked_person(on, page)
    cli("verify", "--config", str(on.config))


def check_revoked_person(on: Fleet, page: Page) -> None:
    """Once the configuration has no bob, his session and his passkey are good for nothing."""
    text = on.other.read_text()
    on.other.write_text(text.replace('[approvers.bob]\nname = "Bob"\n', ""))
    on.serve_pages()
    page.goto(f"{on.url}/history")
    expect(page.get_by_text("Your session has ended. Sign in again.")).to_be_visible()
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("`bob` is no longer an approver")
    on.other.write_text(text)
    on.serve_pages()


@in_full
def test_page_of_a_request_that_was_decided_meanwhile_says_so(on: Fleet, open_page: OpenPage) -> None:
    call = on.hold(deal_id="790", amount=12500.0)
    [request] = on.requests()
    page = open_page(**DESKTOP)
    add_passkeys(page.context, page)
    code = json.loads(cli("approvers", "code", "alice", "--enrol", "--json", "--config", str(on.config)).stdout)["code"]
    page.goto(f"{on.url}/keys")
    page.get_by_label("One-time code").fill(code)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your keys")).to_be_visible()
    enrolled = page.get_by_text("with a one-time code")
    before = enrolled.count()
    page.get_by_role("button", name="Enrol a passkey").click()
    expect(enrolled).to_have_count(before + 1)  # after which the page is loaded again
    page.goto(f"{on.url}/requests/{request['id']}")
    page.route("**/state", lambda route: route.abort())  # the page has no news
    on.client.notify("notifications/cancelled", {"requestId": call})
    deadline = time.monotonic() + 20
    while on.requests() and time.monotonic() < deadline:
        time.sleep(0.1)
    approve(page, "too late")
    expect(page.get_by_role("alert")).to_contain_text("that is `withdrawn`")
    page.unroute("**/state")
    page.reload()
    expect(page.get_by_text("the client cancelled the call")).to_be_visible()
