"""Sign-in with the identity provider in a real browser: from a link to a decision, at a real origin and on loopback."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.live.running_guard import cli, log
from tests.proof_size import in_full
from tests.web.axe import violations
from tests.web.identity_provider import ALICE, DAVE, STRONG
from tests.web.inbox_process import OpenPage, add_passkeys, enrol, free_port, inbox
from tests.web.oidc_scenario import ROUTE, OidcScenario, oidc_scenario
from tests.web.web_process import browser_at

PORT = free_port()
LOCAL = f"http://localhost:{PORT}"


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcScenario]:
    def edit(text: str) -> str:
        text = text.replace("[guard]", f"[inbox]\nport = {PORT}\n\n[guard]", 1)
        return text.replace('approvers = ["alice"]\n', f'approvers = ["alice"]\n{ROUTE}', 1)

    with oidc_scenario(tmp_path_factory.mktemp("oidc"), edit, also=f"{LOCAL}/sign-in/oidc/callback") as made:
        yield made


@pytest.fixture(scope="module")
def chromium(scenario: OidcScenario) -> Iterator[Browser]:
    assert scenario.on.certificate is not None
    with browser_at(scenario.on.certificate) as launched:
        yield launched


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page(viewport={"width": 360, "height": 740})


def sign_in_there(page: Page, scenario: OidcScenario, button: str = "Sign in", login: str = ALICE) -> None:
    page.wait_for_url(f"{scenario.provider.issuer}/**", timeout=40_000)
    page.get_by_label("Name").fill(login)
    page.get_by_role("button", name=button, exact=True).click()


def check_page(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []


def test_a_request_is_approved_from_its_link_after_signing_in_and_signing_in_again(
    scenario: OidcScenario, page: Page, tmp_path: Path
) -> None:
    address = f"{scenario.on.url}/requests/{scenario.open_request}"
    add_passkeys(page.context, page)
    page.goto(address)
    check_page(page)
    scenario.provider.control("alter", {"claims": {"auth_time": int(time.time()) - 700}})
    page.get_by_role("button", name="Sign in with Example").click()
    sign_in_there(page, scenario)
    page.wait_for_url(address)
    page.goto(f"{scenario.on.url}/keys")
    page.get_by_role("button", name="Enrol a passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("a first passkey requires a sign-in of the last ten minutes")
    page.get_by_role("button", name="Sign in again").click()
    sign_in_there(page, scenario)
    page.wait_for_url(f"{scenario.on.url}/keys")
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_contain_text("790")
    enrol(page)
    expect(page.get_by_text("and yours had none")).to_be_visible()
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    check_page(page)
    page.get_by_role("button", name="Sign in again with Example").click()
    expect(page.locator("#asked")).to_contain_text(STRONG)
    sign_in_there(page, scenario, "Sign in with a second factor")
    page.wait_for_url(address)
    page.get_by_label(re.compile("Rationale")).fill("The customer has signed.")
    page.get_by_role("button", name="Approve").click()
    page.wait_for_url(f"{scenario.on.url}/")
    [granted] = log(scenario.on.config, "--kind", "approval.granted")
    assert granted["signed_in"]["acr"] == STRONG
    cli("verify", "--config", str(scenario.on.config))
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{scenario.provider.issuer}/**", timeout=40_000)
    page.get_by_role("button", name="Yes, sign me out").click()
    page.wait_for_url(f"{scenario.on.url}/sign-in*")


def test_a_user_signs_in_to_an_upstream_and_out_again(scenario: OidcScenario, page: Page) -> None:
    page.goto(scenario.on.url)
    page.get_by_role("button", name="Sign in with Example").click()
    sign_in_there(page, scenario, login=DAVE)
    page.wait_for_url(f"{scenario.on.url}/upstreams")
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Upstreams"])
    own = page.locator("#notes")
    expect(own).to_contain_text("not signed in")
    check_page(page)
    own.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{scenario.on.url}/upstreams#notes")  # the provider knows them already
    expect(own.locator(".tag")).to_have_text("signed in")
    check_page(page)
    own.get_by_role("button", name="Sign out").click()
    expect(own.locator(".tag")).to_have_text("not signed in")


@in_full
def test_who_cancels_reads_what_happened_and_begins_again(scenario: OidcScenario, page: Page) -> None:
    page.goto(f"{scenario.on.url}/keys")
    page.get_by_role("button", name="Sign in with Example").click()
    sign_in_there(page, scenario, "Cancel")
    expect(page.get_by_role("alert")).to_contain_text("the sign-in was not completed at the identity provider")
    assert "?" not in page.url
    check_page(page)
    page.get_by_role("link", name="Sign in again").click()
    expect(page.get_by_role("button", name="Sign in with Example")).to_be_visible()


def test_a_provider_that_is_down_is_said_to_be(scenario: OidcScenario, page: Page) -> None:
    """The guard has read the provider's metadata already, and its keys; the code cannot be exchanged."""
    page.goto(scenario.on.url)
    page.get_by_role("button", name="Sign in with Example").click()
    page.wait_for_url(f"{scenario.provider.issuer}/**", timeout=40_000)
    page.get_by_label("Name").fill(ALICE)

    def stop_first(route: Route) -> None:
        scenario.provider.stop()
        route.continue_()

    page.route(f"{scenario.on.url}/sign-in/oidc/finish", stop_first)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("the identity provider cannot be reached")
    scenario.provider.start()


@in_full
def test_on_loopback_the_session_stays_in_the_page(scenario: OidcScenario, page: Page) -> None:
    with inbox(scenario.on.config) as url:
        assert url == LOCAL
        page.goto(f"{url}/keys")
        page.wait_for_url(f"{url}/sign-in")
        page.get_by_role("button", name="Sign in with Example").click()
        sign_in_there(page, scenario)
        page.wait_for_url(f"{url}/keys")
        expect(page.get_by_role("heading", name="Your keys")).to_be_visible()
        assert page.evaluate("localStorage.getItem('mcp-guard.session')")
        assert not [cookie for cookie in page.context.cookies() if "mcp-guard" in str(cookie.get("name"))]
