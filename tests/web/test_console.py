"""The console's reading pages: who sees what, searches, what is wrong with an address, new entries, proofs."""

import html
import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.config import load
from tests.live.running_guard import cli, text
from tests.web.web_client import WebClient
from tests.web.web_process import WebScenario, web_scenario

PEOPLE = "".join(f'[approvers.{name}]\nname = "{name.title()}"\n' for name in ("bob", "carol", "dave"))
ROLES = f'[web.roles]\nviewer = ["bob"]\nauditor = ["carol"]\noperator = ["dave"]\n{PEOPLE}'
HOSTILE = '"><script>alert(1)</script>\u202e'
SMALL = {"deal_id": "789", "notes": "Agreed on the phone.", "amount": 48500.0, "stage": "Negotiation"}


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebScenario]:
    with web_scenario(tmp_path_factory.mktemp("console"), web=ROLES) as made:
        assert "Agreed on the phone." in call(made, SMALL)
        call(made, {"deal_id": "789", "discount_rate": 0.4, "guard_reason": HOSTILE})
        made.hold()
        yield made


def call(on: WebScenario, arguments: dict[str, object]) -> str:
    return text(on.client.call("crm__update_deal", arguments))


def sign_in(on: WebScenario, name: str) -> WebClient:
    assert on.certificate is not None
    return WebClient(on.url, context=on.certificate.context).sign_in(on.code(name))


@pytest.fixture(scope="module")
def viewer(on: WebScenario) -> WebClient:
    return sign_in(on, "bob")


@pytest.fixture(scope="module")
def auditor(on: WebScenario) -> WebClient:
    return sign_in(on, "carol")


@pytest.fixture(scope="module")
def done(on: WebScenario) -> str:
    """The call that went well."""
    log = json.loads(
        cli("log", "--json", "--outcome", "ok", "--tool", "crm__update_deal", "--config", str(on.config)).stdout
    )
    return str(log[0]["call"])


PAGES = ("/overview", "/ledger", "/agents", "/agents/deal-update-agent", "/upstreams")


def page(client: WebClient, path: str, status: int = 200) -> str:
    answered, body = client.get(path)
    assert answered == status, body
    return str(body)


@pytest.mark.parametrize("path", [*PAGES, "/calls/{done}", "/ledger/0"])
def test_nobody_sees_a_page_without_a_session(on: WebScenario, viewer: WebClient, done: str, path: str) -> None:
    path = path.format(done=done)
    assert "deal-update-agent" in page(viewer, path) or path in {"/ledger/0", "/upstreams"}
    stranger = page(replace(viewer, cookies={}), path, 401)
    assert "One-time code" in stranger
    assert "deal-update-agent" not in stranger


def test_overview_counts_what_was_decided_and_lists_what_waits(viewer: WebClient) -> None:
    shown = page(viewer, "/overview")
    assert "<b>2</b><span>calls decided" in shown
    assert "<b>1</b><span>waiting for people" in shown
    assert "<b>1</b><span>denied by policy" in shown
    assert 'aria-label="Calls by decision: 1 allowed, 1 denied by policy; the most at' in shown
    assert "no-edits-of-protected-fields" in shown
    assert 'href="/requests/' not in shown  # Bob is on none of its routes


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", 3),
        ("?outcome=deny", 1),
        ("?outcome=ok", 1),
        ("?agent=deal-*&tool=crm__update_deal&user=dana&ticket=INC-4451", 3),
        ("?resource=Deal/789&since=1h&until=today", 3),
        ("?policy=no-edits-of-protected-fields", 1),
        ("?risk=medium", 1),
        ("?agent=nobody", 0),
        ("?since=yesterday&until=yesterday", 0),
        ("?below=0", 0),
    ],
)
def test_calls_are_found_by_what_is_asked_for(viewer: WebClient, query: str, rows: int) -> None:
    assert page(viewer, f"/ledger{query}").count('<td role="cell" class="when">') == rows


def test_other_receipts_are_found_too(viewer: WebClient) -> None:
    assert "policy loaded" in page(viewer, "/ledger?show=other")
    assert "policy loaded" not in page(viewer, "/ledger")
    assert page(viewer, "/ledger?show=all&kind=policy.loaded").count('class="when"') == 1


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("agnet=x", "there is no filter `agnet`; did you mean `agent`?"),
        ("outcome=denied", "`denied` is none of the values of `outcome`; did you mean `deny`?"),
        ("show=some", "`some` is none of the values of `show`"),
        ("since=lately", "`lately` is not a time; write 2026-01-31"),
        ("since=today&until=yesterday", "the time `from` is after the time `to`"),
        ("below=-1", "`-1` is not a place in the ledger"),
        ("below=" + "9" * 400, "is not a place in the ledger"),
        ("below=٣", "is not a place in the ledger"),
        ("agent=" + "x" * 201, "the value of `agent` has 201 characters"),
        ("&".join(f"agent=a{number}" for number in range(11)), "`agent` is given 11 times"),
        ("since=1h&since=2h", "`since` is given 2 times"),
        ("kind=nonsense", "`nonsense` is none of the values of `kind`"),
    ],
)
def test_an_address_that_cannot_be_searched_says_why_and_lists_nothing(
    viewer: WebClient, query: str, problem: str
) -> None:
    shown = html.unescape(page(viewer, f"/ledger?{query.replace('٣', '%D9%A3')}", 400))
    assert problem in shown
    assert 'class="when"' not in shown


