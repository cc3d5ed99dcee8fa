"""The id of a message that cannot be read is found wherever servers write it, and nowhere else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.message_remains import OversizedLine, read_remains, request_number
from tests.growth import cpu_seconds

FOUND = {
    "lone surrogate": rb'{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"cut \ud83d"}]}}',
    "not a number": b'{"jsonrpc": "2.0", "id": 7, "result": {"mean": NaN}}',
    "another encoding": b'{"jsonrpc":"2.0","id":7,"result":{"text":"caf\xe9"}}',
    "utf-16": '{"jsonrpc":"2.0","id":7,"result":{}}'.encode("utf-16"),
    "the id last": b'{"result":{"text":"say "hi" {"},"jsonrpc":"2.0","id":7}',
    "the id last, then NUL": b'{"result":{"text":"caf\xe9"},"jsonrpc":"2.0","id":7}\r\0',
    "the id last, as text": b'{"result":{"text":"say "hi" {"} , "id" : "7" , "jsonrpc":"2.0" }  ',
    "cut after the id": b'{"jsonrpc":"2.0","id":7',
    "cut in the result": b'{"jsonrpc":"2.0","id":7.0,"result":{"id":8,"content":[{"te',
    "a printed dictionary": b"{'jsonrpc': '2.0', 'id': 7, 'result': {'text': 'it'}}",
    "colours before it": b'\x1b[0m\x1b[32m{"jsonrpc":"2.0","id":7,"result":',
    "the id at the end": rb'{"jsonrpc":"2.0","result":{"text":"\ud83d"},"id":7}',
    "a mark before it": b'\xef\xbb\xbf {"id":7,"jsonrpc":"2.0"',
}
NOT_FOUND = {
    "an id in the params": b'{"jsonrpc":"2.0","method":"x","params":{"id":7}',
    "an id in the result": b'{"jsonrpc":"2.0","result":{"a":1,"id":7}}',
    "cut inside of the result": b'{"jsonrpc":"2.0","result":{"content":[],"id":7}',
    "an id in text": rb'{"jsonrpc":"2.0","result":{"text":"{\"id\":7}\ud83d","a":"\",\"id\":7}"}}',
    "a log line": b'sent {"jsonrpc":"2.0","id":7,"result":{}}',
    "a line of indented JSON": b'  "id": 7,',
    "null": b'{"jsonrpc":"2.0","id":null,"error":',
}


@pytest.mark.parametrize("line", FOUND.values(), ids=FOUND)
def test_the_id_is_found(line: bytes) -> None:
    remains = read_remains(line)
    assert remains is not None
    assert request_number(remains.id) == 7
    assert remains.has_version
    assert not remains.has_method


@pytest.mark.parametrize("line", NOT_FOUND.values(), ids=NOT_FOUND)
def test_no_other_id_is_taken_for_it(line: bytes) -> None:
    remains = read_remains(line)
    assert remains is None or remains.id is None


@given(
    st.permutations(["jsonrpc", "id", "result"]),
    st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner)),
    st.booleans(),
)
def test_both_ends_of_a_large_message_suffice(order: list[str], body: object, compact: bool) -> None:
    members = {"jsonrpc": "2.0", "id": 7, "result": {"x": "y" * 20_000, "z": body}}
    separators = (",", ":") if compact else None
    line = json.dumps({name: members[name] for name in order}, separators=separators).encode()
    remains = read_remains(OversizedLine(line[:16384], line[-1024:]))
    assert remains is not None
    assert remains.id in (7, None)
    if order[-1] != "result" or order[0] != "result":
        assert remains.id == 7 or len(line) > 21_000


@pytest.mark.parametrize(
    "line",
    [b"{" + rb'"\"' * 9000, b'{"a":' + b"[{" * 9000, b"{" + b"\\" * 20000, b"{" + b"'\"'\"" * 5000, b'{,"' * 9000],
)
def test_no_line_takes_long(line: bytes) -> None:
    assert cpu_seconds(lambda: read_remains(line)) < 0.2
