"""P13: whatever an upstream sends, and however much of it, costs that upstream only: neither the guard's memory nor the
time of its other calls.

Real guards in real processes; memory is the peak resident set that the kernel has counted (VmHWM).
"""

import json
import sys
import time
from pathlib import Path

import pytest

from mcp_guard.upstream.stdio import MAX_STDERR_FILE_BYTES
from tests.live.running_guard import SERVERS, Client, Json, scripted, text, upstream, write_config
from tests.proof_size import sized
from tests.servers.hostile_http import ATTACKS, HostileServer

NOT_HELD_UP = 3.0
"""Seconds that a call beside a flood may take on a busy machine: benchmarks measure how few they are."""
HOSTILE = str(SERVERS / "hostile.py")
FLOODS = ["logged", "blank_lines", "shouted", "dense_reply", "unread_pings"]
FLOODS += sized(["updated_resources", "junk", "unknown_replies"], [])
ONE_MB = "[limits]\nmessage_bytes = 1000000\n"


def peak_mib(client: Client) -> int:
    status = Path(f"/proc/{client.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def hostile(name: str, folder: Path, behaviour: str) -> str:
    return upstream(name, sys.executable, HOSTILE, behaviour, str(folder / f"{name}.lists"))


def other_call_seconds(client: Client) -> float:
    """How long a call of another upstream takes now."""
    started = time.perf_counter()
    assert "result" in client.call("other__echo", {"text": "x"})
    return time.perf_counter() - started


def test_response_of_any_kind_and_length_is_bounded(tmp_path: Path) -> None:
    with HostileServer() as server:
        names = {attack: f"u{number}" for number, attack in enumerate(ATTACKS)}
        sections = "".join(
            f'[upstreams.{name}]\nurl = "{server.url(attack)}"\ntimeout_seconds = 2\n' for attack, name in names.items()
        )
        config = write_config(tmp_path, sections + scripted("other", tmp_path), more=ONE_MB)
        with Client(config) as client:
            client.start()
            assert len(client.tools()) > len(names)
            before = peak_mib(client)
            calls = {name: client.send("tools/call", {"name": f"{name}__attack"}) for name in names.values()}
            slowest = max(other_call_seconds(client) for _ in range(20))
            for attack, name in names.items():
                reply = client.wait(calls[name])
                assert reply["result"]["isError"] is True, (attack, reply)
            assert peak_mib(client) - before < 100
            assert slowest < NOT_HELD_UP
            assert sorted(server.called) == sorted(names), "each call was sent once"


@pytest.mark.parametrize("behaviour", ["large_listing", "dense_listing"])
def test_listings_of_several_upstreams_are_bounded_in_bytes(tmp_path: Path, behaviour: str) -> None:
    """Eighty pages of a megabyte, of each kind of list, from three upstreams."""
    sections = "\n".join(hostile(name, tmp_path, behaviour) for name in ("a", "b", "c"))
    with Client(write_config(tmp_path, sections)) as client:
        client.start()
        tools = client.tools()
        for method in ("prompts/list", "resources/list", "resources/templates/list"):
            client.request(method)
        peak = peak_mib(client)
        assert "a__attack" in tools
        assert text(client.call("b__attack")) == "attacked"
        assert peak < 200  # of it 18 MiB of lists that are kept as JSON
    assert "left out of `tools/list`: everything after item" in client.stderr
    assert "limits.listing_bytes" in client.stderr


def test_listing_without_end_stops(tmp_path: Path) -> None:
    with Client(write_config(tmp_path, hostile("up", tmp_path, "endless_listing"))) as client:
        client.start()
        assert len(client.tools()) == 1000
        asked = len((tmp_path / "up.lists").read_text())
        assert asked <= 2000  # once for the guard, once for the client


def test_pages_of_which_nothing_is_kept_end_the_listing(tmp_path: Path) -> None:
    with Client(write_config(tmp_path, hostile("up", tmp_path, "ignored_listing"))) as client:
        client.start()
        assert "up__attack" in client.tools()
        assert len((tmp_path / "up.lists").read_text()) <= 2
    assert "larger than what is kept" in client.stderr


@pytest.mark.parametrize("behaviour", FLOODS)
def test_flood_of_an_upstream_costs_nobody_else(tmp_path: Path, behaviour: str) -> None:
    more = "[upstreams.up]\ntimeout_seconds = 5\n"
    section = hostile("up", tmp_path, behaviour).replace("[upstreams.up]\n", more) + scripted("other", tmp_path)
    with Client(write_config(tmp_path, section)) as client:
        client.start()
        client.tools()
        before = peak_mib(client)
        client.send("tools/call", {"name": "up__attack", "arguments": {}})
        slowest = max(other_call_seconds(client) for _ in range(20))
        assert slowest < NOT_HELD_UP
        assert peak_mib(client) - before < (150 if behaviour == "dense_reply" else 20)
        client.process.kill()
    assert len(client.stderr.splitlines()) < 40
    assert (tmp_path / "state" / "upstreams" / "up.stderr.log").stat().st_size <= MAX_STDERR_FILE_BYTES


def test_changed_lists_are_read_and_reported_once_in_a_while(tmp_path: Path) -> None:
    section = hostile("up", tmp_path, "changed_lists") + scripted("other", tmp_path)
    with Client(write_config(tmp_path, section)) as client:
        client.start()
        client.tools()
        log = tmp_path / "up.lists"
        before = len(log.read_text())
        call = client.send("tools/call", {"name": "up__attack", "arguments": {}})
        started = time.monotonic()
        assert max(other_call_seconds(client) for _ in range(20)) < NOT_HELD_UP
        assert text(client.wait(call)) == "attacked"
        while time.monotonic() - started < 2.5:
            client.request("ping")
            time.sleep(0.1)
        assert len(log.read_text()) - before <= 4
        assert [m for m in client.others if m.get("method") == "notifications/tools/list_changed"] == []


def test_questions_of_an_upstream_are_bounded(tmp_path: Path) -> None:
    """Thirty sampling requests of a megabyte: as many are passed on as the budget holds, the others are refused."""
    with Client(write_config(tmp_path, hostile("up", tmp_path, "questions"), more=ONE_MB)) as client:
        capabilities: Json = {"sampling": {}}
        client.start(**capabilities)
        before = peak_mib(client)
        assert text(client.call("up__attack")) == "attacked"
        asked = [message for message in client.others if message.get("method") == "sampling/createMessage"]
        assert 1 <= len(asked) <= 20
        assert peak_mib(client) - before < 60
        for message in asked:
            client.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode())


