"""An upstream with many tools is listed once for a client's first listing, and again for each later one."""

import sys
from pathlib import Path

from tests.live.running_guard import ALLOW_ALL, Client, upstream, write_config

COUNTING = """
import json, sys
lists = 0
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    if message["method"] == "tools/list":
        lists += 1
        names = [f"t{number}" for number in range(300 + lists)]
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
    elif message["method"] == "tools/call":
        result = {"content": [{"type": "text", "text": str(lists)}]}
    else:
        version = message["params"]["protocolVersion"]
        info = {"name": "counting", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


def test_the_first_listing_is_that_of_the_start_and_later_ones_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(COUNTING)
    pins = 'first_use = "pin"'
    config = write_config(tmp_path, upstream("up", sys.executable, str(tmp_path / "server.py")) + pins, ALLOW_ALL)
    with Client(config) as client:
        client.start()
        assert len(client.tools()) == 301
        assert client.call("up__t0")["result"]["content"][0]["text"] == "1", "read once for the first listing"
        assert "up__t301" in client.tools()
        assert client.call("up__t0")["result"]["content"][0]["text"] == "2"
