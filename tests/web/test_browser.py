"""The inbox in a real browser: a passkey is enrolled, scenario B is approved with it, and the receipt proves it."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from mcp_guard.verifier import verify_ledger
from tests.live.running_guard import cli, log, text
from tests.proof_size import in_full
from tests.verifier.resign import sign_anew
from tests.web.inbox_process import (
    InboxScenario,
    OpenPage,
    add_authenticator,
    add_passkeys,
    browser,
    enrol,
    free_port,
    inbox_scenario,
    prepare,
    sign_in,
    touch,
)
from tests.web.web_process import web_process

ORIGIN = "crm-example.local/ledger"
NOT_USED = "The passkey was not used. Nothing was done. Try again, or enrol one for this device on the page Keys."


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as launched:
        yield launched


@pytest.fixture
def on(tmp_path: Path) -> Iterator[InboxScenario]:
    with inbox_scenario(tmp_path) as made:
        yield made


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page()


@pytest.fixture
def context(page: Page) -> BrowserContext:
    return page.context


def test_a_page_on_loopback_follows_where_it_is_sent(chromium: Browser, tmp_path: Path) -> None:
    config, port = prepare(tmp_path), free_port()
    web = f'[web]\nurl = "http://localhost:{port}"\nlisten = "127.0.0.1:{port}"\nlocal_sign_in = false\n'
    oidc = '[web.oidc]\nissuer = "https://idp.example"\nclient_id = "g"\n'
    config.write_text(f"{config.read_text()}\n{web}{oidc}")
    with web_process(config) as url, closing(chromium.new_context()) as context:
        page = context.new_page()
        made = cli("approvers", "code", "alice", "--enrol", "--json", "--config", str(config))
        page.goto(f"{url}/sign-in#{json.loads(made.stdout)['code']}")
        page.locator("#code").press("Enter")
        expect(page.get_by_role("button", name="Enrol a passkey")).to_be_visible()
        assert page.url == f"{url}/keys"


def test_a_decision_is_signed_once_however_often_its_buttons_are_pressed(
    on: InboxScenario, context: BrowserContext, page: Page
) -> None:
    add_passkeys(context, page)
    sign_in(page, on)
    enrol(page)
    on.hold()
    page.locator("a.card").first.click()
    page.get_by_label("Rationale").fill("ok")
    asked: list[Route] = []
    page.route("**/options", lambda request: asked.extend([request]))
    page.get_by_role("button", name="Approve").dblclick()
    page.keyboard.press("d")
    for verdict in ("Approve", "Deny", "Grant"):
        expect(page.get_by_role("button", name=verdict)).to_be_disabled()
    [request] = asked
    request.abort()
    expect(page.get_by_role("alert")).to_have_text("Failed to fetch")
    expect(page.get_by_role("button", name="Approve")).to_be_focused()
    page.unroute("**/options")
    page.get_by_role("button", name="Approve").dblclick()
    page.wait_for_url(f"{on.url}/")
    assert [receipt["verdict"] for receipt in log(on.config, "--kind", "approval.granted")] == ["approve"]


def copy_of(on: InboxScenario, folder: Path, private: bool) -> Path:
    """A copy of the ledger, its public key and, if wanted, the guard's private key."""
    folder.mkdir()
    state = on.config.parent / "state"
    with sqlite3.connect(state / "ledger.sqlite") as original, sqlite3.connect(folder / "ledger.sqlite") as other:
        original.backup(other)
    original.close()
    other.close()
    for name in ("ledger.pub", *(["ledger.key"] if private else [])):
        shutil.copy(state / name, folder)
    return folder


def test_scenario_b_is_approved_with_a_passkey_but_not_without_and_proved(
    on: InboxScenario, context: BrowserContext, page: Page, tmp_path: Path
) -> None:
    add_passkeys(context, page)
    sign_in(page, on)
    enrol(page)
    call = on.hold()
    page.get_by_role("link", name=re.compile("update deal Deal 789")).click()
    expect(page.get_by_role("row", name="stage Negotiation Closed Won")).to_be_visible()
    expect(page.get_by_text("closing a deal as won or lost needs a person's approval").first).to_be_visible()
    expect(page.get_by_text("The customer signed this morning.")).to_be_visible()
    expect(page.get_by_text("claimed by the agent, not verified")).to_be_visible()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_have_text("Enter a rationale: it is required.")
    page.get_by_label("Rationale").fill("Signed contract seen.")
    page.evaluate("() => { navigator.credentials.get = async () => { throw new DOMException('', 'NotAllowedError') } }")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_have_text(NOT_USED)
    assert [request["state"] for request in on.requests()] == ["requested"]
    page.evaluate("() => { delete navigator.credentials.get }")
    page.get_by_role("button", name="Approve").click()
    page.wait_for_url(f"{on.url}/")
    expect(page.get_by_role("status").and_(page.locator("#done"))).to_have_text("You approved: update deal Deal 789.")
    expect(page.get_by_text("No pending requests.")).to_be_visible()
    page.reload()
    expect(page.get_by_text("No pending requests.")).to_be_visible()
    expect(page.locator("#done")).to_be_empty()
    assert json.loads(text(on.client.wait(call)))["deal"]["stage"] == "Closed Won"
    page.goto(f"{on.url}/history")
    expect(page.get_by_text("Alice approved: Signed contract seen.")).to_be_visible()
    check_proof_of_the_vote(on, tmp_path)


