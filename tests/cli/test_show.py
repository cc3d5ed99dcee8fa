"""`mcp-guard show` of a call that changed something else than it asked for."""

from pathlib import Path

from mcp_guard.cli.show import story
from mcp_guard.ledger.call_receipts import read_payloads
from tests.promises.harness import make_instance
from tests.promises.test_confirmed import open_confirmed, update


async def test_show_says_what_was_there_what_was_asked_for_and_what_is_there(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path, {"amount": 7})
    await harness.guard.call(make_instance(), update(amount=5, note="x"))
    receipts = harness.receipts()[-6:]
    payloads = {str(receipt["seq"]): read_payloads(harness.store, receipt["seq"]) for receipt in receipts}
    lines = story(receipts, payloads, "2026")
    assert lines[0].endswith("; read again: DIFFERS: amount not as requested.")
    assert "    change          amount: 0 → 7, asked for 5 (differs)" in lines
    assert [line for line in lines if line.startswith("    change          note:")] == [
        '    change          note: (none) → "x", asked for "x"'
    ]
    harness.close()
