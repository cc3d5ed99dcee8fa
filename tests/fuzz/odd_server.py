"""A fuzzing MCP server on stdio: odd_server.py LOG. How it answers a call follows from the seed in its arguments.

`call` answers oddly, among noise and in pieces; `plain` answers as it should; `die` ends the process. LOG gets the
numbers of the calls that arrived.
"""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.fuzz.odd_replies import make_reply, noise, pieces, text_of

NAMES = ("call", "plain", "die")
writing = threading.Lock()


def write(*parts: bytes, pause: float = 0) -> None:
    with writing:
        for part in parts:
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            if pause:
                time.sleep(pause)


def answer(id: Any, result: dict[str, Any]) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode() + b"\n")


def dress(luck: random.Random) -> tuple[bytes, bytes]:
    """What comes before a reply and after it."""
    lines = [noise(luck) for _ in range(luck.choice((0, 0, 1, 3)))]
    mark = luck.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\x1b[0m", b"\r", b" \t"))
    return b"".join(line + b"\n" for line in lines) + mark, luck.choice((b"\n", b"\n", b"\r\n", b" \n", b"\0\n"))


def answer_oddly(id: Any, call: int, luck: random.Random, alone: bool) -> None:
    before, after = dress(luck)
    data = before + make_reply(id, call, luck, alone).data + after
    time.sleep(luck.choice((0, 0, 0, 0.002, 0.02)))
    write(*pieces(data, luck), pause=luck.choice((0, 0, 0.0005)))


def main() -> None:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params", {})
        if method == "initialize":
            info = {"name": "odd", "version": "1"}
            answer(
                id, {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
            )
        elif method == "tools/list":
            answer(id, {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]})
        elif method == "tools/call":
            arguments = params["arguments"]
            os.write(log, b"%d\n" % arguments["call"])
            if params["name"] == "die":
                os._exit(3)
            if params["name"] == "plain":
                answer(id, {"content": [{"type": "text", "text": text_of(arguments["call"])}]})
                continue
            odd = (id, arguments["call"], random.Random(arguments["seed"]), arguments["alone"])
            threading.Thread(target=answer_oddly, args=odd, daemon=True).start()


if __name__ == "__main__":
    main()
