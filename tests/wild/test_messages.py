"""Replies as servers write them when something is wrong: each settles its call at once, and only its own."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, Json, log, text, upstream, write_config

LIMIT = 100_000
AT_ONCE = 5.0
"""Seconds, with other tests beside this one; a call that waits for its time limit takes 300."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("messages")
    server = upstream("up", sys.executable, str(SERVERS / "raw_replies.py"), str(folder / "log"))
    config = write_config(folder, server, more=f"[limits]\nmessage_bytes = {LIMIT}")
    with Client(config) as client:
        client.start(elicitation={})
        assert "up__raw" in client.tools()
        yield client


def raw(client: Client, data: bytes) -> Json:
    """The reply to a call that the upstream answers with these bytes."""
    began = time.monotonic()
    reply = client.call("up__raw", {"hex": data.hex()})
    assert time.monotonic() - began < AT_ONCE
    return reply


UNREADABLE = {
    "lone surrogate": rb'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"cut \ud83d"}]}}',
    "not a number": b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"structuredContent":{"mean":NaN}}}',
    "infinity": b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[],"structuredContent":{"mean":-Infinity}}}',
    "latin-1": b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}',
    "the id last": b'{"result":{"content":[{"type":"text","text":"caf\xe9"}]},"jsonrpc":"2.0","id":@ID@}',
    "oversize": b'{"jsonrpc":"2.0","id":@ID@,"result":{"text":"@FILL@"}}',
    "oversize, the id last": b'{"result":{"text":"@FILL@"},"jsonrpc":"2.0","id":@ID@}',
    "oversize, the id as text": b'{"id":"@ID@","jsonrpc":"2.0","result":{"text":"@FILL@"}}',
    "oversize, no id": b'{"jsonrpc":"2.0","result":{"text":"@FILL@"}}',
    "cut": b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"te',
    "a raw line break": b'{"jsonrpc":"2.0","id":@ID@,"result":{"content":[{"type":"text","text":"a\nb"}]}}',
    "too deep": b'{"jsonrpc":"2.0","id":@ID@,"result":{"x":' + b"[" * 600 + b"]" * 600 + b"}}",
    "much too deep": b'{"jsonrpc":"2.0","id":@ID@,"result":{"x":' + b"[" * 2000 + b"]" * 2000 + b"}}",
    "a printed dictionary": b"{'jsonrpc': '2.0', 'id': @ID@, 'result': {'content': []}}",
    "UTF-16": '{"jsonrpc":"2.0","result":{"content":[]}}'.encode("utf-16"),
    "indented, not a number": b'{\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  "result": {\n    "mean": NaN\n  }\n}',
    "indented, latin-1": b'{\n  "result": {\n    "a": "caf\xe9 {"\n  },\n  "jsonrpc": "2.0",\n  "id": @ID@\n}',
    "indented, a raw line break": b'{\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  "result": {\n    "a": "b\n"\n  }\n}',
    "indented, one long line": b'{\n  "result": {\n    "a": "@FILL@"\n  },\n  "jsonrpc": "2.0",\n  "id": @ID@\n}',
    "neither": b'{"jsonrpc":"2.0","id":@ID@}',
    "a result of null": b'{"jsonrpc":"2.0","id":@ID@,"result":null}',
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_a_reply_that_cannot_be_read_settles_its_call(client: Client, data: bytes) -> None:
    reply = raw(client, data + b"\n")
    assert reply["result"]["isError"]
    assert reply["result"]["_meta"]["mcp-guard/decision"]["outcome"] == "upstream_error"
    assert "check the resource before you repeat it" in text(reply)


def test_an_unreadable_reply_without_a_line_break_settles_its_call(client: Client) -> None:
    reply = raw(client, b'{"jsonrpc":"2.0","id":@ID@,"result":{"a":NaN}}')
    assert reply["result"]["_meta"]["mcp-guard/decision"]["outcome"] == "upstream_error"


