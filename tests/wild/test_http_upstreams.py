"""Servers over HTTP as they are in the wild, through real guards: every tool is listed, every call is answered.

`tests/upstream/test_http_answers.py` and `test_http_session.py` have many more kinds, without the rest of a guard.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.live.running_guard import Client, Json, cli, log, text, write_config
from tests.servers.wild_http import TOOL, Exchange, WildServer, content, event, greeting

SEPARATORS = "copied from a page:\u2028second\u2029third\x85fourth"


class StrictVersion:
    """Settles on 2025-03-26, and refuses any other revision in a header as the Python SDK of mid-2025 does."""

    def __call__(self, exchange: Exchange) -> None:
        wrong = exchange.headers.get("mcp-protocol-version", "2025-03-26") != "2025-03-26"
        if wrong and exchange.method != "initialize":
            error = {"code": -32600, "message": "Bad Request: Unsupported protocol version"}
            exchange.reply(400, {"jsonrpc": "2.0", "id": "server-error", "error": error})
        elif not exchange.greet("2025-03-26", session="s"):
            exchange.succeed(SEPARATORS)


class CutStreams:
    """Cuts the standing stream and the one of the answer; the answer is there when the client comes back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pending: Json = {}

    def __call__(self, exchange: Exchange) -> None:
        if exchange.greet("2025-11-25", session="s", listen=True):
            return
        if exchange.command == "POST":
            self.pending = exchange.message
            exchange.stream()
            exchange.chunk("id: a1\nretry: 10\ndata:\n\n")
            exchange.cut()
            return
        self.asked.append(exchange.headers.get("last-event-id", ""))
        exchange.stream()
        if self.asked[-1] == "a1":
            reply = {"jsonrpc": "2.0", "id": str(self.pending["id"]), "result": content(SEPARATORS)}
            exchange.chunk(event(reply, "a2"))
            exchange.end()
        else:
            exchange.chunk(": hi\n\n")
            exchange.cut()


class Moved:
    """A mount of Starlette: everything is at the address with a slash at the end. The standing stream is refused."""

    def __call__(self, exchange: Exchange) -> None:
        if not exchange.path.endswith("/"):
            exchange.reply(307, location=f"{exchange.path}/")
        elif exchange.command == "GET":
            exchange.reply(500)
        elif not exchange.greet(session="s"):
            reply = json.dumps(exchange.result(content(SEPARATORS)), ensure_ascii=False)
            exchange.reply(200, event(reply).encode(), type="Text/Event-Stream; charset=UTF-8")


class OldTransport:
    """HTTP with SSE of revision 2024-11-05, at an address that does not say so."""

    def __init__(self) -> None:
        self.streams: list[Exchange] = []

    def __call__(self, exchange: Exchange) -> None:
        if exchange.command == "GET":
            exchange.stream()
            exchange.chunk(f"event: endpoint\ndata: {exchange.path}/messages?s=1\n\n")
            self.streams.append(exchange)
            threading.Event().wait(20)
        elif "messages" not in exchange.path:
            exchange.reply(405)
        else:
            exchange.reply(202, b"Accepted", type="text/plain")
            results = {"initialize": greeting("2024-11-05"), "tools/list": {"tools": [TOOL]}}
            if exchange.is_request:
                self.streams[-1].chunk(event(exchange.result(results.get(exchange.method, content(SEPARATORS)))))


class OnTheStandingStream:
    """As the Ruby SDK: while a standing stream is open, each `POST` is accepted, and the reply comes on the stream."""

    def __init__(self) -> None:
        self.stream: Exchange | None = None

    def __call__(self, exchange: Exchange) -> None:
        if exchange.command == "GET":
            exchange.stream()
            exchange.chunk(": hi\n\n")
            self.stream = exchange
            threading.Event().wait(20)
        elif self.stream is None or not exchange.is_request:
            exchange.greet(session="s")
        else:
            exchange.reply(202)
            time.sleep(0.05)
            results = {"tools/list": {"tools": [TOOL]}, "ping": {}}
            self.stream.chunk(event(exchange.result(results.get(exchange.method, content(SEPARATORS)))))


