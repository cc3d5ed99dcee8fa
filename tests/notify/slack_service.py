"""A stand-in for Slack: its Web API as far as the guard uses it, with its answers to errors and to too many requests.

Blocks are checked by Slack's own SDK, and requests to the guard are signed by it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode

from slack_sdk.models.blocks import Block
from slack_sdk.signature import SignatureVerifier

from tests.notify.receivers import serving

Json = dict[str, Any]
TOKEN, CHANNEL, SECRET, TEAM = "xoxb-1-secret", "C012AB3CD", "8f742231b10e8888abcd99yyyzzz85a5", "T9TK3CUKW"
MAX_BLOCKS = 50


@dataclass
class Slack:
    """`refusals` are errors to answer with, in order: a code, or a number of seconds to wait for."""

    url: str
    refusals: list[str | int] = field(default_factory=list)
    messages: dict[str, Json] = field(default_factory=dict)
    """What is in the channel, by `ts`."""
    called: list[tuple[str, Json]] = field(default_factory=list)
    last: int = 0
    pressed: int = 0
    channels: tuple[str, ...] = (CHANNEL,)
    """Those that the app is in."""

    def call(self, method: str, arguments: Json) -> Json:
        self.called.append((method, arguments))
        if arguments.get("channel") not in self.channels:
            return {"ok": False, "error": "channel_not_found"}
        check_blocks(arguments.get("blocks", []))
        if method == "chat.update":
            if arguments["ts"] not in self.messages:
                return {"ok": False, "error": "message_not_found"}
            ts = arguments["ts"]
        else:
            self.last += 1
            ts = f"1700000000.{self.last:06d}"
        if method != "chat.postEphemeral":
            self.messages[ts] = arguments
        return {"ok": True, "channel": arguments["channel"], "ts": ts}

    @property
    def only(self) -> Json:
        [message] = self.messages.values()
        return message

    def press(self, ts: str, action: str, presser: str = "U0ALICE", **changes: Any) -> tuple[bytes, dict[str, str]]:
        """The body and the headers of what Slack sends when somebody presses a button."""
        message = self.messages[ts]
        buttons = [item for block in message["blocks"] for item in block.get("elements", ())]
        [button] = [item for item in buttons if item["action_id"] == action]
        payload: Json = {
            "type": "block_actions",
            "team": {"id": TEAM, "domain": "example"},
            "user": {"id": presser, "username": "someone", "team_id": TEAM},
            "api_app_id": "A02",
            "token": "deprecated",
            "container": {"type": "message", "message_ts": ts, "channel_id": CHANNEL, "is_ephemeral": False},
            "channel": {"id": CHANNEL, "name": "approvals"},
            "message": {"type": "message", "ts": ts, "text": message["text"], "blocks": message["blocks"]},
            "response_url": "http://127.0.0.1:9/never-used",
            "actions": [{"type": "button", "block_id": "b", **button, "action_ts": "1548426417.840180"}],
        }
        self.pressed += 1
        payload |= {"trigger_id": f"{self.pressed}.333649436676"} | changes
        return sign(urlencode({"payload": json.dumps(payload)}).encode())


def sign(body: bytes, at: float | None = None, secret: str = SECRET) -> tuple[bytes, dict[str, str]]:
    stamp = str(int(time.time() if at is None else at))
    signature = SignatureVerifier(secret).generate_signature(timestamp=stamp, body=body)
    assert signature is not None
    headers = {"x-slack-request-timestamp": stamp, "x-slack-signature": signature}
    return body, headers | {"content-type": "application/x-www-form-urlencoded"}


def check_blocks(blocks: list[Json]) -> None:
    assert len(blocks) <= MAX_BLOCKS
    parsed = Block.parse_all(blocks)
    assert len(parsed) == len(blocks)
    for block in parsed:
        assert block is not None
        block.validate_json()


@contextmanager
def slack_service(*refusals: str | int) -> Iterator[Slack]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"].startswith("application/json")
            refusal = service.refusals.pop(0) if service.refusals else None
            if isinstance(refusal, int):
                self.answer(429, {"ok": False, "error": "ratelimited"}, ("retry-after", str(refusal)))
            elif self.headers["authorization"] != f"Bearer {TOKEN}":
                self.answer(200, {"ok": False, "error": "invalid_auth"})
            elif refusal is not None:
                self.answer(200, {"ok": False, "error": refusal})
            else:
                self.answer(200, service.call(self.path.removeprefix("/api/"), json.loads(body)))

        def answer(self, status: int, document: Json, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in (("content-type", "application/json"), *headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = Slack(f"http://127.0.0.1:{server.server_port}/api", list(refusals))
    with serving(server):
        yield service
