"""Bad input gets an answer with a reason, a receipt where a decision was asked for, and the session continues."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.running_guard import Client, Json, log, scripted, seen, text, write_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def config(folder: Path) -> Path:
    return write_config(folder, scripted("up", folder))


@pytest.fixture
def client(config: Path) -> Iterator[Client]:
    with Client(config) as client:
        client.start()
        yield client
        still_alive(client)


def still_alive(client: Client) -> None:
    """The session answers, and calls still reach the upstream."""
    reply = client.call("up__echo", {"text": "still here"})
    assert json.loads(text(reply)) == {"tool": "echo", "arguments": {"text": "still here"}}


def raw_call(id: int, arguments: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"up__free","arguments":%s}}' % (
        id, arguments.encode("utf-8", "surrogatepass"),
    )  # fmt: skip


@pytest.mark.parametrize("line", [b"not json", b'{"jsonrpc":', b"\xff\xfe\xfd", b'"text"', b"12", b"[]", b"null"])
def test_malformed_json_is_answered_without_an_id(client: Client, line: bytes) -> None:
    client.write(line)
    if line in (b'"text"', b"12", b"null"):
        return  # JSON but not a message: reported on standard error, not answered
    assert client.wait(None)["error"]["code"] in (-32700, -32600)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"a":1,"a":2}', "duplicate key"),
        ('{"a":NaN}', "NaN"),
        ('{"a":Infinity}', "Infinity"),
        ('{"a":"\\ud800"}', "not acceptable JSON"),
        ("[" * 0 + '{"a":' * 100 + "1" + "}" * 100, "nested too deeply"),
        ('{"a":' * 300 + "1" + "}" * 300, "nested too deeply"),
        ('{"a":' + '"x"' * 0 + '"' + "y" * 1_500_000 + '"}', "over the limit"),
    ],
    ids=["duplicate", "nan", "infinity", "surrogate", "deep", "deeper than can be written", "1.5MB"],
)
def test_unacceptable_arguments_are_denied_with_a_receipt(
    client: Client, config: Path, folder: Path, arguments: str, reason: str
) -> None:
    client.write(raw_call(900, arguments))
    reply = client.wait(900)
    assert reply["result"]["isError"] is True
    assert reason in text(reply)
    assert "Nothing was sent" in text(reply)
    denied = log(config, "--kind", "decision")[-1]
    assert (denied["outcome"], denied["tool"]) == ("deny", "up__free")
    assert any(reason in item for item in denied["reasons"])
    assert seen(folder, "up") == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[]}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{"a":1}}}',
        b'{"jsonrpc":"2.0","id":"\\ud800","method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":NaN}',
        b"[" * 300 + b"]" * 300,
    ],
)
def test_failing_frame_does_not_affect_others(client: Client, line: bytes) -> None:
    """Other frames from the same read are answered."""
    client.write(line + b'\n{"jsonrpc":"2.0","id":77,"method":"ping"}')
    assert client.wait(77)["result"] == {}


def test_too_deeply_nested_answer_does_not_affect_other_calls(client: Client, config: Path) -> None:
    assert "The call may have taken effect" in text(client.call("up__deep"))
    still_alive(client)
    assert log(config, "--kind", "outcome")[0]["ending"] == "upstream_error"


def test_an_upstream_that_closes_its_input_is_started_again(client: Client, folder: Path) -> None:
    client.call("up__deaf")
    deadline = time.monotonic() + 30
    while client.call("up__echo", {"text": "x"})["result"].get("isError"):
        assert time.monotonic() < deadline, "the upstream was not started again"


def test_a_message_over_the_frame_limit_is_refused(folder: Path) -> None:
    config = write_config(folder, scripted("up", folder), more="[limits]\nmessage_bytes = 100000")
    with Client(config) as client:
        client.start()
        client.write(raw_call(901, '{"a":"' + "x" * 300_000 + '"}'))
        assert "message_bytes" in client.wait(901)["error"]["message"]
        still_alive(client)


def test_an_unknown_tool_is_refused_as_unknown_with_a_receipt(client: Client, config: Path) -> None:
    for name in ("up__nothing", "nothing", "", "up__update_deal\n"):
        assert client.call(name)["error"]["code"] == -32602
    assert [receipt["reasons"] for receipt in log(config, "--kind", "decision")] == [["unknown tool"]] * 4


def test_wrong_types_are_passed_where_no_policy_looks_at_them(client: Client, folder: Path) -> None:
    """Whether they are acceptable is for the server to say; where a policy reads them, see tests/wild."""
    calls: list[Json] = [
        {"id": 7, "amount": "1"},
        {"id": "7", "amount": None},
        {"id": "7"},
        {"id": "7", "amount": 1e-5},
    ]
    for arguments in calls:
        assert client.call("up__update_deal", arguments)["result"]["isError"] is False
    assert [call["arguments"] for call in seen(folder, "up")] == calls


@pytest.mark.parametrize(
    "params", [{}, {"name": 5}, {"name": "up__echo", "arguments": []}, {"name": "up__echo", "_meta": 1}]
)
def test_malformed_call_is_a_protocol_error(client: Client, params: Json) -> None:
    assert client.request("tools/call", params)["error"]["code"] == -32602


def test_a_tool_without_a_schema_is_neither_listed_nor_callable(client: Client) -> None:
    assert "up__no_schema" not in client.tools()
    assert client.call("up__no_schema")["error"]["code"] == -32602


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "server/discover", "made/up", "tools/execute"])
def test_an_unknown_method_is_refused(client: Client, method: str) -> None:
    assert client.request(method, {"taskId": "1"})["error"]["code"] == -32601


def test_garbage_from_an_upstream_does_not_hide_its_answer(client: Client, folder: Path) -> None:
    assert json.loads(text(client.call("up__garbage")))["tool"] == "garbage"
    assert len(seen(folder, "up")) == 1


def test_second_answer_of_an_upstream_is_ignored(client: Client, config: Path) -> None:
    assert text(client.call("up__twice")) == "first"
    still_alive(client)
    assert len(log(config, "--kind", "outcome", "--tool", "up__twice")) == 1


def test_answer_without_result_or_error_is_an_upstream_error(client: Client, config: Path) -> None:
    assert "neither result nor error" in text(client.call("up__neither"))
    assert log(config, "--kind", "outcome")[-1]["ending"] == "upstream_error"


def test_errors_of_tool_and_upstream_pass_through(client: Client, config: Path) -> None:
    assert text(client.call("up__tool_error")) == "the tool says no"
    expected = {"code": -32050, "message": "upstream says no", "data": {"kept": True}}
    assert client.call("up__protocol_error")["error"] == expected
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["tool_error", "upstream_error"]


def test_dead_upstream_fails_its_own_calls_and_is_restarted(folder: Path) -> None:
    config = write_config(folder, scripted("up", folder) + scripted("other", folder))
    with Client(config) as client:
        client.start()
        reply = client.call("up__die")
        assert "may have taken effect" in text(reply)
        assert "upstream `up`" in text(reply)
        assert text(client.call("other__tool_error")) == "the tool says no"
        blamed = text(client.call("up__echo", {"text": "too early"}))
        assert "upstream `up` exited with status 3" in blamed or "upstream `up` closed its output" in blamed
        assert "Nothing was sent" in blamed
        deadline = time.monotonic() + 20
        while client.call("up__echo", {"text": "back"})["result"].get("isError"):
            assert time.monotonic() < deadline, "the upstream was not started again"
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome", "--tool", "up__die")] == ["unknown"]
    assert [call["arguments"] for call in seen(folder, "up")][-1] == {"text": "back"}


def test_upstream_that_cannot_be_started_is_named(folder: Path) -> None:
    config = write_config(folder, '[upstreams.gone]\ncommand = "/no/such/program"\n' + scripted("up", folder))
    with Client(config) as client:
        client.start()
        assert all(name.startswith("up__") for name in client.tools())
        still_alive(client)
    assert "`/no/such/program`: No such file or directory" in client.stderr
    assert "cannot be started" in client.stderr


def test_upstream_without_a_listing_hides_no_other_upstream(folder: Path) -> None:
    silent = scripted("up", folder, SILENT_IF=str(folder / "silent")).replace("env =", "timeout_seconds = 0.5\nenv =")
    config = write_config(folder, silent + scripted("other", folder))
    with Client(config) as client:
        client.start()
        before = client.tools().keys()
        (folder / "silent").touch()
        assert client.tools().keys() == before  # the last listing is kept
        assert text(client.call("other__tool_error")) == "the tool says no"
    assert "upstream `up`: no tool listing: `tools/list` was not answered" in client.stderr


def test_an_upstream_that_never_answers_times_out(folder: Path) -> None:
    slow = scripted("up", folder).replace("env =", "timeout_seconds = 0.3\nenv =")
    config = write_config(folder, slow)
    with Client(config) as client:
        client.start()
        assert "did not answer within 0.3 s" in text(client.call("up__never"))
        still_alive(client)
    assert log(config, "--kind", "outcome", "--tool", "up__never")[0]["ending"] == "timeout"


def test_unreadable_policies_deny_everything_and_say_so(folder: Path) -> None:
    config = write_config(folder, scripted("up", folder), policies="permit (principal, action")
    with Client(config) as client:
        client.start()
        assert client.tools() == {}
        refused = client.call("up__echo", {"text": "x"})
    assert refused["result"]["isError"]
    assert text(refused).startswith("not available: ")
    assert "every call is denied" in client.stderr
    assert "test.cedar" in client.stderr
    assert len(log(config, "--kind", "policy.rejected")) == 1
    assert log(config, "--kind", "decision")[0]["outcome"] == "deny"
    assert seen(folder, "up") == []


def test_an_expired_credential_is_refused_on_the_next_call(folder: Path) -> None:
    config = write_config(folder, scripted("up", folder))
    config.write_text(config.read_text().replace('groups = ["testers"]', "credential_seconds = 1"))
    with Client(config) as client:
        client.start()
        deadline = time.monotonic() + 10
        while "result" in (reply := client.call("up__echo", {"text": "x"})) and not reply["result"].get("isError"):
            assert time.monotonic() < deadline, "the credential never expired"
        assert "credential of this instance has expired" in text(reply)
        assert client.tools() == {}
    assert "expired" in log(config, "--kind", "decision")[-1]["reasons"][0]
