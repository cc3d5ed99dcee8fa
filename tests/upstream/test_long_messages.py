"""A long reply that is searched in a thread arrives complete and in order, also if its server exits right after it."""

import sys
from pathlib import Path

from tests.live.running_guard import Client, upstream, write_config

SECRET = "p4ss&word"
SERVER = """
import json, sys
def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
for line in sys.stdin:
    asked = json.loads(line)
    id, method, params = asked.get("id"), asked.get("method"), asked.get("params")
    if method == "initialize":
        server = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}, "logging": {}}}
        send({"id": id, "result": {**server, "serverInfo": {"name": "x", "version": "1"}}})
    elif method == "tools/list":
        send({"id": id, "result": {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}})
    elif method == "tools/call":
        for number in range(3):
            text = "a word " * (200_000 if number == 1 else 1) + "p4ss%26word"
            send({"method": "notifications/message", "params": {"level": "info", "data": [number, text]}})
        send({"id": id, "result": {"content": [{"type": "text", "text": "a word " * 300_000 + "p4ss%26word"}]}})
        sys.stdout.flush()
        break
    sys.stdout.flush()
"""


def test_a_server_that_exits_after_a_long_reply_has_answered(tmp_path: Path) -> None:
    (tmp_path / "up.py").write_text(SERVER)
    server = upstream("up", sys.executable, str(tmp_path / "up.py"), API_TOKEN=SECRET)
    with Client(write_config(tmp_path, server)) as client:
        client.start()
        reply = client.call("up__t")["result"]["content"][0]["text"]
        assert len(reply) == len("a word ") * 300_000 + len("[secret API_TOKEN]")
        data = [message["params"]["data"] for message in client.others if message["method"] == "notifications/message"]
    assert [number for number, _ in data] == [0, 1, 2]
    assert all(text.endswith("[secret API_TOKEN]") for _, text in data)