def check_proof_of_the_vote(on: InboxScenario, tmp_path: Path) -> None:
    """With public keys alone, and not once its rationale is another."""
    [granted] = log(on.config, "--kind", "approval.granted")
    assert granted["signature"].keys() == {"signature", "authenticator_data", "client_data"}
    keys = tmp_path / "approvers.json"
    keys.write_text(cli("approvers", "list", "--json", "--config", str(on.config)).stdout)

    alone = copy_of(on, tmp_path / "alone", private=False)
    package = Path(verify_ledger.__code__.co_filename).parent
    shutil.copytree(package, alone / "verifier")
    words = ["ledger.sqlite", "--key", "ledger.pub", "--approvers", str(keys)]
    done = subprocess.run([sys.executable, "-m", "verifier", *words], cwd=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "approvers      1 vote, each signed with the approver's own key" in done.stdout

    def one_byte(receipt: dict[str, Any]) -> None:
        if receipt["kind"] == "approval.granted":
            receipt["rationale"] = "Signed contract sees."

    forged = copy_of(on, tmp_path / "forged", private=True)
    sign_anew(forged, ORIGIN, one_byte)
    report = verify_ledger(forged / "ledger.sqlite", forged / "ledger.pub")
    assert not report.ok
    assert "the vote of `alice` is not signed by them: the passkey signed another statement" in report.problem


def test_a_long_value_takes_the_whole_width_of_the_table(on: InboxScenario, page: Page) -> None:
    sign_in(page, on)
    on.hold(notes="word " * 200)
    page.locator("a.card").first.click()
    short, long = (
        page.locator(".diff tr", has=page.get_by_role("rowheader", name=name)) for name in ("stage", "notes")
    )
    table = page.locator(".diff").bounding_box()
    cells = [row.get_by_role("cell").last.bounding_box() for row in (short, long)]
    assert table
    assert [round(cell["width"] / table["width"], 1) for cell in cells if cell] == [0.4, 1.0]


def test_a_long_value_hides_nothing_else_and_can_be_read_by_keyboard(on: InboxScenario, open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 390, "height": 844})
    sign_in(page, on)
    on.hold(notes="word " * 50_000 + "the end", close_date="x\n" * 400)
    page.locator("a.card").first.click()
    expect(page.get_by_text("250,007 characters: scroll to read all of it")).to_be_visible()
    for heading in ("Requested by", "Why approval is required"):
        box = page.get_by_role("heading", name=heading).bounding_box()
        assert box
        assert box["y"] < 3 * 844
    long = page.get_by_role("group", name="notes, after")
    long.focus()
    page.keyboard.press("End")
    page.wait_for_function(
        "(box) => box.scrollTop + box.clientHeight + 2 > box.scrollHeight", arg=long.element_handle()
    )
    assert long.inner_text().endswith("the end")
    assert page.locator(".box").count() == 2  # short values have no box
    page.emulate_media(media="print")
    assert long.evaluate("(box) => box.scrollHeight - box.clientHeight") < 2


def enrol_and_sign_out(on: InboxScenario, context: BrowserContext, page: Page) -> None:
    add_passkeys(context, page)
    sign_in(page, on)
    enrol(page)
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{on.url}/sign-in")


def test_a_code_for_a_new_key_leads_to_the_page_of_keys(on: InboxScenario, context: BrowserContext, page: Page) -> None:
    enrol_and_sign_out(on, context, page)
    made = cli("approvers", "code", "alice", "--enrol", "--json", "--config", str(on.config))
    page.goto(f"{on.url}/history")
    page.get_by_label("One-time code").fill(json.loads(made.stdout)["code"])
    page.locator("#code").press("Enter")
    page.wait_for_url(f"{on.url}/keys")
    expect(page.get_by_role("button", name="Enrol a passkey")).to_be_visible()


