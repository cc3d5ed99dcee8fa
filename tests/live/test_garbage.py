"""A call leaves nothing to the cycle collector: what it held, up to megabytes, is freed when it is answered."""

import os
import signal
from pathlib import Path

from tests.live.running_guard import ALLOW_ALL, Client, cli, enrol, scripted, text, write_config
from tests.live.test_session import eventually, held

COUNTED = """
import gc, signal
gc.disable()
gc.enable = lambda: None

def count(*_):
    found = gc.collect()
    with open({file!r}, "w") as file:
        print(found, file=file)

signal.signal(signal.SIGUSR1, count)
"""
RULES = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__count", resource);
@id("never") forbid (principal, action == Action::"up__echo", resource) when {{ context.input.text == "no" }};
"""


def test_calls_leave_no_cycles(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), RULES)
    counts = tmp_path / "counts"
    approver = enrol(config)
    with Client(config, prelude=COUNTED.format(file=str(counts))) as client:
        client.start()

        def make_calls(number: int) -> None:
            for _ in range(number):
                asked = [client.send("tools/call", {"name": "up__echo", "arguments": {"text": "a"}}) for _ in range(4)]
                assert all("a" in text(client.wait(id)) for id in asked)
                assert client.call("up__echo", {"text": "no"})["result"]["isError"]
            waiting = client.send("tools/call", {"name": "up__count", "arguments": {}})
            cli("approvals", "approve", held(config), "--rationale", "as agreed", *approver)
            assert "result" in client.wait(waiting)

        def collect() -> str:
            """How many objects the collector found."""
            counts.unlink(missing_ok=True)
            os.kill(client.process.pid, signal.SIGUSR1)
            return eventually(lambda: counts.read_text() if counts.exists() else "")

        make_calls(5)  # what is imported and kept at the first ones
        collect()
        make_calls(10)
        assert collect() == "0\n"
