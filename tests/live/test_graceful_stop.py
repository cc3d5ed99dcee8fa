"""A guard that is stopped with SIGTERM while calls wait and run: nothing is lost, nothing false is recorded."""

import json
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.live.http_guard import NO_TLS, Served, free_port, reply, serving
from tests.live.running_guard import (
    ALLOW_ALL,
    SERVERS,
    Client,
    Json,
    cli,
    enrol,
    log,
    seen,
    text,
    upstream,
    write_config,
)
from tests.live.test_session import eventually

HOLD = '@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);'
GUARD = 'on_cancel = "withdraw"\nhold_seconds = 600'
"""What made a stop look like a cancellation by the client: such a one withdraws its request."""
WAITING = """
import os, sys, time
sys.path.insert(0, {servers!r})
import scripted
answer = scripted.call
def call(id, name, arguments, meta):
    if name == "never":
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
        name = "free"
    answer(id, name, arguments, meta)
scripted.call = call
scripted.main()
"""
"""The scripted server, whose tool `never` answers once a file exists."""


def configure(folder: Path, more: str = "", guard: str = "") -> Path:
    script = folder / "waiting.py"
    script.write_text(WAITING.format(servers=str(SERVERS)))
    server = upstream("up", sys.executable, str(script), str(folder / "up.log"), str(folder / "go"))
    return write_config(folder, server, ALLOW_ALL + HOLD, more, f"{GUARD}\n{guard}")


def pending(config: Path) -> list[str]:
    listing = cli("approvals", "list", "--config", str(config), "--json", check=False).stdout
    return [str(row["id"]) for row in json.loads(listing or "[]") if row.get("state", "requested") == "requested"]


def kinds(config: Path) -> list[str]:
    return [str(receipt["kind"]) for receipt in log(config)]


def test_serve_answers_held_calls_finishes_running_ones_and_resumes_after_a_restart(tmp_path: Path) -> None:
    port, go = free_port(), tmp_path / "go"
    config = configure(tmp_path, serving(port, "stop_seconds = 120"))
    call = {"name": "up__echo", "arguments": {"text": "x"}}
    with ThreadPoolExecutor() as pool, Served(config, port) as served:
        (_, token), (_, other) = served.issue(), served.issue()
        client, runs = served.raw(token, 200), served.raw(other, 200)
        client.start()
        runs.start()
        held = pool.submit(client.call, "up__echo", {"text": "x"})
        stateless = pool.submit(lambda: reply(served.raw(other, 200).stateless("tools/call", call)))
        running = pool.submit(runs.call, "up__never")
        eventually(lambda: len(pending(config)) == 2 and any(item["name"] == "never" for item in seen(tmp_path, "up")))

        served.process.send_signal(signal.SIGTERM)
        for answer in (held.result(60), stateless.result(60)):
            said = text(answer)
            assert "Nothing was sent yet. The guard is shutting down, and the request stays open" in said
            assert answer["result"]["_meta"]["mcp-guard/decision"]["approval"] in said
        base = served.url.removesuffix("/mcp")
        assert httpx.get(f"{base}/livez", trust_env=False, verify=NO_TLS).status_code == 200
        ready = httpx.get(f"{base}/readyz", trust_env=False, verify=NO_TLS)
        assert (ready.status_code, ready.json()) == (503, {"status": "shutting down"})
        assert ready.headers["retry-after"] == "5"
        refused = client.request("tools/list")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "did not handle this request, which may be sent again when the guard is back" in refused.text
        assert "do not repeat" in refused.text
        go.touch()
        assert running.result(60)["result"]["isError"] is False
        assert served.process.wait(60) == 0
    assert "Traceback" not in served.notes
    assert "Cancel" not in served.notes
    assert "mcp-guard: stopping; calls in flight: 2 held, 1 running\n" in served.notes
    assert served.notes.endswith("mcp-guard: stopped; calls: 2 held, 1 finished, 0 cut off\n")
    assert "approval.withdrawn" not in kinds(config)
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["ok"]

    waits = held.result()["result"]["_meta"]["mcp-guard/decision"]["approval"]
    assert waits in pending(config)
    with Served(config, port) as served:
        cli("approvals", "approve", waits, "--rationale", "fine", *enrol(config))
        client = served.raw(token)
        client.start()
        assert client.call("up__echo", {"text": "x"})["result"]["isError"] is False
    assert [item["arguments"] for item in seen(tmp_path, "up") if item["name"] == "echo"] == [{"text": "x"}]


@pytest.mark.parametrize("scope", ["launch", "agent"])
def test_run_answers_a_held_call_and_says_what_becomes_of_its_request(tmp_path: Path, scope: str) -> None:
    config = configure(tmp_path, guard=f'instance = "{scope}"')
    with Client(config) as client:
        client.start()
        held = client.send("tools/call", {"name": "up__echo", "arguments": {"text": "x"}})
        running = client.send("tools/call", {"name": "up__never", "arguments": {}})
        eventually(lambda: pending(config) and seen(tmp_path, "up"))
        client.process.terminate()
        said, cut_off = text(client.wait(held)), client.wait(running)
        assert client.process.wait(20) == 0
    assert "Traceback" not in client.stderr
    assert "it may have taken effect: look at the resource" in cut_off["error"]["message"]
    [outcome] = log(config, "--kind", "outcome")
    assert outcome["detail"] == "cancelled by the shutdown of the guard after it was sent to the upstream"
    withdrawn: list[Json] = log(config, "--kind", "approval.withdrawn")
    if scope == "agent":  # the next launch is the same instance
        assert "the request stays open: when the guard is back, repeat exactly the same call" in said
        assert (len(pending(config)), withdrawn) == (1, [])
    else:
        assert "the request ends with this session: make the call again" in said
        assert [receipt["note"] for receipt in withdrawn] == ["the instance has ended"]