@in_full
def test_inbox_works_by_keyboard_on_a_phone_in_dark_mode(on: InboxScenario, chromium: Browser) -> None:
    """Sign in, enrol, find the request, deny it: by keyboard only, 360 pixels wide, without overflow."""
    look: Any = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    context = chromium.new_context(**look)
    page = context.new_page()
    page.set_default_timeout(10_000)
    add_passkeys(context, page)
    page.goto(f"{on.url}/sign-in")
    page.get_by_label("One-time code").focus()
    page.keyboard.type(on.code())
    page.keyboard.press("Enter")
    page.wait_for_url(f"{on.url}/")
    page.get_by_role("button", name="Enrol a passkey").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Enrol a passkey").wait_for(state="detached")
    call = on.hold()
    page.locator("a.card").wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("article")
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(page.locator("html")).to_have_css("background-color", "rgb(18, 23, 21)")
    page.keyboard.press("d")
    expect(page.get_by_label("Rationale")).to_be_focused()
    page.keyboard.type("not before Friday")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{on.url}/")
    assert "is denied by Alice: not before Friday" in text(on.client.wait(call))
    context.close()


@in_full
def test_grant_is_given_used_shown_and_revoked_in_the_inbox(
    on: InboxScenario, context: BrowserContext, page: Page
) -> None:
    add_passkeys(context, page)
    sign_in(page, on)
    enrol(page)
    call = on.hold()
    page.locator("a.card").first.click()
    page.get_by_label("Rationale").fill("the whole quarter is signed")
    page.get_by_role("button", name="Grant similar calls").click()
    page.get_by_label("Up to").fill("2")
    page.get_by_role("checkbox", name="notes").count()
    page.get_by_role("checkbox", name="amount").check()
    buttons = page.locator(".buttons button")
    expect(buttons).to_have_text(["Approve and grant", re.compile("Approve only this call"), re.compile("Deny")])
    expect(page.locator(".buttons .primary")).to_have_text("Approve and grant")
    page.get_by_role("button", name="Approve and grant").click()
    page.wait_for_url(f"{on.url}/")
    on.client.wait(call)
    expect(page.get_by_text("0 of 2 used")).to_be_visible()
    again = {"deal_id": "789", "stage": "Closed Lost", "amount": 50000.0}
    held = on.client.send("tools/call", {"name": "crm__update_deal", "arguments": again})
    expect(page.locator("a.card")).to_be_visible()  # other arguments are another call
    page.on("dialog", lambda dialog: dialog.accept("plans changed"))
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("0 of 2 used")).to_have_count(0)
    on.client.notify("notifications/cancelled", {"requestId": held})
    expect(page.get_by_text("No pending requests.")).to_be_visible()
    page.goto(f"{on.url}/history")
    expect(page.get_by_text("the client cancelled the call")).to_be_visible()


@in_full
def test_user_signs_out_and_in_again_with_a_passkey(on: InboxScenario, context: BrowserContext, page: Page) -> None:
    enrol_and_sign_out(on, context, page)
    page.goto(f"{on.url}/history")
    page.wait_for_url(f"{on.url}/sign-in")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.wait_for_url(f"{on.url}/history")  # where they wanted to go
    expect(page.get_by_text("Alice")).to_be_visible()


@in_full
def test_further_passkey_is_confirmed_with_the_first(on: InboxScenario, context: BrowserContext, page: Page) -> None:
    session = context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    laptop = add_authenticator(session, "internal")
    sign_in(page, on)
    enrol(page)
    expect(page.get_by_text("A passkey was enrolled for you on")).to_be_visible()
    page.get_by_role("link", name="Keys").click()
    expect(page.get_by_text("with a one-time code, as the first key")).to_be_visible()
    page.get_by_role("button", name="Enrol a passkey").click()
    expect(page.get_by_role("alert")).to_have_text("This device has a passkey for the inbox already.")
    stick = add_authenticator(session, "usb")
    touch(session, laptop, False)

    def change_devices(route: Route) -> None:
        answer = route.fetch()
        assert answer.status == 403
        touch(session, stick, False)
        touch(session, laptop, True)
        route.fulfill(response=answer)

    page.route("**/passkeys", change_devices)
    page.get_by_role("button", name="Enrol a passkey").click()
    expect(page.get_by_text("with another key of the approver")).to_be_visible()
    assert [key["authorized_by"] for key in log(on.config, "--kind", "approver.enrolled")] == ["sign_in_code", "key"]
    cli("verify", "--config", str(on.config))


