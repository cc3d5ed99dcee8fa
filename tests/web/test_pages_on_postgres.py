"""Every page of a ledger in PostgreSQL shows what it is for, at another gateway than the one that made the calls."""

import json
import time
from collections.abc import Iterator

import pytest

from mcp_guard.web.pages import PAGES
from tests.live.running_guard import cli
from tests.web.fleet_process import Fleet, fleet
from tests.web.web_client import WebClient

ROLES = '[web.roles]\nauditor = ["alice"]\noperator = ["alice"]\n'
PAGES_AND_CONTENT = {
    "/": "deal-update-agent",
    "/requests/{request}": "Closed Won",
    "/history": "withdrawn",
    "/grants": "No grant is active.",
    "/overview": "<b>3</b><span>calls decided",
    "/overview?part=overview": "<b>1</b><span>waiting for people",
    "/ledger": "update deal <b>Deal 789</b>",
    "/ledger?outcome=deny&agent=deal-*&since=1h": "discount_rate",
    "/ledger?part=rows&show=other": "policy loaded",
    "/calls/{call}": "discount_rate",
    "/calls/{call}/proof": "Proved.",
    "/calls/{call}/bundle?payloads=1": '"payloads"',
    "/ledger/0": "Receipt 0",
    "/agents": "1 running",
    "/agents/deal-update-agent": "for dana",
    "/policies": "no-edits-of-protected-fields",
    "/policies/decision?what={call}": "no-edits-of-protected-fields",
    "/policy-changes": "Policies need no approval here",
    "/tools": "crm__update_deal",
    "/tools/crm__update_deal": "Whole definition",
    "/upstreams": "No guard on this machine has a session with it.",
    "/keys": "No keys yet.",
}


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("pages"), web=ROLES) as made:
        made.client.call("crm__update_deal", {"deal_id": "789", "amount": 48500.0})
        made.client.call("crm__update_deal", {"deal_id": "789", "discount_rate": 0.4})
        made.client.notify("notifications/cancelled", {"requestId": made.hold(deal_id="790", amount=12500.0)})
        while made.requests():
            time.sleep(0.05)
        made.hold()
        yield made


@pytest.fixture(scope="module")
def names(on: Fleet) -> dict[str, str]:
    """What the paths name."""
    words = ("--json", "--outcome", "deny", "--config", str(on.config))
    [denied] = json.loads(cli("log", *words).stdout)
    return {"call": denied["call"], "request": on.requests()[0]["id"]}


@pytest.fixture(scope="module")
def alice(on: Fleet) -> WebClient:
    assert on.certificate is not None
    client = WebClient(on.url, context=on.certificate.context).sign_in(on.code())
    deadline = time.monotonic() + 20
    while PAGES_AND_CONTENT["/overview"] not in client.get("/overview")[1]:  # the search index follows the ledger
        assert time.monotonic() < deadline, client.get("/overview")[1]
        time.sleep(0.1)
    return client


@pytest.mark.parametrize("path", PAGES_AND_CONTENT)
def test_page_shows_its_data(path: str, names: dict[str, str], alice: WebClient) -> None:
    status, page = alice.get(path.format(**names))
    assert status == 200, page
    assert PAGES_AND_CONTENT[path] in page


def test_every_page_in_the_bar_is_opened() -> None:
    assert {link.path for page in PAGES for link in page.NAV} <= PAGES_AND_CONTENT.keys()
