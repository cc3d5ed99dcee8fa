"""Drills on the pages: like any request until they are decided, told at once; and how approvers decide."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.approval import ApprovalState
from mcp_guard.web.story import without_what_tells
from tests.promises.drilling import HUNDREDFOLD, ROUTE, ask, call_approved, drilling, put
from tests.promises.harness import PEOPLE, SECOND, pending_id
from tests.web.pages_in_process import CONFIG, Pages, pages_over
from tests.web.test_pages_in_process import enrol

ROUTES = {"people": replace(ROUTE, approvers=("alice", "carol", "erin"))}
ROLES = '[web.roles]\noperator = ["carol"]\nauditor = ["carol"]\n'


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    harness = drilling(tmp_path, ROUTES["people"])
    config = CONFIG.replace("bob", "carol").replace("Bob", "Carol") + ROLES
    people = {name: PEOPLE[name] for name in ("alice", "carol")}
    async with pages_over(harness, tmp_path, config, ROUTES, people) as made:
        yield made


def words(page: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", page).split())


async def test_approver_is_told_of_a_drill_on_its_page_at_once(pages: Pages) -> None:
    harness = pages.harness
    for amount in (150, 160):
        await call_approved(harness, amount)
    harness.clock.time += 300 * SECOND
    assert put(harness)
    [drill] = harness.store.approvals([ApprovalState.REQUESTED])
    client = await pages.sign_in(code=pages.code("alice", "enrolment_code"))
    passkey, _ = await enrol(client)
    shown = [await client.get(path) for path in ("/", f"/requests/{drill.id}", "/history", "/overview", "/ledger")]
    assert not any("drill" in page.text.replace("/static", "").lower() for page in shown)
    own = words((await client.get("/approvers")).text)
    assert "Alice alice 1 2 0" in own, "the open drill waits like any request"
    assert "Carol" not in own
    body = {"verdict": "approve", "rationale": "looks right"}
    options = (await client.post(f"/requests/{drill.id}/options", json=body)).json()
    decided = await client.post(f"/requests/{drill.id}/decide", json=passkey.sign(options))
    assert decided.json() == {"state": "missed", "go": f"/requests/{drill.id}"}
    page = words((await client.get(f"/requests/{drill.id}")).text)
    assert f"You missed it. What was wrong (amount): {HUNDREDFOLD.why}" in page
    assert "drill, missed" in words((await client.get("/history")).text)
    told = words((await client.get(f"/calls/{drill.subject.call}")).text)
    assert "a drill, missed by alice: a request like one of agent" in told
    everybody = words((await (await pages.sign_in("carol")).get("/approvers")).text)
    assert "Alice alice 0 2 0" in everybody
    assert "0 of 1 (0 %)" in everybody
    assert "Carol carol 0 0 0" in everybody
    assert (await client.get("/approvers?period=x")).status_code == 400


async def test_look_ups_that_a_drill_lacks_are_left_out_while_people_decide(pages: Pages) -> None:
    harness = pages.harness
    id = pending_id(await ask(harness, 170))
    call = harness.store.approval(id)[0].subject.call
    client = await pages.sign_in()
    assert "Look-up" not in (await client.get(f"/calls/{call}")).text
    harness.approve(id, verdict="deny")
    assert "Look-up" in (await client.get(f"/calls/{call}")).text


async def test_a_decision_is_not_explained_while_people_decide_because_that_of_a_drill_is_of_another_request(
    pages: Pages,
) -> None:
    id = pending_id(await ask(pages.harness, 170))
    path = f"/policies/decision?what={pages.harness.store.approval(id)[0].subject.call}"
    client = await pages.sign_in("carol")
    assert "its route has drills" in (await client.get(path)).text
    pages.harness.approve(id, verdict="deny")
    assert "require_approval" in (await client.get(path)).text


def test_rates_of_a_request_are_left_out_while_people_decide() -> None:
    decision = {"kind": "decision", "rates": {"writes": 5}}
    asked = {"kind": "approval.requested", "rules": [{"drills": True}]}
    assert without_what_tells([decision, asked]) == [{"kind": "decision"}, asked]
    assert without_what_tells([decision, asked, {"kind": "approval.denied"}])[0] == decision
