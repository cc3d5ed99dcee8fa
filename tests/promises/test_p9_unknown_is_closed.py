"""P9: after a crash, the next start closes each open intent as `unknown`, reports it and never repeats it."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.ledger.recovery import recover
from mcp_guard.ports import Intent
from tests.live.running_guard import Client, cli, log, scripted, seen, write_config
from tests.promises.engines import engine
from tests.promises.harness import make_instance, open_harness


@pytest.mark.usefixtures("each_engine")
def test_call_in_flight_when_the_guard_is_killed_becomes_unknown(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        client.tools()
        client.send("tools/call", {"name": "up__never", "arguments": {}})
        while not seen(tmp_path, "up"):
            assert client.process.poll() is None
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    assert log(config, "--kind", "outcome") == []
    engine().let_leases_run_out(tmp_path)

    with Client(config) as second:
        second.start()
        second.tools()
    assert "the outcome of up__never" in second.stderr
    assert "is unknown" in second.stderr
    [outcome] = log(config, "--kind", "outcome")
    [intent] = log(config, "--kind", "intent")
    assert (outcome["ending"], outcome["follows"], outcome["call"]) == ("unknown", [intent["seq"]], intent["call"])
    assert len(seen(tmp_path, "up")) == 1
    assert json.loads(cli("verify", "--config", str(config), "--json").stdout)["ok"] is True


@pytest.mark.usefixtures("each_engine")
async def test_a_living_guard_keeps_its_open_calls(tmp_path: Path) -> None:
    living = open_harness(tmp_path)

    async def second_guard_starts(intent: Intent) -> None:
        other = open_harness(tmp_path)
        assert recover(other.ledger.ledger) == []
        other.close()

    living.upstream.before = second_guard_starts
    await living.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
    assert [receipt["ending"] for receipt in living.receipts("outcome")] == ["ok"]
    living.close()


@pytest.mark.usefixtures("each_engine")
async def test_a_call_whose_outcome_cannot_be_recorded_is_reported_as_sent(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)

    async def the_disk_fails(intent: Intent) -> None:
        engine().break_writes(harness.store)

    harness.upstream.before = the_disk_fails
    reply = await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
    said = reply["result"]["content"][0]["text"]
    assert "was sent to its upstream, but the outcome could not be recorded" in said
    assert "do not repeat it" in said
    engine().restore_writes(harness.store)
    harness.close()
    after = open_harness(tmp_path)
    assert len(recover(after.ledger.ledger)) == 1
    assert [receipt["ending"] for receipt in after.receipts("outcome")] == ["unknown"]
    after.close()


async def dies_in_a_call(folder: Path) -> None:
    """A guard that ends while its upstream runs a call."""
    harness = open_harness(folder)

    async def end(intent: Intent) -> None:
        harness.close()
        raise asyncio.CancelledError

    harness.upstream.before = end
    with pytest.raises(BaseException):  # noqa: B017 - however it ends
        await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))


@pytest.mark.usefixtures("each_engine")
async def test_unknown_outcomes_are_reported_before_they_are_recorded(
    tmp_path: Path,
) -> None:
    await dies_in_a_call(tmp_path)
    second = open_harness(tmp_path)
    told: list[int] = []

    def dies(intents: list[Json]) -> None:
        told.extend(intent["seq"] for intent in intents)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(second.ledger.ledger, dies)
    assert second.receipts("outcome") == []
    second.close()
    third = open_harness(tmp_path)
    assert [item["seq"] for item in recover(third.ledger.ledger)] == told
    third.close()


@pytest.mark.usefixtures("each_engine")
async def test_guards_starting_together_close_open_calls_once(tmp_path: Path) -> None:
    await dies_in_a_call(tmp_path)
    first, second = open_harness(tmp_path), open_harness(tmp_path)
    writer = second.ledger.writer
    read = writer.read

    def first_is_faster(query: Any) -> Any:
        result = read(query)
        assert len(recover(first.ledger.ledger)) == 1
        return result

    writer.read = first_is_faster  # type: ignore[method-assign]
    assert recover(second.ledger.ledger) == []
    assert [receipt["ending"] for receipt in second.receipts("outcome")] == ["unknown"]
    first.close()
    second.close()