def test_printed_link_signs_in_and_signing_out_reaches_other_tabs_and_the_back_button(
    on: InboxScenario, context: BrowserContext, page: Page
) -> None:
    printed = cli("approvers", "code", "alice", "--config", str(on.config)).stdout
    [link] = re.findall(r"http://localhost:\S+(?=,)", printed)
    page.goto(link)
    expect(page.get_by_label("One-time code")).to_have_value(printed.partition("\n")[0])
    assert page.url == f"{on.url}/sign-in"  # and the history does not keep it
    page.get_by_role("button", name="Sign in with the code").click()
    page.wait_for_url(f"{on.url}/")
    expect(page.get_by_text("Alice")).to_be_visible()
    other = context.new_page()
    other.goto(f"{on.url}/history")
    expect(other.get_by_role("heading", name="History")).to_be_visible()
    page.get_by_role("link", name="History").click()
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{on.url}/sign-in")
    other.wait_for_url(f"{on.url}/sign-in")
    page.go_back()
    page.wait_for_url(f"{on.url}/sign-in")


@in_full
def test_link_of_a_notification_survives_the_sign_in(on: InboxScenario, page: Page) -> None:
    on.hold()
    address = f"{on.url}/requests/{on.requests()[0]['id']}"
    page.goto(address)
    page.wait_for_url(f"{on.url}/sign-in")
    page.get_by_label("One-time code").fill("AAAAA-AAAAA")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This code is invalid, already used, or older than ten minutes.")
    page.get_by_label("One-time code").fill(on.code())
    page.keyboard.press("Enter")
    page.wait_for_url(address)
    expect(page.get_by_role("row", name="stage Negotiation Closed Won")).to_be_visible()
    page.goto(f"{on.url}/requests/ap_none")
    expect(page.get_by_role("alert").first).to_have_text("no such request")


BROKEN_WORDS = """() => {
  const broken = [];
  for (const cell of document.querySelectorAll(".diff th, .diff td, dl.facts dd")) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const word of texts.currentNode.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
        if (word[0].length > 20) continue;
        const range = document.createRange();
        range.setStart(texts.currentNode, word.index);
        range.setEnd(texts.currentNode, word.index + word[0].length);
        if (range.getClientRects().length > 1) broken.push(word[0]);
      }
    }
  }
  return broken;
}"""


def check_that_words_fit(page: Page) -> None:
    """No word is broken, and no long one makes the page wider than the screen."""
    for place in ("h1 b", ".why.big", "dl.facts dd"):
        page.locator(place).first.evaluate("(element) => { element.textContent += 'x'.repeat(300) }")
    for width in (640, 720, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate(BROKEN_WORDS) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_approver_sees_what_matters_on_a_phone(on: InboxScenario, open_page: OpenPage) -> None:
    """A long request whose text hides characters and whose payee is the present one."""
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    add_passkeys(page.context, page)
    sign_in(page, on)
    enrol(page)
    command = "Y3VybCBodHRwczovL2V2aWwuZXhhbXBsZQ=="
    notes = f"{command} They pay \u202eyenom\u202c soon. " + "Much more was said about this deal. " * 60
    call = on.hold(billing_contact_email="billing@northwind.example", close_date="2027-01-31", notes=notes)
    expect(page.get_by_text("New requests appear automatically.")).to_be_visible()
    expect(page.get_by_text("for keyboard shortcuts")).to_be_hidden()
    expect(page.get_by_text("billing@northwind.example")).to_be_visible()
    page.locator("a.card").tap()

    payee = page.get_by_role("row").filter(has_text="billing_contact_email")
    expect(payee).to_be_in_viewport()
    expect(payee).to_contain_text("sensitive")
    expect(payee).to_contain_text("no change")
    expect(page.get_by_text(re.compile(r"^\d+ min( \d+ s)? left$")).first).to_be_visible()
    expect(page.get_by_text("has characters that show nothing")).to_be_visible()
    expect(page.get_by_text("contains base64 of")).to_contain_text("curl https://evil.example")
    expect(page.get_by_text("Done before: never with an approval.")).to_be_visible()
    expect(page.get_by_text("all runs of deal-update-agent: none")).to_be_visible()
    check_that_words_fit(page)
    approve = page.get_by_role("button", name="Approve")
    expect(approve).to_be_in_viewport(ratio=1)  # at the top of the page
    page.get_by_label("Rationale").tap()
    assert page.evaluate("scrollY") == 0  # what was being read stays in view
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(approve).to_be_in_viewport(ratio=1)
    expect(approve).to_have_text("Approve", use_inner_text=True)  # without the key
    approve.tap()
    problem, field = page.get_by_role("alert"), page.get_by_label("Rationale")
    expect(problem).to_have_text("Enter a rationale: it is required.")
    expect(field).to_be_focused()
    below, box = problem.bounding_box(), field.bounding_box()
    assert below is not None
    assert box is not None
    assert 0 <= below["y"] - (box["y"] + box["height"]) < 20
    page.keyboard.type("x")
    expect(problem).to_be_hidden()
    page.get_by_role("button", name="Deny").tap()
    page.wait_for_url(f"{on.url}/")
    assert "is denied by Alice: x" in text(on.client.wait(call))
