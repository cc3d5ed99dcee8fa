"""P13: no message of one agent keeps the calls of another waiting, whatever an upstream has listed."""

import asyncio
import sys
import time
from pathlib import Path

from benchmarks.http_wire import Wire
from mcp_guard.core.canonical import MAX_VALUES
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import scripted, upstream, write_config

TEMPLATES = ["repo://{owner}/{repo}/refs/heads/{branch}/contents{/path*}", "x{a}{b}{c}{d}{e}{f}y", "{" * 2000]
LISTER = f"""
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    result = {{
        "initialize": {{"capabilities": {{"resources": {{}}}}, "serverInfo": {{"name": "x", "version": "1"}}}},
        "resources/templates/list": {{"resourceTemplates": [{{"name": "t", "uriTemplate": t}} for t in {TEMPLATES!r}]}},
    }}.get(asked.get("method"), {{}})
    if asked.get("method") == "initialize":
        result["protocolVersion"] = asked["params"]["protocolVersion"]
    if "id" in asked:
        print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "result": result}}), flush=True)
"""


def call(arguments: bytes) -> bytes:
    params = b'{"name":"up__free","arguments":%s}' % arguments
    return b'{"jsonrpc":"2.0","id":"a","method":"tools/call","params":%s}' % params


def read(uri: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":"a","method":"resources/read","params":{"uri":"%s"}}' % uri.encode()


KEYS = [b'"k%d":0' % number for number in range(15_000)]
ATTACKS = {
    "a doubled key at the end of many": call(b"{%s}" % b",".join([*KEYS, KEYS[-1]])),
    "a doubled key, below the limit": call(b"{%s}" % b",".join([*KEYS[: MAX_VALUES // 2 - 20], KEYS[0]])),
    "one key many times": call(b"{%s}" % b", ".join([b'"k":0'] * 250_000)),
    "as many values as fit": call(b'{"a":[%s]}' % b", ".join([b"1.0"] * 500_000)),
    "a URI for a template": read("repo://" + "/refs/heads/" * 1000),
    "a URI for a hostile template": read("x" * 10_000),
    "a URI of braces": read("{" * 10_000),
}


async def attack(served: Served, frame: bytes) -> float:
    """The longest of another agent's calls while one agent sends the frame a few times, in seconds."""
    attacker, other = (Wire(served.port, served.issue()[1]) for _ in range(2))
    for wire in (attacker, other):
        await wire.open()
        await wire.start()
        await wire.post({"id": "t", "method": "resources/templates/list", "params": {}})
        await wire.post({"id": "c", "method": "tools/call", "params": {"name": "up__echo", "arguments": {"text": "x"}}})

    async def send() -> None:
        for _ in range(3):
            await attacker.post_bytes(frame)

    sending, longest = asyncio.create_task(send()), 0.0
    while not sending.done() or not longest:
        began = time.monotonic()
        _, reply = await other.post({"id": 1, "method": "tools/call", "params": {"name": "up__echo", "arguments": {}}})
        longest = max(longest, time.monotonic() - began)
        assert "result" in reply
    await sending
    for wire in (attacker, other):
        await wire.close()
    return longest


def test_other_agents_are_served_meanwhile(tmp_path: Path) -> None:
    port, lister = free_port(), tmp_path / "lister.py"
    lister.write_text(LISTER)
    servers = [upstream(name, sys.executable, str(lister)) for name in ("one", "two")]
    config = write_config(tmp_path, "\n".join([scripted("up", tmp_path), *servers]), more=serving(port))
    with Served(config, port) as served:
        waits = {name: asyncio.run(attack(served, frame)) for name, frame in ATTACKS.items()}
    assert {name: wait for name, wait in waits.items() if wait > 1} == {}