OK = b'"result":{"content":[{"type":"text","text":"done"}]}'
READABLE = {
    "the id as text": b'{"jsonrpc":"2.0","id":"@ID@",' + OK + b"}\n",
    "the id as a float": b'{"jsonrpc":"2.0","id":@ID@.0,' + OK + b"}\n",
    "a byte order mark": b'\xef\xbb\xbf{"jsonrpc":"2.0","id":@ID@,' + OK + b"}\r\n",
    "colours": b'\x1b[0m{"jsonrpc":"2.0","id":@ID@,' + OK + b"}\n",
    "two on one line": b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}{"jsonrpc":"2.0","id":@ID@,'
    + OK
    + b"}\n",
    "text after it": b'{"jsonrpc":"2.0","id":@ID@,' + OK + b"} served in 3 ms\n",
    "NUL after it": b'{"jsonrpc":"2.0","id":@ID@,' + OK + b"}\0\n",
    "no line break": b'{"jsonrpc":"2.0","id":@ID@,' + OK + b"}",
    "a carriage return": b'{"jsonrpc":"2.0","id":@ID@,' + OK + b"}\r",
    "indented, no line break": b'{\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  ' + OK + b"\n}",
    "blanks": b'{"jsonrpc":"2.0","id":@ID@,' + OK + b"}  ",
    "two without a line break": b'{"jsonrpc":"2.0","id":@ID@,'
    + OK
    + b'}{"jsonrpc":"2.0","method":"notifications/message"}',
    "indented": b'{\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  "result": {\n    "content": [\n      {\n'
    b'        "type": "text",\n        "text": "done"\n      }\n    ]\n  }\n}\n',
    "indented, many lines": b'{\n  "rows": [\n'
    + b'    "line",\n' * 1500
    + b'    1\n  ],\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  '
    + OK
    + b"\n}\n",
    "indented after a mark": b'\xef\xbb\xbf{\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  ' + OK + b"\n}\n",
    "indented after a colour": b'\x1b[0m{\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  ' + OK + b"\n}\n",
    "indented without indent": b'{\n"jsonrpc": "2.0",\n"rows": [\n{\n},\n{\n}\n],\n"id": @ID@,\n' + OK + b"\n}\n",
    "the first member beside the brace": b'{ "jsonrpc": "2.0",\n  "id": @ID@,\n  ' + OK + b"\n}\n",
    "in an array that does not end": b'{\n  "items": [\n{"jsonrpc":"2.0","id":@ID@,' + OK + b"}\n",
    "indented, in an object that does not end": b'{\n  "items": {\n{\n  "jsonrpc": "2.0",\n  "id": @ID@,\n  '
    + OK
    + b"\n}\n",
    "in a batch": b'[{"jsonrpc":"2.0","id":@ID@,' + OK + b"}]\n",
    "in a batch with others": b'[{"jsonrpc":"2.0","id":"p","method":"ping"},1,{"jsonrpc":"2.0","id":@ID@,'
    + OK
    + b"}]\n",
    "an error of null": b'{"jsonrpc":"2.0","id":@ID@,"error":null,' + OK + b"}\n",
    "no version": b'{"id":@ID@,' + OK + b"}\n",
}


@pytest.mark.parametrize("data", READABLE.values(), ids=READABLE)
def test_a_reply_that_can_be_read_is_passed_on(client: Client, data: bytes) -> None:
    assert text(raw(client, data)) == "done"


NO_ID = {
    "null": b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"boom"}}\n',
    "absent": b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"boom"}}\n',
    "text": b'{"jsonrpc":"2.0","id":null,"error":"boom"}\n',
}


@pytest.mark.parametrize("data", NO_ID.values(), ids=NO_ID)
def test_an_error_without_an_id_settles_the_only_call(client: Client, data: bytes) -> None:
    assert raw(client, data)["error"]["message"] == "boom"


NOISE = (
    b'INFO replying {"jsonrpc":"2.0","id":@ID@,"result":{}}\n'
    b'{"level":50,"error":{"message":"boom"}}\n{"level":"info"}\n> npm start\n{not json}\n[1]\n"text"\n'
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"boom"}}\n'
    b'{"jsonrpc":"2.0","error":{"code":-32603,"message":NaN}}\n'
)


