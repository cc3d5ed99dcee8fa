"""What the page of a call shows of what it has changed."""

from pathlib import Path

from mcp_guard.ledger.call_receipts import read_payloads
from mcp_guard.web.entries import entry_row
from mcp_guard.web.story import make_story
from tests.promises.harness import make_instance
from tests.promises.test_confirmed import open_confirmed, update


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
