"""`mcp-guard call`: an ordinary client of `run`, for people."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_guard.cli.client import show
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import cli, enrol, scripted, seen, without_config, write_config

POLICIES = """
@id("may") permit (principal, action in [Action::"up__echo", Action::"up__malformed"], resource);
@id("quiet") @reason("nobody may shout") forbid (principal, action, resource)
when { context.input has text && context.input.text like "*!" };
@id("gate") @require_approval("people") forbid (principal, action, resource)
when { context.input has text && context.input.text like "please*" };
"""


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    policies = POLICIES.replace(', Action::"up__malformed"', "")
    return write_config(
        tmp_path, scripted("up", tmp_path), policies, guard=f"hold_seconds = {getattr(request, 'param', 30)}"
    )


@pytest.fixture
def held(config: Path) -> Iterator[Forked]:
    words = ("call", "up__echo", '{"text": "please"}', "--config", str(config))
    process = Forked(words, stdout=PIPE, stderr=PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        yield process
        process.wait(30)


def approval(held: Forked) -> str:
    """The approval id that `call` prints as soon as the call is held."""
    assert held.stderr is not None
    said = iter(held.stderr.readline, "")  # the guard may have begun the ledger, and say so first
    return str(next(line.split()[2] for line in said if line.startswith("held: approval ap_")))


def printed(held: Forked) -> str:
    assert held.stdout is not None
    return "".join(held.stdout)


@pytest.mark.parametrize("config", [0, 30], ids=["told to come back", "waits"], indirect=True)
def test_call_waits_for_an_approval(config: Path, held: Forked) -> None:
    alice = enrol(config)
    cli("approvals", "approve", approval(held), *alice, "--rationale", "ok")
    assert ("please" in printed(held), held.wait()) == (True, 0)
    assert len(seen(config.parent, "up")) == 1


def test_denial_ends_the_wait(config: Path, held: Forked) -> None:
    alice = enrol(config)
    cli("approvals", "deny", approval(held), *alice, "--rationale", "not today")
    assert ("not today" in printed(held), held.wait()) == (True, 1)
    assert seen(config.parent, "up") == []


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    (folder / "listing.json").write_text('[{"name": "malformed", "inputSchema": {"type": "object"}}]')
    return write_config(folder, scripted("up", folder, LISTING=str(folder / "listing.json")), POLICIES)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["up__echo", '{"text": "hi"}', "--ticket", "INC-1"], 0, '{"arguments": {"text": "hi"}, "tool": "echo"}\n'),
        (["up__echo", '{"text": "hi!"}'], 1, "denied by mcp-guard: nobody may shout"),
        (["up__get_deal"], 1, "error -32602: unknown tool: up__get_deal"),
        (["up__ecoh"], 1, "hint: did you mean `up__echo`? (all that this agent may see: mcp-guard call)"),
        ([], 0, "tool\tdescription\nup__echo\t"),
        (["up__echo", "{"], 2, "`{` is not JSON: "),
        (["up__echo", '{"a": {"amount": 120.5, "amount": 1}}'], 2, "duplicate key `amount` in the arguments"),
        (["up__echo", "3"], 2, "`3` is not a JSON object; write "),
        (["up__echo", '{"n": 1e999}'], 2, "is not JSON: Out of range float"),
        (["up__malformed"], 1, "the answer is not one that MCP has: `"),
        (["up__echo", "--agent", "nobody"], 8, "nobody"),
    ],
)
def test_single_call_prints_its_result(quick: Path, words: list[str], code: int, said: str) -> None:
    done = cli("call", *words, "--config", str(quick), check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in without_config(done.stdout + done.stderr)


def test_server_output_is_escaped_for_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [{"type": "text", "text": "one\ntwo\x1b[2K"}, {"type": "image", "data": "…"}]
    assert show({"result": {"content": blocks}}, as_json=False) == 0
    assert capsys.readouterr().out == "one\ntwo\\u{1b}[2K\n(image)\n"


def test_invalid_configuration_is_reported(tmp_path: Path) -> None:
    done = cli("call", "--config", str(tmp_path / "none.toml"), check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no configuration at" in done.stderr


def test_launch_details_are_in_the_receipt(quick: Path) -> None:
    words = ["--ticket", "INC-7", "--reason=-because", "--on-behalf-of", "dana", "--json"]
    done = cli("call", "up__echo", '{"text": "hi"}', *words, "--config", str(quick))
    assert json.loads(done.stdout)["isError"] is False
    assert "mcp-guard: note: user dana is as stated with --on-behalf-of; nothing proves it\n" in done.stderr
    [*_, intent] = json.loads(cli("log", "--kind", "intent", "--json", "--config", str(quick)).stdout)
    assert (intent["ticket"], intent["on_behalf_of"]) == ("INC-7", "dana")
