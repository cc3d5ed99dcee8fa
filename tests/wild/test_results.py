"""Results, errors, questions and notifications reach the client as they were sent: numbers, unknown members, order."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.secret_scrubber import Scrubber
from tests.live.running_guard import SERVERS, Client, Json, upstream, write_config

META = "io.modelcontextprotocol/"
ENVELOPE = {"_meta": {f"{META}protocolVersion": "2026-07-28", f"{META}clientCapabilities": {"elicitation": {}}}}
NUMBERS = (
    b"[0, -0.0, 1.0, 1e2, 9007199254740993, 18446744073709551615, 18446744073709551616, -9223372036854775809, 1e400, "
    b"123456789012345678901234567890, 115792089237316195423570985008687907853269984665640564039457584007913129639935, "
    b"0.1000000000000000055511151231257827, 1e-400, 12345678901234567890.12, 3.141592653589793238]"
)
MEMBERS = b'"z": 1, "a": {"unknown": ' + NUMBERS + b', "nothing": null, "empty": {}, "text": "\\u0000\\u2028 \xc3\xa9"}'
SECRET = "correct-horse-battery"


class Exactly(Client):
    """A client that reads numbers as text."""

    def read(self) -> Json:
        assert self.process.stdout
        message: Json = exactly(self.process.stdout.readline())
        return {**message, "id": int(message["id"])} if isinstance(message.get("id"), str) else message


def exactly(document: bytes) -> Any:
    """A document with its numbers as text and the order of all members; `1e2` may be written as `100.0`."""

    def number(text: str) -> str:
        return text if "e" not in text.lower() or len(text) > 3 else str(float(text))

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {"order": [name for name, _ in pairs], **dict(pairs)}

    return json.loads(document, parse_int=str, parse_float=number, object_pairs_hook=members)


def call(client: Client, data: bytes, stateless: bool) -> Json:
    params = {"name": "up__raw", "arguments": {"hex": data.hex()}, **(ENVELOPE if stateless else {})}
    return client.wait(client.send("tools/call", params))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    server = upstream("up", sys.executable, str(SERVERS / "raw_replies.py"))
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o600)
    return write_config(folder, server.replace("env = {", "env = { TOKEN = { file = 'secret' }"))


@pytest.fixture(scope="module", params=["handshake", "stateless"])
def client(config: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Exactly, bool]]:
    with Exactly(config) as client:
        is_stateless = request.param == "stateless"
        if not is_stateless:
            client.start()
        client.request("tools/list", ENVELOPE if is_stateless else None)
        yield client, is_stateless


def test_a_result_arrives_as_it_was_sent(client: tuple[Exactly, bool]) -> None:
    body = b'{"content": [{"type": "text", "text": "x", ' + MEMBERS + b'}], "structuredContent": {' + MEMBERS + b"}, "
    reply = call(
        client[0], b'{"jsonrpc":"2.0","id":@ID@,"result":' + body + b'"more": [' + NUMBERS + b"]}}\n", client[1]
    )
    sent, got = exactly(body + b'"more": [' + NUMBERS + b"]}"), reply["result"]
    added = ("resultType", "_meta") if client[1] else ()
    assert [name for name in got.pop("order") if name not in added] == sent.pop("order")
    assert {name: value for name, value in got.items() if name not in added} == sent


def test_an_error_arrives_as_it_was_sent(client: tuple[Exactly, bool]) -> None:
    body = b'{"code": -32050, "message": "no", "data": {' + MEMBERS + b"}}"
    reply = call(client[0], b'{"jsonrpc":"2.0","id":@ID@,"error":' + body + b"}\n", client[1])
    assert reply["error"] == exactly(body)


def test_a_scrubbed_result_keeps_its_numbers(client: tuple[Exactly, bool]) -> None:
    encoded = base64.b64encode(f"it is {SECRET}".encode())
    body = b'{"content": [{"type": "text", "text": "' + encoded + b'", "n": ' + NUMBERS + b"}]}"
    reply = call(client[0], b'{"jsonrpc":"2.0","id":@ID@,"result":' + body + b"}\n", client[1])
    [block] = reply["result"]["content"]
    assert encoded.decode() not in block["text"]
    assert block["n"] == exactly(NUMBERS)


def test_notifications_and_questions_arrive_as_they_were_sent(config: Path) -> None:
    with Exactly(config) as client:
        client.start(elicitation={})
        client.request("tools/list")
        body = b'{"level":"info","data":{' + MEMBERS + b"}}"
        data = b'{"jsonrpc":"2.0","method":"notifications/message","params":' + body + b"}\n"
        call(client, data + b'{"jsonrpc":"2.0","id":@ID@,"result":{}}\n', stateless=False)
        assert [m["params"] for m in client.others if m.get("method") == "notifications/message"] == [exactly(body)]
        question = b'{"message":"?","requestedSchema":{"type":"object","maximum":' + NUMBERS + b"}}"
        asked = client.send("tools/call", {"name": "up__ask", "arguments": {"hex": question.hex()}})
        client.others.clear()
        message = client.read()
        assert message["params"] == exactly(question)
        answer = b'{"action":"accept","content":{' + MEMBERS + b"}}"
        client.write(b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (message["id"], answer))
        received = client.wait(asked)["result"]["content"][0]["text"]
        assert exactly(received.encode())["result"] == exactly(answer)


def test_a_secret_of_digits_is_found_however_its_number_is_spelled() -> None:
    """What is passed on has the number without its exponent."""
    scrubber = Scrubber()
    scrubber.learn("PIN", "12345678")
    for number in (b"12345678", b"1.2345678e7", b"1234567800E-2"):
        assert scrubber.clean(b'{"pin": [' + number + b", 1.5e3]}") == b'{"pin":["[secret PIN]",1500.0]}'


@pytest.mark.parametrize("id", [b"123456789012345678901234567890", b"1e400", b"0.1000000000000000055511151231257827"])
def test_an_id_of_any_size_comes_back_as_it_was_sent(client: tuple[Exactly, bool], id: bytes) -> None:
    assert client[0].process.stdin
    params = b'{"_meta":{"progressToken":' + id + b"}}" if not client[1] else json.dumps(ENVELOPE).encode()
    method = b"tools/list" if client[1] else b"ping"
    client[0].write(b'{"jsonrpc":"2.0","id":' + id + b',"method":"' + method + b'","params":' + params + b"}")
    assert client[0].process.stdout
    assert exactly(client[0].process.stdout.readline())["id"] == id.decode()