def test_servers_of_many_kinds_are_listed_and_called(tmp_path: Path) -> None:
    cut = CutStreams()
    kinds: dict[str, Callable[[Exchange], None]] = {
        "strict": StrictVersion(), "cut": cut, "moved": Moved(), "old": OldTransport(),
        "standing": OnTheStandingStream(),
    }  # fmt: skip
    with WildServer(lambda exchange: kinds[exchange.path.split("/")[2]](exchange)) as server:
        sections = "".join(f'[upstreams.{name}]\nurl = "{server.url}/{name}"\n' for name in kinds)
        config = write_config(tmp_path, sections)
        with Client(config) as client:
            client.start("2025-11-25")
            assert set(client.tools()) == {f"{name}__run" for name in kinds}
            for name in kinds:
                assert (name, text(client.call(f"{name}__run"))) == (name, SEPARATORS)
    assert cut.asked.count("a1") == 1
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["ok"] * 5


def test_lost_sessions_and_restarts_cost_no_more_than_a_repeated_call(tmp_path: Path) -> None:
    known, calls, begun = {"s0"}, list[str](), list[str]()

    def answer(exchange: Exchange) -> None:
        id = exchange.headers.get("mcp-session-id", "")
        if exchange.method == "initialize":
            begun.append(f"s{len(begun) + 1}")
            known.add(begun[-1])
            exchange.greet(session=begun[-1])
        elif id not in known and exchange.command == "POST":
            error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
            exchange.reply(400, {"jsonrpc": "2.0", "id": None, "error": error})
        elif not exchange.greet():
            calls.append(id)
            exchange.succeed(id)

    with WildServer(answer) as server:
        config = write_config(tmp_path, f'[upstreams.far]\nurl = "{server.url}"\n')
        with Client(config) as client:
            client.start()
            assert text(client.call("far__run")) == "s1"
            known.clear()
            refused = client.call("far__run")
            assert "The call was not sent, so it did not take place" in text(refused)
            assert text(client.call("far__run")) == "s2", "the next call waits for the new session"
            server.stop()
            assert "The call was not sent, so it did not take place" in text(client.call("far__run"))
            server.start()
            assert text(client.call("far__run")) == "s2"
            known.clear()
            assert client.request("tools/list")["result"]["tools"]
    assert calls == ["s1", "s2", "s2"]
    endings = [receipt["ending"] for receipt in log(config, "--kind", "outcome")]
    assert sorted(endings) == ["not_sent", "not_sent", "ok", "ok", "ok"]
    cli("verify", "--config", str(config))


def test_answers_that_cannot_be_read_are_reported_at_once(tmp_path: Path) -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.greet():
            return
        number = exchange.message["id"]
        what = exchange.message["params"]["arguments"]["what"]
        head = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % number
        if what == "error without an id":
            exchange.reply(200, {"jsonrpc": "2.0", "id": None, "error": {"code": -32603, "message": "boom"}})
        elif what == "web page":
            exchange.reply(200, b"<html>Sign in</html>", type="text/html")
        elif what == "half":
            exchange.reply(200, head)
        elif what == "nothing":
            exchange.reply(202)
        else:
            exchange.reply(200, head + b"x" * 300_000 + b'"}]}}')

    kinds = ("error without an id", "web page", "half", "nothing", "too large")
    with WildServer(answer) as server:
        config = write_config(
            tmp_path, f'[upstreams.far]\nurl = "{server.url}"\n', more="[limits]\nmessage_bytes = 200000\n"
        )
        with Client(config) as client:
            client.start()
            client.tools()
            for kind in kinds:
                started = time.monotonic()
                reply = client.call("far__run", {"what": kind})
                assert time.monotonic() - started < 10, kind
                assert "error" in reply or reply["result"]["isError"], kind
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["upstream_error"] * len(kinds)
