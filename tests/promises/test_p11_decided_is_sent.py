"""P11: the guard sends the canonical bytes that it hashed and decided on, without the fields that it added."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core import canonical
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.receipt import commitment
from tests.live.running_guard import Client, log, scripted, seen, text, write_config
from tests.promises.harness import ALLOW, Harness, make_instance, make_tool, open_harness

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda text: not text.startswith("__"))
values = st.recursive(
    st.none() | st.booleans() | texts | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 2**53),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def open_free(folder: str) -> Harness:
    """A guard with one tool that accepts anything."""
    harness = open_harness(Path(folder))
    tool = make_tool("free", {}, ask=("ticket", "reason"))
    harness.upstream.catalog["crm__free"] = tool
    harness.load(ALLOW)
    return harness


def kept(harness: Harness, kind: str, name: str) -> list[tuple[str, bytes]]:
    """The commitment in each receipt of this kind, and the payload it commits to (checked)."""
    results = []
    for receipt in harness.receipts(kind):
        [cell] = harness.store._run(f"SELECT {name} FROM payload WHERE seq = ?", (receipt["seq"],)).fetchone()
        assert commitment(cell[:16], cell[16:]) == receipt[name]
        results.append((receipt[name], cell[16:]))
    return results


@given(
    st.dictionaries(texts, values, max_size=4),
    st.sampled_from([{}, {"guard_ticket": "INC-9"}, {"guard_reason": "why"}]),
)
async def test_bytes_sent_are_the_bytes_decided_and_recorded(arguments: Json, added: Json) -> None:
    with tempfile.TemporaryDirectory() as folder:
        harness = open_free(folder)
        await harness.guard.call(make_instance(), ToolCallRequest("crm__free", arguments | added))
        [(_, sent)] = harness.upstream.sent
        expected = {key: value for key, value in arguments.items() if key not in ("guard_ticket", "guard_reason")}
        assert sent == canonical.canonicalize(expected)
        assert [data for _, data in kept(harness, "intent", "request")] == [b'{"arguments":%s,"name":"free"}' % sent]
        harness.close()


def test_upstream_receives_only_the_canonical_arguments(tmp_path: Path) -> None:
    more = '[tools."up__free"]\nask = ["ticket", "reason"]\n'
    config = write_config(tmp_path, scripted("up", tmp_path), more=more)
    with Client(config) as client:
        client.start()
        listed = client.tools()["up__free"]["inputSchema"]["properties"]
        assert set(listed) == {"guard_ticket", "guard_reason"}
        client.write(
            b'{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{"name":"up__free","_meta":{"x/y":1},'
            b'"arguments":{"b": 1.50, "guard_ticket":"INC-1", "a":"\\u00e9", "n": 1e2, "guard_reason":"why"}}}'
        )
        client.wait(77)
        client.write(
            b'{"jsonrpc":"2.0","id":78,"method":"tools/call","params":{"name":"up__free",'
            b'"arguments":{"n":123456789012345678901234567890}}}'
        )
        client.wait(78)
    sent = (tmp_path / "up.log").read_text()
    big = {"n": 123456789012345678901234567890}
    calls = [{"name": "free", "arguments": arguments} for arguments in ({"a": "é", "b": 1.5, "n": 100}, big)]
    assert seen(tmp_path, "up") == calls
    assert '"arguments": {"a": "\\u00e9", "b": 1.5, "n": 100}' in sent  # in canonical order
    assert "guard_" not in sent


@pytest.mark.parametrize(
    "arguments",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1, "b":1}}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)
def test_ambiguous_arguments_are_never_sent(tmp_path: Path, arguments: bytes) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    call = b'{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{"name":"up__free","arguments":%s}}'
    with Client(config) as client:
        client.start()
        client.write(call % arguments)
        assert "denied by mcp-guard" in text(client.wait(77))
    assert seen(tmp_path, "up") == []
    assert [receipt["outcome"] for receipt in log(config, "--kind", "decision")] == ["deny"]
