"""Attacks on the pages at a real origin: by a viewer who wants to know or to stop more than they may, by an agent whose
texts end up in the pages, and by other hosts."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_guard.config import load
from mcp_guard.core.errors import ApprovalError
from mcp_guard.ledger.place import ledger_place
from mcp_guard.storage.engines import find_engine
from mcp_guard.web.carrier import COOKIE, cookie_name
from mcp_guard.web.passkeys import challenges_of_process
from mcp_guard.web.view import make_pages
from tests.web.test_console import ROLES, SMALL, call, sign_in
from tests.web.web_client import WebClient
from tests.web.web_process import WebScenario, web_scenario

NOW = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebScenario]:
    with web_scenario(tmp_path_factory.mktemp("attacks"), web=ROLES) as made:
        call(made, SMALL)
        yield made


@pytest.fixture(scope="module")
def viewer(on: WebScenario) -> WebClient:
    return sign_in(on, "bob")


@pytest.fixture(scope="module")
def auditor(on: WebScenario) -> WebClient:
    return sign_in(on, "carol")


def candidate(number: int) -> dict[str, str]:
    return {"file": "guess.cedar", "text": f'@id("guess_{number}") forbid (principal, action, resource);'}


def test_viewer_does_not_guess_payloads_by_policies_of_their_own(viewer: WebClient, auditor: WebClient) -> None:
    """Which calls a policy about an argument would have denied tells the argument."""
    status, answer = auditor.post("/policies/candidate", candidate(0))
    assert status == 200
    for path in (answer["go"], f"{answer['go']}/replay"):
        assert viewer.get(path)[0] == 403
        assert auditor.get(path)[0] == 200
    assert viewer.post("/policies/candidate", candidate(1))[0] == 403
    assert "Try a change" not in viewer.get("/policies")[1]


def test_candidates_of_one_person_do_not_fill_the_database(on: WebScenario, auditor: WebClient) -> None:
    paths = [auditor.post("/policies/candidate", candidate(number))[1]["go"] for number in range(8)]
    assert [auditor.get(path)[0] for path in paths] == [404, 404, 404, 200, 200, 200, 200, 200]

    async def count() -> int:
        settings = load(on.config)
        items = find_engine(ledger_place(settings)).open_items(settings.state_dir)
        found = await items.find_all("candidate", None, 0)
        await items.close()
        return len(found)

    assert asyncio.run(count()) == 5


def test_cookie_of_a_sibling_host_takes_the_place_of_no_session(viewer: WebClient, auditor: WebClient) -> None:
    """Chromium takes such a cookie, whose name begins with a blank of Unicode, from any host of the domain, and sends
    it with ours."""
    [(name, token)], [other] = viewer.cookies.items(), auditor.cookies.values()
    for blank in ("\xa0", "\x85", "\u00c2\u00a0"):
        for cookies in (f"{name}={token}; {blank}{name}={other}", f"{blank}{name}={other}; {name}={token}"):
            tossed = replace(viewer, cookies={}, headers={"cookie": cookies})
            assert ">Bob<" in tossed.get("/overview")[1]
        alone = replace(viewer, cookies={}, headers={"cookie": f"{blank}{name}={other}"})
        assert alone.get("/overview")[0] == 401
    both = replace(viewer, cookies={}, headers={"cookie": f"{name}={token}; {name}={other}"})
    assert both.get("/overview")[0] == 401


def test_address_of_many_unknown_members_is_not_repeated(viewer: WebClient) -> None:
    status, shown = viewer.get("/ledger?" + "&".join(f"agen{number}=1" for number in range(5000)))
    assert status == 400
    assert shown.count("there is no filter") == 10


def test_each_part_of_a_link_is_one_part_of_the_address() -> None:
    linked = make_pages().from_string('<a href="/tools/{{ name|urlencode }}">')
    assert linked.render(name='a/../../sign-out"?b') == '<a href="/tools/a%2F..%2F..%2Fsign-out%22%3Fb">'


async def test_challenge_is_answered_once_however_its_seal_is_spelled() -> None:
    challenges = challenges_of_process()
    session: Any = SimpleNamespace(id="s")
    sealed = challenges.seal(session, b"challenge", "decide", {"approval": "ap_1"}, NOW)
    await challenges.settle_seal(sealed, NOW)
    for spelled in (sealed, f"{sealed}=", f"{sealed}\n", f"{sealed}%", sealed.replace(".", "=.")):
        with pytest.raises(ApprovalError, match="already answered"):
            await challenges.settle_seal(spelled, NOW)


def test_pages_at_two_ports_of_a_host_have_cookies_of_their_own() -> None:
    """A browser sends both to both."""
    assert cookie_name("https://guard.example.com") == cookie_name("https://guard.example.com:443") == COOKIE
    assert cookie_name("https://guard.example.com:8443") == f"{COOKIE}-8443"
