"""What the page of a call shows of what it has changed."""

from dataclasses import replace
from pathlib import Path

from mcp_guard.core.model import Agent
from mcp_guard.ledger.call_receipts import read_payloads
from mcp_guard.web.entries import entry_row
from mcp_guard.web.story import make_story
from tests.promises.harness import make_instance
from tests.promises.test_confirmed import UPDATE, open_confirmed, update
from tests.web.pages_in_process import open_pages


async def test_page_of_a_call_shows_the_value_afterwards_and_marks_the_difference(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path, {"stage": "stolen"})
    await harness.guard.call(make_instance(), update(amount=5))
    receipts = harness.receipts()[-6:]
    story = make_story(receipts, {each["seq"]: read_payloads(harness.store, each["seq"]) for each in receipts}, "2026")
    rows = {row.name: (row.before, row.after, row.actual, row.is_difference) for row in story.changes}
    assert rows["amount"] == ("0", "5", "5", False)
    assert rows["stage"] == ("open", "", "stolen", True)
    assert story.has_actual
    assert (story.result, story.look) == ("done, differs", "bad")
    assert entry_row(receipts[0]["seq"], receipts, "2026").why == "read again: DIFFERS: stage changed too"
    harness.close()


async def test_approvers_see_on_the_request_what_happened(tmp_path: Path) -> None:
    async with open_pages(tmp_path) as pages:
        harness = pages.harness
        tool = harness.upstream.catalog[UPDATE]
        harness.upstream.catalog[UPDATE] = replace(tool, rule=replace(tool.rule, confirm=True))
        id = await pages.hold()
        for approver in ("alice", "bob"):
            harness.approve(id, approver)
        await harness.guard.call(make_instance(agent=Agent("a", "zed", ())), update(amount=150))
        [step] = make_story(harness.receipts("approval.consumed"), {}, "2026").steps
        assert step.title == "Approval used"
        page = (await (await pages.sign_in()).get(f"/requests/{id}")).text
        assert "The resource was read again: DIFFERS: amount not as requested." in page
        [outcome] = harness.receipts("outcome")[-1:]
        assert f'href="/ledger/{outcome["seq"]}"' in page