def test_a_value_that_no_receipt_has_is_corrected(viewer: WebClient) -> None:
    shown = html.unescape(page(viewer, "/ledger?agent=deal-update-agnet"))
    assert "no receipt has the agent `deal-update-agnet`; did you mean `deal-update-agent`?" in shown


@pytest.mark.parametrize(
    "path",
    ["/calls/call_none", "/calls/" + "x" * 300, "/calls/%3Cscript%3E", "/ledger/999999999", "/ledger/" + "9" * 40,
     "/agents/nobody", "/calls/call_none/bundle", "/calls/call_none/proof"],
)  # fmt: skip
def test_what_is_not_there_is_said_in_a_page(viewer: WebClient, path: str) -> None:
    status, shown = viewer.get(path)
    assert status == 404
    assert "script>alert" not in str(shown)


def test_a_period_that_there_is_not_is_named(viewer: WebClient) -> None:
    assert "there is no period `9d`" in html.unescape(page(viewer, "/overview?period=9d", 400))


def test_only_auditors_see_payloads(viewer: WebClient, auditor: WebClient, done: str) -> None:
    shown, audited = page(viewer, f"/calls/{done}"), page(auditor, f"/calls/{done}")
    assert "Agreed on the phone." not in shown
    assert "Values are shown to auditors only" in shown
    assert "Would change: amount, notes" in shown
    assert "Agreed on the phone." in audited
    assert "<del>" in audited
    with_payloads = f"/calls/{done}/bundle?payloads=1"
    assert viewer.get(with_payloads)[0] == 403
    assert '"payloads"' in auditor.get(with_payloads)[1]
    assert '"payloads"' not in viewer.get(f"/calls/{done}/bundle")[1]


def test_each_line_of_a_download_is_a_proof_for_anybody_with_the_key(
    on: WebScenario, viewer: WebClient, done: str, tmp_path: Path
) -> None:
    lines = viewer.get(f"/calls/{done}/bundle")[1].splitlines()
    assert len(lines) == 6, "a call with its look-ups before and after"
    bundle = tmp_path / "bundle.json"
    bundle.write_text(lines[-1])
    key = on.config.parent / "state" / "ledger.pub"
    assert "verified" in cli("verify", str(bundle), "--key", str(key)).stdout.lower()


def test_the_page_of_a_call_says_whether_it_is_proved(viewer: WebClient, done: str) -> None:
    assert "6 receipts are signed by the guard" in page(viewer, f"/calls/{done}/proof")


def test_what_an_agent_writes_is_text(on: WebScenario, viewer: WebClient) -> None:
    log = json.loads(cli("log", "--json", "--outcome", "deny", "--config", str(on.config)).stdout)
    for path in (f"/calls/{log[0]['call']}", "/ledger", f"/ledger/{log[0]['seq']}", "/overview"):
        assert "<script>alert" not in page(viewer, path)
        assert "\u202e" not in page(viewer, path)
    assert "\\u{202e}" in page(viewer, f"/calls/{log[0]['call']}")


def test_new_calls_are_read_after_the_last_one(on: WebScenario, viewer: WebClient) -> None:
    shown = page(viewer, "/ledger?part=rows")
    size = shown.partition('data-size="')[2].partition('"')[0]
    assert viewer.get(f"/ledger?part=rows&after={size}") == (204, "")
    call(on, {**SMALL, "notes": "Again."})
    for _ in range(100):
        status, rows = viewer.get(f"/ledger?part=rows&after={size}&outcome=ok")
        if status == 200 and rows.count('class="when"') == 2:
            break
        time.sleep(0.05)
    assert rows.count('class="when"') == 2


def test_a_call_that_is_indexed_late_still_appears(on: WebScenario, viewer: WebClient) -> None:
    before = page(viewer, "/ledger?part=rows").count('class="when"')
    index = load(on.config).state_dir / "receipt-index.sqlite"
    with closing(sqlite3.connect(index, isolation_level=None)) as busy, ThreadPoolExecutor(2) as threads:
        busy.execute("BEGIN IMMEDIATE")
        call(on, {**SMALL, "notes": "Once more."})
        asked = [threads.submit(page, viewer, "/ledger?part=rows") for _ in range(2)]
        [early, *_] = wait(asked, return_when=FIRST_COMPLETED).done  # one of them waits for the index
        busy.execute("ROLLBACK")
    assert early.result().count('class="when"') == before
    size = early.result().partition('data-size="')[2].partition('"')[0]
    status, rows = viewer.get(f"/ledger?part=rows&after={size}")
    assert (status, rows.count('class="when"')) == (200, before + 1)


def test_only_operators_are_offered_changes(on: WebScenario, viewer: WebClient) -> None:
    operator = sign_in(on, "dave")
    assert 'data-sign="/operations"' in page(operator, "/agents")
    assert 'data-sign="/operations"' in page(operator, "/agents/deal-update-agent")
    assert 'data-sign="/operations"' not in page(viewer, "/agents")


def test_upstreams_show_their_state(viewer: WebClient) -> None:
    shown = page(viewer, "/upstreams")
    assert "crm" in shown
    assert '<span class="tag good">up</span>' in shown