def test_handshake_over_the_limit_costs_only_its_upstream(tmp_path: Path) -> None:
    """However often it is tried: what is printed about it does not grow."""
    section = hostile("up", tmp_path, "large_handshake") + scripted("other", tmp_path)
    with Client(write_config(tmp_path, section)) as client:
        client.start()
        assert text(client.call("other__echo", {"text": "x"}))
        before = peak_mib(client)
        time.sleep(2)
        reply = client.call("up__attack")
        assert "result" not in reply or reply["result"]["isError"]
        assert peak_mib(client) - before < 50
    notes = [line for line in client.stderr.splitlines() if "restarting in" in line]
    assert len(notes) >= 2
    assert all(line.count("restarting in") == 1 and len(line) < 400 for line in notes)


def test_upstream_that_reads_nothing_stops_only_itself(tmp_path: Path) -> None:
    section = hostile("up", tmp_path, "reads_nothing") + scripted("other", tmp_path)
    with Client(write_config(tmp_path, section)) as client:
        client.start()
        client.tools()
        for _ in range(24):
            client.send("tools/call", {"name": "up__attack", "arguments": {"x": "x" * 900_000}})
        started = time.monotonic()
        assert text(client.call("other__echo", {"text": "x"}))
        assert time.monotonic() - started < 10
        client.process.kill()
    assert "of its input" in client.stderr
