"""The console in a real browser: accessible and within the screen in every look, by keyboard, live, on loopback too."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.live.running_guard import cli, text
from tests.proof_size import in_full, sized
from tests.web.axe import violations
from tests.web.inbox_process import add_passkeys, free_port, inbox
from tests.web.web_process import WebScenario, browser_at, web_scenario

PHONE_WIDTH = 360
PHONE: dict[str, Any] = {
    "viewport": {"width": PHONE_WIDTH, "height": 780}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2,
}  # fmt: skip
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
LOOKS: dict[str, dict[str, Any]] = {
    "wide": {**WIDE, "color_scheme": "light"},
    "phone": {**PHONE, "color_scheme": "dark"},
    "wide-dark": {**WIDE, "color_scheme": "dark"},
    "phone-light": {**PHONE, "color_scheme": "light"},
}
PATHS = (
    "/overview", "/ledger", "/ledger?user=dana&risk=medium", "/ledger?since=lately", "/calls/{call}", "/ledger/0",
    "/agents", "/agents/deal-update-agent", "/upstreams", "/", "/requests/{request}", "/history", "/grants", "/keys",
    "/policies", "/policies/decision?what={call}", "/policy-changes", "/tools", "/tools/crm__update_deal", "/approvers",
    "/nonesuch",
)  # fmt: skip
VIEWS = [(look, path) for look in sized([*LOOKS], ["phone"]) for path in PATHS]
OUTSIDE = """[...document.querySelectorAll("main *")].filter((element) =>
  element.getBoundingClientRect().right > innerWidth + 1 && !element.closest("pre, .scroll, .visually-hidden, thead")
).map((element) => element.outerHTML.slice(0, 80))"""
"""What is cut off at the right of the screen, although the page is not wider."""
ROLES = '[web.roles]\nauditor = ["alice"]\noperator = ["alice"]\n'


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebScenario]:
    more = f"{ROLES}[inbox]\nport = {free_port()}\n"
    with web_scenario(tmp_path_factory.mktemp("console"), web=more) as made:
        change(made, amount=48500.0)
        change(made, discount_rate=0.4)
        made.hold()
        yield made


def change(on: WebScenario, **arguments: object) -> str:
    return text(on.client.call("crm__update_deal", {"deal_id": "789", **arguments}))


@pytest.fixture(scope="module")
def chromium(on: WebScenario) -> Iterator[Browser]:
    assert on.certificate is not None
    with browser_at(on.certificate) as launched:
        yield launched


def signed_in(on: WebScenario, chromium: Browser, look: str, url: str = "") -> Page:
    page = chromium.new_context(**LOOKS[look]).new_page()
    page.goto(f"{url or on.url}/sign-in")
    page.get_by_label("One-time code").fill(on.code())
    page.get_by_role("button", name="Sign in with the code").click()
    page.wait_for_url(f"{url or on.url}/")
    return page


@pytest.fixture(scope="module")
def pages(on: WebScenario, chromium: Browser) -> dict[str, Page]:
    return {look: signed_in(on, chromium, look) for look in {"wide", *dict(VIEWS)}}


@pytest.fixture(scope="module")
def names(on: WebScenario) -> dict[str, str]:
    """What the paths name."""
    return {"call": denied_call(on), "request": on.requests()[0]["id"]}


def denied_call(on: WebScenario) -> str:
    log = json.loads(cli("log", "--json", "--outcome", "deny", "--config", str(on.config)).stdout)
    return str(log[0]["call"])


@pytest.mark.parametrize(("look", "path"), VIEWS)
def test_pages_are_accessible_and_within_the_screen(
    on: WebScenario, pages: dict[str, Page], names: dict[str, str], look: str, path: str
) -> None:
    page = pages[look]
    page.goto(on.url + path.format(**names))
    page.locator("main h1").wait_for(state="attached")
    if page.locator("#proof").count():
        page.locator("#proof .proved").wait_for()
    for summary in page.locator("main details:not([open]) > summary").all():
        if summary.is_visible():
            summary.click()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == LOOKS[look]["viewport"]["width"]
    assert page.evaluate(OUTSIDE) == []
    if LOOKS[look]["viewport"]["width"] == PHONE_WIDTH:
        page.evaluate("document.documentElement.style.fontSize = '200%'")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE_WIDTH
        assert page.evaluate(OUTSIDE) == []
        assert page.locator(".decide").evaluate_all("forms => forms.map(f => getComputedStyle(f).position)") in (
            [],
            ["static"],
        )


@in_full
def test_ledger_is_searched_by_keyboard_alone(on: WebScenario, pages: dict[str, Page]) -> None:
    page = pages["wide"]
    page.goto(f"{on.url}/ledger")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.get_by_label("Outcome").evaluate("element => element === document.activeElement"):
            break
    page.keyboard.type("deny")
    page.keyboard.press("Tab")
    page.keyboard.type("1h")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{on.url}/ledger?outcome=deny&since=1h")
    [row] = page.locator("table.entries tbody tr").all()
    row.get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="update deal Deal 789")).to_be_visible()
    expect(page.get_by_text("discount_rate").first).to_be_visible()


def test_new_calls_appear_without_a_reload(on: WebScenario, pages: dict[str, Page]) -> None:
    page = pages["wide"]
    page.goto(f"{on.url}/ledger?outcome=ok")
    change(on, amount=48600.0)
    made = json.loads(cli("log", "--json", "--outcome", "ok", "--config", str(on.config)).stdout)[0]["call"]
    expect(page.locator(f'table.entries a[href="/calls/{made}"]')).to_be_visible(timeout=20_000)


@in_full
def test_proofs_of_a_call_are_downloaded(on: WebScenario, pages: dict[str, Page]) -> None:
    page = pages["wide"]
    page.goto(f"{on.url}/calls/{denied_call(on)}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the proofs").click()
    assert download.value.suggested_filename.endswith(".bundle.jsonl")
    lines = download.value.path().read_text().splitlines()
    assert {json.loads(line)["form"] for line in lines} == {"mcp-guard/bundle/v1"}


def test_numbers_of_a_chart_lead_to_the_calls(on: WebScenario, pages: dict[str, Page]) -> None:
    page = pages["wide"]
    page.goto(f"{on.url}/overview")
    page.get_by_text("Numbers of: Calls by decision").click()
    chart = page.get_by_role("figure", name="Calls by decision")
    chart.get_by_role("rowheader").get_by_role("link").last.click()
    page.wait_for_url(f"{on.url}/ledger?since=*&until=*")
    expect(page.locator("table.entries tbody tr").first).to_be_visible()


@in_full
def test_pages_work_on_loopback_where_the_script_fetches_them(on: WebScenario, chromium: Browser) -> None:
    with inbox(on.config) as url:
        page = signed_in(on, chromium, "wide", url)
        for name in ("Overview", "Ledger", "Agents", "Upstreams"):
            page.get_by_role("link", name=name, exact=True).click()
            expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
        page.goto(f"{url}/calls/{denied_call(on)}")
        expect(page.get_by_text("Proved.")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the proofs").click()
        assert download.value.path().read_text().startswith('{"form":')
        page.goto(f"{url}/ledger")
        page.get_by_label("Tool").fill("crm__*")
        page.get_by_role("button", name="Search").click()
        page.wait_for_url(f"{url}/ledger?tool=crm__*")
        expect(page.locator("table.entries tbody tr").first).to_be_visible()


def test_operator_revokes_an_instance_with_a_reason_and_a_passkey(on: WebScenario, chromium: Browser) -> None:
    page = signed_in(on, chromium, "wide")
    add_passkeys(page.context, page)
    page.goto(f"{on.url}/keys")
    page.get_by_role("button", name="Enrol a passkey").click()
    page.locator("li.card.flat").first.wait_for()
    page.goto(f"{on.url}/agents")
    row = page.locator("table.entries tbody tr").first
    row.locator("summary").click()
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("alert")).to_contain_text("required")
    row.get_by_label("Why").fill("It behaves oddly.")
    row.get_by_role("button", name="Revoke").click()
    expect(page.locator("table.entries tbody tr").first.get_by_text("revoked")).to_be_visible()
    words = ("--json", "--kind", "credential.revoked", "--config", str(on.config))
    [receipt] = json.loads(cli("log", *words).stdout)
    assert receipt["operation"]["reason"] == "It behaves oddly."
    assert receipt["operation"]["operator"] == "alice"
    cli("verify", "--config", str(on.config))
