"""Policies that people approve and tool definitions that operators accept, in a real browser at a real origin."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.live.running_guard import cli, log
from tests.proof_size import in_full
from tests.web.axe import violations
from tests.web.inbox_process import OpenPage, add_passkeys, sign_in
from tests.web.screenshots import list_changed_definition
from tests.web.software_passkey import SoftwarePasskey
from tests.web.web_client import WebClient
from tests.web.web_process import WebScenario, browser_at, web_scenario

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
PEOPLE = """[web.roles]
operator = ["alice"]
auditor = ["alice", "bob"]
[approvers.bob]
name = "Bob"
[approvers.carol]
name = "Carol"
[routes.policy]
approvers = ["alice", "carol"]
"""
NOTHING = '@id("closed") @reason("closed today") forbid (principal, action, resource);\n'


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebScenario]:
    def edit(text: str) -> str:
        return text.replace("[guard]", '[guard]\npolicy_approval = "policy"', 1)

    with web_scenario(tmp_path_factory.mktemp("policies"), edit, PEOPLE) as made:
        yield made


@pytest.fixture(scope="module")
def chromium(on: WebScenario) -> Iterator[Browser]:
    assert on.certificate is not None
    with browser_at(on.certificate) as launched:
        yield launched


def client(on: WebScenario, approver: str = "alice") -> WebClient:
    assert on.certificate is not None
    return WebClient(on.url, context=on.certificate.context).sign_in(on.code(approver))


def enrolment_code(on: WebScenario) -> str:
    return cli("approvers", "code", "alice", "--enrol", "--config", str(on.config)).stdout.split()[0]


def kinds(on: WebScenario) -> list[str]:
    return [row["kind"].removeprefix("policy.") for row in log(on.config) if row["kind"].startswith("policy.")]


def wait_for(page: Page, text: str) -> None:
    """Reload until the page says this: a guard proposes and loads within seconds."""
    for _ in range(60):
        if page.get_by_text(text).count():
            return
        page.wait_for_timeout(500)
        page.reload()
    raise AssertionError(f"no `{text}` on {page.url}: {page.inner_text('main')}")


def test_policies_are_approved_with_a_passkey_and_then_decide(on: WebScenario, open_page: OpenPage) -> None:
    page = open_page(**PHONE)
    add_passkeys(page.context, page)
    sign_in(page, on)
    page.goto(f"{on.url}/policy-changes")
    wait_for(page, "waits for approval by 1 of alice, carol")
    expect(page.get_by_text("No policies have been approved yet, so every call is denied.")).to_be_visible()
    page.get_by_role("button", name="Enrol a passkey on this device").tap()
    expect(page.get_by_role("button", name="Approve")).to_be_enabled()
    page.wait_for_load_state()  # the script that approves runs once the page is parsed
    page.get_by_role("button", name="Approve").tap()
    expect(page.get_by_role("alert")).to_contain_text("it is required and recorded")
    page.get_by_label("Rationale").fill("The reviewed set.")
    page.get_by_role("button", name="Approve").tap()
    expect(page.get_by_text("Nothing waits for approval.")).to_be_visible()
    page.wait_for_load_state()  # before it has its styles, its width means nothing
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for _ in range(60):
        if "loaded" in kinds(on):
            break
        page.wait_for_timeout(500)
    held = on.hold()
    [request] = on.requests()
    assert held
    policy = on.config.parent / "policies" / "closed.cedar"
    policy.write_text(NOTHING)
    wait_for(page, "Until then the policies in force stay.")
    expect(page.get_by_role("region", name="Difference of closed.cedar")).to_contain_text('+ @id("closed")')
    expect(
        page.get_by_text(re.compile("None of these decisions would be more permissive|More permissive"))
    ).to_be_visible()
    expect(page.get_by_text("would differ")).to_be_visible()
    assert violations(page) == []
    page.get_by_label("Rationale").fill("Not today.")
    page.get_by_role("button", name="Deny").tap()
    expect(page.get_by_text("was denied")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert kinds(on) == ["proposed", "approved", "loaded", "proposed", "denied"]
    policy.unlink()
    page.goto(f"{on.url}/policies")
    expect(page.get_by_role("table")).to_contain_text("hold")
    assert violations(page) == []
    page.get_by_label("Policies, in Cedar").fill(NOTHING)
    page.get_by_role("button", name="Replay").tap()
    page.wait_for_url(re.compile("/policies/candidate/"))
    expect(page.get_by_text("1 of the latest 1 would differ")).to_be_visible()
    expect(page.get_by_role("table", name="Calls that would be decided differently")).to_contain_text("stricter")
    assert request["id"]
    cli("verify", "--config", str(on.config))


@in_full
def test_changed_tool_is_shown_and_accepted_with_a_passkey(on: WebScenario, open_page: OpenPage) -> None:
    with ThreadPoolExecutor(1) as thread:  # the browser's own event loop runs in this one
        thread.submit(list_changed_definition, on).result()
    page = open_page()
    add_passkeys(page.context, page)
    page.goto(f"{on.url}/keys")
    page.get_by_label("One-time code").fill(enrolment_code(on))
    page.get_by_role("button", name="Sign in with the code").click()
    page.get_by_role("button", name="Enrol a passkey").click()
    expect(page.get_by_text("with a one-time code for a further key")).to_be_visible()
    page.goto(f"{on.url}/tools")
    expect(page.get_by_role("row", name=re.compile("crm__add_note.*changed"))).to_be_visible()
    page.get_by_role("link", name="crm__add_note").click()
    expect(page.get_by_role("heading", name="What changed since it was pinned")).to_be_visible()
    expect(page.locator("dl.differences ins", has_text="everybody")).to_be_visible()
    expect(page.get_by_role("button", name="Accept")).to_be_enabled()
    assert violations(page) == []
    page.get_by_label("Reason").fill("Reviewed with the vendor.")
    page.get_by_role("button", name="Accept").click()
    expect(page.locator(".head .state")).to_have_text("pinned")
    [accepted] = log(on.config, "--kind", "catalog.accepted")
    assert accepted["operation"]["operator"] == accepted["by"] == "alice"
    assert "client_data" in accepted["operation"]["signature"]
    assert "1 change of an operator, each signed" in cli("verify", "--config", str(on.config)).stdout.replace("\n", " ")


# What people may not do, and bad input


def test_only_operators_change_and_only_auditors_see_what_was_decided_on(on: WebScenario) -> None:
    carol, bob = client(on, "carol"), client(on, "bob")
    change = {"action": "tool.refuse", "target": {}, "reason": "x"}
    assert carol.post("/operations/options", change)[0] == 403
    assert bob.post("/operations/options", change)[0] == 403
    assert carol.get("/policies/decision?what=1")[0] == 403
    assert bob.get("/policies/decision?what=999999")[0] == 404
    [held] = [row for row in log(on.config, "--kind", "decision") if row["outcome"] == "require_approval"]
    status, page = bob.get(f"/policies/decision?what={held['seq']}")
    assert status == 200
    assert "held for crm-approvers, because of a gate" in page
    assert "smallest change of the request" in page or "no change of a single attribute" in page
    status, page = bob.get("/tools/crm__add_note")
    assert status == 200
    assert "tool.accept" not in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/tools/nonesuch", 404),
        ("/policies/candidate/nonesuch", 404),
        ("/policies/decision?what=", 404),
        ("/policies/decision?what=-1", 404),
        (f"/policies/decision?what={'9' * 400}", 404),
        ("/policies/decision?what=<script>", 404),
        ("/policy-changes/replay", 409),
    ],
)
def test_bad_addresses_get_a_page_or_problem_that_says_so(on: WebScenario, path: str, status: int) -> None:
    reply = client(on, "bob").get(path)
    assert reply[0] == status
    assert "<script>" not in str(reply[1]).replace("<script src", "")


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("/policies/candidate", {"file": "a.cedar", "text": "permit ("}, "a.cedar"),
        ("/policies/candidate", {"file": "a.cedar", "text": ""}, None),
        ("/policy-changes/options", {"proposal": "pp_x", "verdict": "approve", "rationale": "x"}, "does not wait"),
        (
            "/policy-changes/options",
            {"proposal": "pp_x", "verdict": "approve", "rationale": " "},
            "a rationale is required",
        ),
        ("/policy-changes", {"id": "x"}, "not a valid passkey response"),
        ("/operations/options", {"action": "ledger.erase", "target": {}, "reason": "x"}, "is not an action"),
        ("/operations/options", {"action": "tool.accept", "target": {"tool": 7}, "reason": "x"}, "object of texts"),
        ("/operations", {"id": "x"}, "not a valid passkey response"),
    ],
)
def test_bad_changes_are_refused(on: WebScenario, path: str, body: dict[str, Any], problem: str | None) -> None:
    status, answer = client(on, "alice").post(path, body)
    if problem is None:
        assert status == 200
    else:
        assert status in (400, 403, 409)
        assert problem in answer["problem"]


def test_signature_for_one_change_makes_no_other(on: WebScenario) -> None:
    assert on.certificate is not None
    alice = WebClient(on.url, context=on.certificate.context).sign_in(enrolment_code(on))
    passkey = SoftwarePasskey(on.url)
    assert alice.enrol(passkey)[0] == 200
    shown = json.loads(cli("tools", "show", "crm__add_note", "--json", "--config", str(on.config)).stdout)
    target = {"upstream": "crm", "tool": shown["tool"], "definition": shown["hash"]}
    status, options = alice.post("/operations/options", {"action": "tool.refuse", "target": target, "reason": "x"})
    assert status == 200
    signed = passkey.sign(options)
    assert alice.post("/policy-changes", signed)[0] == 409
    assert client(on, "bob").post("/operations", signed)[0] == 403
    assert alice.post("/operations", signed)[0] == 200
    assert alice.post("/operations", signed)[1]["problem"] == "the challenge has expired or was already answered"
