"""Sign-in with the identity provider on the pages, by a client that is no browser: who gets in, who does not, and how a
route's demand is met."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from mcp_guard.web.pages import PAGES
from tests.live.running_guard import Client, cli, log, text
from tests.web.identity_provider import ALICE, CAROL, DAVE, MALLORY, STRONG
from tests.web.inbox_client import Answer
from tests.web.inbox_process import free_port
from tests.web.oidc_scenario import ROUTE, OidcPerson, OidcScenario, oidc_scenario
from tests.web.software_passkey import SoftwarePasskey
from tests.web.web_process import web_process


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcScenario]:
    """The route demands a strong sign-in, and nobody signs in with local codes but to enrol a key."""

    def edit(text: str) -> str:
        return text.replace('approvers = ["alice"]\n', f'approvers = ["alice"]\n{ROUTE}', 1)

    with oidc_scenario(tmp_path_factory.mktemp("oidc"), edit, web="local_sign_in = false\n") as made:
        yield made


def decide(person: OidcPerson, id: str, passkey: SoftwarePasskey) -> Answer:
    return person.web.decide(id, passkey)


@pytest.mark.parametrize("auth_time", [int(time.time()) - 700, None], ids=["long ago", "unknown"])
def test_a_first_passkey_needs_a_recent_sign_in(scenario: OidcScenario, auth_time: int | None) -> None:
    alice, passkey = scenario.client(), SoftwarePasskey(scenario.on.url)
    scenario.provider.control("alter", {"claims": {"auth_time": auth_time}})
    assert alice.sign_in()[0] == 200
    status, refusal = alice.web.enrol(passkey)
    assert status == 409
    assert isinstance(refusal, dict)
    assert "requires a sign-in of the last ten minutes" in refusal["problem"]
    assert refusal["sign_in"] is True  # the page offers it
    url = alice.begin({"to": "/keys", "anew": True})["url"]
    assert "prompt=login" in url
    assert "max_age=600" in url
    assert log(scenario.on.config, "--kind", "approver.enrolled") == []


def test_a_first_passkey_is_enrolled_after_a_sign_in_and_decides_after_a_strong_one(scenario: OidcScenario) -> None:
    call = scenario.on.hold()
    [id] = {request["id"] for request in scenario.on.requests()} - {scenario.open_request}
    alice, passkey = scenario.client(), SoftwarePasskey(scenario.on.url)
    assert alice.sign_in(body={"to": f"/requests/{id}"}) == (200, {"go": f"/requests/{id}"})
    assert [name.startswith("__Host-mcp-guard") for name in alice.web.cookies] == [True]
    assert alice.web.enrol(passkey) == (200, {"go": "/keys"})
    [enrolled] = log(scenario.on.config, "--kind", "approver.enrolled")
    assert enrolled["authorized_by"] == "oidc"
    assert (enrolled["signed_in"]["issuer"], enrolled["signed_in"]["subject"]) == (scenario.provider.issuer, ALICE)

    status, page = alice.web.get(f"/requests/{id}")
    assert status == 200
    assert "requires a sign-in with the `acr` `urn:example:strong`, and yours had none" in page
    assert "Sign in again with Example" in page
    status, refusal = decide(alice, id, passkey)
    assert status == 409
    assert isinstance(refusal, dict)
    assert "route `crm-approvers` does not take this vote" in refusal["problem"]
    assert len(scenario.on.requests()) == 2

    assert alice.sign_in(factor="two", body={"to": f"/requests/{id}", "approval": id})[0] == 200
    assert "Sign in again" not in alice.web.get(f"/requests/{id}")[1]
    status, answer = decide(alice, id, passkey)
    assert (status, answer["state"], answer["go"]) == (200, "approved", "/")
    assert "Closed Won" in text(scenario.on.client.wait(call))
    [granted] = log(scenario.on.config, "--kind", "approval.granted")
    assert granted["signed_in"]["acr"] == STRONG
    assert granted["signed_in"]["amr"] == ["pwd", "otp", "mfa"]
    cli("verify", "--config", str(scenario.on.config))

    other = SoftwarePasskey(scenario.on.url)
    status, refusal = alice.web.enrol(other)  # a further one needs the first
    assert status == 403
    assert isinstance(refusal, dict)
    assert "confirm the new passkey with one that you have" in refusal["problem"]
    check_vote_on_policies(scenario, passkey)


def check_vote_on_policies(scenario: OidcScenario, passkey: SoftwarePasskey) -> None:
    """At another gateway, whose policies the same route must approve: it takes a vote after a strong sign-in only."""
    folder, port = scenario.on.config.parent, free_port()
    shutil.copytree(folder / "policies", folder / "changed")
    (folder / "changed" / "more.cedar").write_text("// reviewed each quarter\n")
    other, config = folder / "other.toml", scenario.on.config.read_text()
    config = config.replace('policies = "policies"', 'policies = "changed"\npolicy_approval = "crm-approvers"', 1)
    other.write_text(config.replace("listen = ", f'listen = "127.0.0.1:{port}" #', 1))
    cli("policy", "propose", "--config", str(other))
    proposal = json.loads(cli("policy", "pending", "--json", "--config", str(other)).stdout)["open"]["proposal"]
    vote = {"proposal": proposal, "verdict": "approve", "rationale": "a comment only"}
    with web_process(other):
        alice = replace(scenario.client(), web=replace(scenario.client().web, port=port))
        assert alice.sign_in()[0] == 200
        page = alice.web.get("/policy-changes")[1]
        assert "requires a sign-in with the `acr` `urn:example:strong`, and yours had none" in page
        assert f'data-approval="{proposal}">Sign in again with Example' in page
        status, refusal = alice.web.post("/policy-changes/options", vote)
        assert (status, refusal["sign_in"]) == (409, True)
        demanded = {"to": "/policy-changes", "approval": proposal}
        assert f"acr_values={quote(STRONG, safe='')}" in alice.begin(demanded)["url"]
        assert alice.sign_in(factor="two", body=demanded) == (200, {"go": "/policy-changes"})
        status, options = alice.web.post("/policy-changes/options", vote)
        assert status == 200, options
        assert alice.web.post("/policy-changes", passkey.sign(options))[0] == 200
    [approved] = log(other, "--kind", "policy.approved")
    assert approved["signed_in"]["acr"] == approved["rule"]["sign_in"]["acr"][0] == STRONG
    cli("verify", "--config", str(other))


def test_the_step_up_asks_for_what_the_route_demands(scenario: OidcScenario) -> None:
    id, alice = scenario.open_request, scenario.client()
    assert alice.web.post("/sign-in/oidc", {"to": "/", "approval": id})[0] == 401  # whose routes would that be?
    alice.sign_in()
    url = alice.begin({"to": "/", "approval": id})["url"]
    assert f"acr_values={quote(STRONG, safe='')}" in url
    assert "prompt=login" in url
    assert "max_age=300" in url
    assert alice.web.post("/sign-in/oidc", {"to": "/", "approval": "ap_none"})[0] == 404


def test_roles_come_from_claims_for_somebody_who_is_no_approver(scenario: OidcScenario) -> None:
    carol = scenario.client()
    assert carol.sign_in(CAROL) == (200, {"go": "/"})
    status, page = carol.web.get("/keys")
    assert status == 403
    assert "approver or operator" in page
    status, page = carol.web.get(f"/requests/{scenario.open_request}")
    assert status == 200  # an auditor reads it
    assert "Carol Example" in page
    assert 'id="decide"' not in page


def test_a_user_signs_in_to_upstreams_and_sees_nothing_else(scenario: OidcScenario) -> None:
    dave = scenario.client()
    assert dave.sign_in(DAVE) == (200, {"go": "/"})
    assert dave.web.get("/")[0] == 303
    status, page = dave.web.get("/upstreams")
    assert status == 200
    assert 'data-sign-in-to="notes"' in page
    assert "Last failures" not in page
    paths = {link.path for module in PAGES for link in module.NAV} - {"/", "/upstreams"}
    assert {path: dave.web.get(path)[0] for path in paths} == dict.fromkeys(paths, 403)
    assert dave.web.get("/policy-changes/replay")[0] == 403


def test_whoever_signs_in_to_an_upstream_is_its_user_and_their_sign_out_ends_that(scenario: OidcScenario) -> None:
    """The provider knows the guard by its metadata document, which it fetches from the pages."""
    alice = scenario.client()
    assert alice.sign_in()[0] == 200
    status, begun = alice.web.post("/upstreams/sign-in", {"upstream": "notes"})
    assert status == 200, begun
    [client_id] = parse_qs(urlsplit(begun["url"]).query)["client_id"]
    assert client_id == f"{scenario.on.url}/oauth/client-metadata.json"
    with Client(scenario.on.config, ("--on-behalf-of", "alice")) as client:
        client.start()
        client.tools()
        assert "user `alice` has not signed in" in text(client.call("notes__write", {"text": "x"}))
        query = alice.there.sign_in(begun["url"])
        finished = alice.web.post("/upstreams/finish", {"upstream": "notes", "query": query, "sealed": begun["sealed"]})
        assert finished == (200, {"go": "/upstreams#notes"}), finished
        assert f"noted for {ALICE}" in text(client.call("notes__write", {"text": "x"}))
        assert alice.web.post("/upstreams/sign-out", {"upstream": "notes"})[0] == 200
        assert "user `alice` has not signed in" in text(client.call("notes__write", {"text": "x"}))


def test_operator_signs_out_somebody_who_is_no_approver(scenario: OidcScenario) -> None:
    carol, alice, options = scenario.client(), scenario.client(), ("--config", str(scenario.on.config))
    carol.sign_in(CAROL)
    alice.sign_in()
    done = cli("approvers", "sign-out", "--identity", scenario.provider.issuer, CAROL, *options)
    assert f"{CAROL} is signed out of " in done.stdout
    assert (carol.web.get("/")[0], alice.web.get("/")[0]) == (401, 200)
    carol.sign_in(CAROL)
    assert "everybody is signed out of" in cli("approvers", "sign-out", "--everybody", *options).stdout
    assert (carol.web.get("/")[0], alice.web.get("/")[0]) == (401, 401)


def test_an_unknown_person_is_told_what_the_operator_writes(scenario: OidcScenario) -> None:
    stranger = scenario.client()
    status, refusal = stranger.sign_in(MALLORY)
    assert status == 403
    assert isinstance(refusal, dict)
    assert f"`{MALLORY}` is signed in at the provider, and unknown to this guard" in refusal["problem"]
    assert f'identities = [{{ issuer = "{scenario.provider.issuer}", subject = "{MALLORY}" }}]' in refusal["hint"]
    assert stranger.web.cookies == {}


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("/history?x=1", "/history?x=1"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\b", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/\n/evil.example", "/"),
        ("/sign-in/oidc/callback", "/"),
        (7, "/"),
        (None, "/"),
    ],
)
def test_a_sign_in_leads_only_to_pages_of_this_origin(scenario: OidcScenario, to: object, expected: str) -> None:
    alice = scenario.client()
    assert alice.sign_in(body={"to": to}) == (200, {"go": expected})


def test_a_sign_in_ends_in_the_browser_that_began_it_and_once(scenario: OidcScenario) -> None:
    mallory, alice = scenario.client(), scenario.client()
    begun = mallory.begin()
    query = mallory.there.sign_in(begun["url"], ALICE)
    other = alice.begin()
    for sealed, expected in (
        ("", "not begun in this browser"),
        ("a.b.c", "not begun in this browser"),
        (begun["sealed"][:-4] + "AAAA", "was not begun here"),
        (other["sealed"], "belongs to another sign-in (`state`)"),
    ):
        status, refusal = alice.finish({"sealed": sealed}, query)
        assert status == 400
        assert isinstance(refusal, dict)
        assert expected in refusal["problem"]
    assert mallory.finish(begun, query)[0] == 200
    status, refusal = mallory.finish(begun, query)
    assert status == 400
    assert isinstance(refusal, dict)
    assert "used already" in refusal["problem"]
    assert alice.web.cookies == {}


def test_a_state_that_was_changed_on_the_way_is_refused(scenario: OidcScenario) -> None:
    alice = scenario.client()
    scenario.provider.control("answer", {"state": "of somebody else"})
    status, refusal = alice.sign_in()
    assert status == 400
    assert isinstance(refusal, dict)
    assert "another sign-in (`state`)" in refusal["problem"]


@pytest.mark.parametrize(
    ("control", "body", "status", "expected"),
    [
        ("answer", {"iss": "https://evil.example"}, 400, "the answer is from `https://evil.example`"),
        ("answer", {"error": "temporarily_unavailable"}, 503, "has a problem"),
        ("alter", {"claims": {"nonce": "x"}}, 502, "belongs to another sign-in (`nonce`)"),
        ("alter", {"header": {"alg": "none"}}, 502, "it is signed with `none`"),
    ],
)
def test_a_bad_answer_opens_no_session_and_says_what_happened(
    scenario: OidcScenario, control: str, body: dict[str, object], status: int, expected: str
) -> None:
    alice = scenario.client()
    scenario.provider.control(control, body)
    answered, refusal = alice.sign_in()
    assert answered == status
    assert isinstance(refusal, dict)
    assert expected in refusal["problem"]
    assert refusal["hint"]
    assert alice.web.cookies == {}


def test_a_change_from_another_page_is_refused(scenario: OidcScenario) -> None:
    alice = scenario.client()
    elsewhere = replace(alice.web, headers={"origin": "https://evil.example"})
    assert elsewhere.post("/sign-in/oidc", {"to": "/"})[0] == 403
    assert elsewhere.post("/sign-in/oidc/finish", {"query": "", "sealed": ""})[0] == 403


def test_codes_sign_nobody_in_but_to_enrol_a_key(scenario: OidcScenario) -> None:
    web = scenario.client().web
    code = scenario.on.code()
    status, refusal = web.request("POST", "/sign-in", f"code={code}")
    assert status == 403
    assert "web.local_sign_in is false" in refusal["problem"]
    assert web.post("/sign-in/passkey", {})[0] == 403
    issued = cli("approvers", "code", "alice", "--enrol", "--json", "--config", str(scenario.on.config)).stdout
    enrolling = web.sign_in(json.loads(issued)["code"])
    passkey = SoftwarePasskey(scenario.on.url)
    assert enrolling.enrol(passkey)[0] == 200
    status, refusal = enrolling.decide(scenario.open_request, passkey)
    assert status == 409
    assert "permits only to enrol it" in refusal["problem"]
    status, refusal = enrolling.post(f"/revoke/{scenario.open_request}", {"rationale": "why not"})
    assert status == 409  # nor anything else
    assert "permits only to enrol it" in refusal["problem"]
    assert enrolling.get("/keys")[0] == 200
    assert [enrolling.get(path)[0] for path in ("/", f"/requests/{scenario.open_request}", "/ledger")] == [303] * 3
    assert enrolling.get("/?part=list")[0] == 409


def test_signing_out_leads_to_the_provider_and_back(scenario: OidcScenario) -> None:
    alice = scenario.client()
    alice.sign_in()
    status, answer = alice.web.post("/sign-out")
    assert status == 200
    assert isinstance(answer, dict)
    assert alice.web.cookies == {}
    assert alice.there.sign_out(answer["go"]) == f"{scenario.on.url}/sign-in"


def test_the_end_of_the_session_at_the_provider_ends_the_one_here(scenario: OidcScenario) -> None:
    alice, stranger = scenario.client(), scenario.client()
    alice.sign_in()
    assert alice.web.get("/")[0] == 200
    alice.there.sign_out(f"{scenario.provider.issuer}/session/end?client_id=guard")
    token = scenario.provider.control("logout")
    bad = stranger.web.request("POST", "/sign-in/oidc/back-channel", f"logout_token={token[:-6]}AAAAAA")
    assert bad[0] == 400
    assert alice.web.get("/")[0] == 200
    elsewhere = replace(stranger.web, headers={"origin": "null"})
    assert elsewhere.request("POST", "/sign-in/oidc/back-channel", f"logout_token={token}")[0] == 200
    status, page = alice.web.get("/")
    assert status == 401
    assert "Your session has ended" in page


def test_an_id_token_is_no_logout_token(scenario: OidcScenario) -> None:
    """Nor does a code, or nothing, sign anybody out."""
    status, answer = scenario.client().web.request("POST", "/sign-in/oidc/back-channel", "")
    assert status == 400
    assert answer["error"] == "invalid_request"


def test_the_sign_in_page_offers_the_provider(scenario: OidcScenario) -> None:
    status, page = scenario.client().web.get("/requests/ap_1?x=1")
    assert status == 401
    assert "Sign in with Example" in page
    assert "Sign in with a passkey" not in page
    status, page = scenario.client().web.get("/sign-in/oidc/callback?code=x&state=y")
    assert status == 200
    assert "Completing the sign-in" in page
    assert not re.search("code=x|state=y", page)


def test_after_a_removal_a_key_needs_the_operator(scenario: OidcScenario) -> None:
    keys = json.loads(cli("approvers", "list", "--json", "--config", str(scenario.on.config)).stdout)
    for key in keys:
        cli("approvers", "remove", "alice", key["key"], "--why", "lost", "--config", str(scenario.on.config))
    alice = scenario.client()
    assert alice.sign_in()[0] == 200
    status, refusal = alice.web.enrol(SoftwarePasskey(scenario.on.url))
    assert status == 409
    assert isinstance(refusal, dict)
    assert "`alice` had a key already" in refusal["problem"]
    assert "approvers code alice --enrol" in refusal["hint"]


def test_doctor_says_whether_the_provider_can_be_used(scenario: OidcScenario) -> None:
    def found() -> list[tuple[str, str]]:
        results = json.loads(cli("doctor", "--json", "--config", str(scenario.on.config), check=False).stdout)
        return [(result["level"], result["what"]) for result in results if result["check"] == "identity provider"]

    assert found() == [("ok", f"`{scenario.provider.issuer}` answers, and publishes its keys")]
    scenario.provider.stop()
    [(level, what)] = found()
    scenario.provider.start()
    assert level == "problem"
    assert "the identity provider cannot be reached" in what