def test_nothing_else_settles_one_of_several_calls(client: Client) -> None:
    waiting = client.send("tools/call", {"name": "up__never", "arguments": {}})
    other = client.send("tools/call", {"name": "up__raw", "arguments": {"hex": NOISE.hex()}})
    assert text(client.call("up__fine")) == "fine"
    done = {waiting, other} & {message.get("id") for message in client.others}
    assert not done
    for id in (waiting, other):
        client.notify("notifications/cancelled", {"requestId": id})
    assert text(client.call("up__fine")) == "fine"


def test_an_error_without_an_id_after_a_cancellation_settles_nothing(client: Client) -> None:
    """Most likely it is the answer to the request that was cancelled, or to the notification."""
    waiting = client.send("tools/call", {"name": "up__never", "arguments": {}})
    client.notify("notifications/cancelled", {"requestId": waiting})
    data = NO_ID["null"] + b'{"jsonrpc":"2.0","id":@ID@,' + OK + b"}\n"
    assert text(raw(client, data)) == "done"


def test_the_last_reply_of_a_server_needs_no_line_break(tmp_path: Path) -> None:
    config = write_config(tmp_path, upstream("up", sys.executable, str(SERVERS / "raw_replies.py")))
    with Client(config) as client:
        client.start()
        data = b'{"jsonrpc":"2.0","id":@ID@,' + OK + b"}"
        assert text(client.call("up__raw", {"hex": data.hex(), "exit": True})) == "done"
    [outcome] = log(config, "--kind", "outcome")
    assert outcome["ending"] == "ok"


def test_the_last_request_of_a_client_needs_no_line_break(tmp_path: Path) -> None:
    config = write_config(tmp_path, upstream("up", sys.executable, str(SERVERS / "raw_replies.py")))
    with Client(config) as client:
        client.start()
        client.tools()
        assert client.process.stdin
        client.process.stdin.write(b'{"jsonrpc":"2.0","id":9,"method":"ping"}')
        client.process.stdin.close()
        assert client.wait(9)["result"] == {}


# Requests of clients


def test_a_request_that_cannot_be_read_is_refused_by_its_id(client: Client) -> None:
    for line in (
        b'{"jsonrpc":"2.0","id":"one","method":"tools/call","params":{"name":"up__fine","arguments":{"x":"caf\xe9"}}}',
        b'{"method":"tools/call","params":{"name":"up__fine","arguments":{"x":"' + b"x" * 2_000_000 + b'"}},'
        b'"jsonrpc":"2.0","id":"one"}',
        b'{"jsonrpc":"2.0","id":"one","method":"tools/call","params":{"name":"up',
    ):
        client.write(line)
        assert client.wait("one")["error"]["code"] == -32700


def test_each_request_of_a_batch_is_answered_and_decided_by_its_own_bytes(client: Client) -> None:
    call = b'{"jsonrpc":"2.0","id":"%s","method":"tools/call","params":{"name":"up__fine","arguments":{"x":%s}}}'
    calls = call % (b"one", b"18446744073709551617") + b" , " + call % (b"two", b'1,"x":2')
    client.write(b"\xef\xbb\xbf[ 1, " + calls + b',{"jsonrpc":"2.0","id":"three","method":"ping"}]')
    assert text(client.wait("one")) == "fine"
    assert "duplicate key" in text(client.wait("two"))
    assert client.wait("three")["result"] == {}
    client.write(b"[]")
    assert client.wait(None)["error"] == {"code": -32600, "message": "not a batch of 1 to 100 messages"}


@pytest.mark.parametrize("id", [b"1.5", b"7.0", b"-3", b'""', b'"a\\u2028"'])
def test_an_id_comes_back_as_it_was_sent(client: Client, id: bytes) -> None:
    client.write(b'{"jsonrpc":"2.0","id":' + id + b',"method":"ping"}')
    reply = client.wait(json.loads(id))
    assert type(reply["id"]) is type(json.loads(id))


def test_an_answer_of_the_client_that_cannot_be_read_settles_the_question(client: Client) -> None:
    call = client.send("tools/call", {"name": "up__ask", "arguments": {"hex": b'{"message":"?"}'.hex()}})
    question = client.read()
    client.write(b'{"jsonrpc":"2.0","id":%d,"result":{"action":"accept","content":{"x":NaN}}}' % question["id"])
    answer = json.loads(text(client.wait(call)))
    assert answer["id"] == "q"
    assert "cannot be read" in answer["error"]["message"]
