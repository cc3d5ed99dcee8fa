"""The hooks of coding agents, answered by a running guard: decided, held, recorded, closed where no report comes."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mcp_guard import hook_client
from mcp_guard.core.host_tools import HOST
from tests.live.http_guard import free_port, serving
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import Json, cli, enrol, log, write_config

POLICIES = """
@id("allow") permit (principal, action in Action::"server:host", resource);
@id("no-force") @reason("nobody pushes by force")
forbid (principal, action == Action::"host__Bash", resource) when { context.input.force_push };
@id("ask") @require_approval("people")
forbid (principal, action == Action::"host__Bash", resource) when { context.input.installs };
@id("no-other-prompts") @reason("the user did not ask for this")
forbid (principal, action == Action::"host__WebSearch", resource)
unless { context.history.provenance.from_task.contains("query") };
"""
HOOKS = '[hooks]\nagent = "tester"\n'
NUMBERS = count(1)


@dataclass
class Guard:
    """A guard that answers hooks."""

    config: Path
    process: Forked = field(init=False)

    def start(self) -> "Guard":
        self.process = Forked(["serve", "--config", str(self.config)], stderr=PIPE)
        deadline = time.monotonic() + 20
        while not self.answers():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Returns what it printed."""
        self.process.send_signal(number)
        self.process.wait(20)
        assert self.process.stderr is not None
        with self.process.stderr as printed:
            return str(printed.read().decode())

    @property
    def socket(self) -> Path:
        return self.config.parent / "state" / "hooks.sock"


@dataclass
class Agent:
    """A coding agent that asks by its hooks, in a session of its own."""

    guard: Guard
    folder: Path
    dialect: str = "claude-code"
    session: str = field(default_factory=lambda: f"session-{next(NUMBERS)}")
    since: int = field(init=False)

    def __post_init__(self) -> None:
        self.since = len(log(self.guard.config))

    def send(self, payload: bytes, seconds: float = 20) -> tuple[int, Json, str]:
        """Exit code, the answer, and what was printed for people. The guard is told to answer in so many `seconds`."""
        code, out, err = hook_client.ask(self.dialect, str(self.guard.socket), 60, payload, 60 - seconds)
        return code, json.loads(out or b"{}"), err.decode()

    def event(self, name: str, *, seconds: float = 20, **members: Any) -> tuple[int, Json, str]:
        payload = {"session_id": self.session, "cwd": str(self.folder), "hook_event_name": name, **members}
        return self.send(json.dumps(payload).encode(), seconds)

    def before(self, call: str, tool: str = "Bash", *, seconds: float = 20, **input: Any) -> str:
        """Empty if the call may go on, else why not."""
        code, answer, err = self.event(
            "PreToolUse", seconds=seconds, tool_name=tool, tool_input=input, tool_use_id=call
        )
        assert (code, err) == (0, "")
        verdict = answer.get("hookSpecificOutput", {"permissionDecision": "none"})
        assert verdict["permissionDecision"] in ("none", "deny", "allow")
        return str(verdict["permissionDecisionReason"]) if verdict["permissionDecision"] == "deny" else ""

    def after(self, call: str, tool: str = "Bash", response: Any = "done", **input: Any) -> None:
        members = {"tool_name": tool, "tool_input": input, "tool_use_id": call, "tool_response": response}
        assert self.event("PostToolUse", **members) == (0, {}, "")

    def receipts(self) -> list[Json]:
        """Those since it was made."""
        return log(self.guard.config)[self.since :]

    def calls(self) -> list[tuple[str, str]]:
        """Kind, and decision or ending, of the receipts about tools of the host."""
        return [
            (entry["kind"], entry.get("ending") or entry.get("outcome") or "")
            for entry in self.receipts()
            if str(entry.get("tool", "")).startswith(f"{HOST}__")
        ]


def configure(folder: Path, guard: str = "hold_seconds = 15", hooks: str = HOOKS) -> Path:
    folder.mkdir(exist_ok=True)
    return write_config(folder, "", POLICIES, hooks, guard)


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    running = Guard(configure(tmp_path_factory.mktemp("hooks"))).start()
    enrol(running.config)
    yield running
    running.stop()


def test_an_allowed_call_has_an_intent_before_it_runs_and_an_outcome_after(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    assert agent.before("1", command="ls", description="look") == ""
    [intent] = [entry for entry in agent.receipts() if entry["kind"] == "intent"]
    assert intent["tool"] == "host__Bash"
    agent.after("1", command="ls", description="look", response={"stdout": "a"})
    assert agent.calls() == [("intent", "allow"), ("outcome", "ok")]


def test_a_denied_call_says_why_and_has_a_receipt(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    reason = agent.before("1", command="git push --force")
    assert reason.startswith("denied by mcp-guard: nobody pushes by force (policy no-force)")
    assert agent.calls() == [("decision", "deny")]


def test_a_failed_call_is_an_error_of_the_tool(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    agent.before("1", command="false")
    members: Json = {
        "tool_name": "Bash",
        "tool_input": {"command": "false"},
        "tool_use_id": "1",
        "error": "Exit code 1",
    }
    assert agent.event("PostToolUseFailure", **members) == (0, {}, "")
    assert agent.calls() == [("intent", "allow"), ("outcome", "tool_error")]


def test_a_held_call_runs_once_a_person_has_approved_it(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.before, "1", command="npm install left-pad")
        approve(guard, agent)
        assert asked.result() == ""
    agent.after("1", command="npm install left-pad")
    kinds = [kind for kind, _ in agent.calls()]
    assert (kinds[:2], kinds[-2:]) == (["decision", "approval.requested"], ["intent", "outcome"])
    assert kinds.count("intent") == 1
    assert agent.before("2", command="npm install left-pad", seconds=0.2).startswith("held by mcp-guard: approval ap_")


def approve(guard: Guard, agent: Agent, before: Callable[[], object] = lambda: None) -> None:
    """Approve what the agent has asked for, once it has."""
    deadline = time.monotonic() + 20
    while not (ids := [e["approval"] for e in agent.receipts() if e["kind"] == "approval.requested"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before()
    cli("approvals", "approve", ids[0], *enrol(guard.config), "--rationale", "agreed")


def test_an_approval_that_another_call_used_is_told_in_words_for_hooks(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(agent.before, str(number), command="npm install pad") for number in (1, 2)]
        approve(guard, agent)
        told = next(answer for answer in (one.result() for one in asked) if answer)
    assert "was used by an identical call; it permits one call; make another call if you need it again" in told


def test_a_script_that_changes_while_its_call_is_held_does_not_run(guard: Guard, tmp_path: Path) -> None:
    agent, script = Agent(guard, tmp_path), tmp_path / "deploy.sh"
    script.write_text("echo harmless")
    line = "npm ci && bash deploy.sh"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.before, "1", command=line)
        approve(guard, agent, lambda: script.write_text("curl evil"))
        assert "a file that it runs" in asked.result()
    assert ("outcome", "not_sent") in agent.calls()
    assert agent.before("2", command=line, seconds=0.2).startswith("held by mcp-guard: approval ap_")


def test_a_call_that_is_not_decided_in_time_can_be_made_again(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    first = agent.before("1", command="npm ci", description="one way to say it", seconds=0.2)
    assert "is not decided yet. Nothing was run. Make exactly the same call again" in first
    approve(guard, agent)
    assert agent.before("2", command="npm ci", description="another way") == ""
    agent.after("2", command="npm ci")
    assert [kind for kind, _ in agent.calls()][-2:] == ["intent", "outcome"]


def test_a_call_without_a_report_is_closed_as_unknown_when_the_turn_ends(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    agent.before("1", command="ls")
    agent.event("PreToolUse", tool_name="Bash", tool_input={"command": "ls"}, tool_use_id="2", agent_id="sub")
    agent.event("Stop")
    agent.event("Stop")
    assert agent.calls() == [("intent", "allow"), ("intent", "allow"), ("outcome", "unknown")]  # the sub-agent goes on
    agent.event("SessionEnd")
    wait_for(lambda: agent.calls()[-1:] == [("outcome", "unknown")] and len(agent.calls()) == 4)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_session_of_an_agent_is_an_instance(guard: Guard, tmp_path: Path) -> None:
    one, other = Agent(guard, tmp_path), Agent(guard, tmp_path)
    for agent in (one, other, one):
        agent.before("1", command="ls")
        agent.after("1", command="ls")
    intents = [entry for entry in one.receipts() if entry["kind"] == "intent"]
    assert [intent["instance"] for intent in intents].count(intents[0]["instance"]) == 2
    assert len({intent["instance"] for intent in intents}) == 2


def test_what_the_user_asked_for_is_the_task(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    assert agent.event("UserPromptSubmit", prompt='Search for "purple elephants", please.') == (0, {}, "")
    assert agent.before("1", "WebSearch", query="purple elephants") == ""
    assert "the user did not ask for this" in agent.before("2", "WebSearch", query="secret plans of somebody")


def test_calls_of_one_session_run_at_the_same_time(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: agent.before(str(number), command="ls"), range(8))) == [""] * 8
        list(pool.map(lambda number: agent.after(str(number), command="ls"), range(8)))
    assert agent.calls().count(("outcome", "ok")) == 8


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (
            b'{"hook_event_name": "PreToolUs", "session_id": "x"}',
            "unknown event `PreToolUs` of Claude Code; this",
        ),
        (b'{"hook_event_name": "PreToolUse"}', "knows it with `session_id` as text"),
        (b'{"hook_event_name": "PreToolUse", "session_id": "x", "cwd": "/"}', "`tool_name`"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b"[]", "not an object"),
        (b"", "the payload was refused"),
    ],
)
def test_an_unknown_payload_is_denied_and_says_what_is_known(
    guard: Guard, tmp_path: Path, payload: bytes, reason: str
) -> None:
    code, answer, err = Agent(guard, tmp_path).send(payload)
    assert (code, answer) == (2, {})
    assert reason in err
    assert "mcp-guard doctor" in err


def test_an_input_of_an_unknown_shape_is_denied_with_a_receipt(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    assert "unknown shape of `Bash` of Claude Code: `command` is not a text" in agent.before("1", command=["ls"])
    assert agent.calls() == [("decision", "deny")]


def test_an_unknown_agent_and_protocol_are_denied(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path, dialect="emacs")
    code, _, err = agent.send(b"{}")
    assert code == 2
    assert "this guard knows: claude-code, codex, gemini-cli, cursor" in err


def test_an_unknown_tool_is_a_call_of_other(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    assert agent.before("1", "Teleport", where="home") == ""
    agent.before("2", "mcp__crm__update", id=1)
    assert [e["tool"] for e in agent.receipts() if e["kind"] == "intent"] == ["host__Other", "host__Mcp"]


def test_a_hook_that_is_gone_runs_nothing(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    agent.before("0", command="ls")
    payload: Json = {"session_id": agent.session, "cwd": "/", "hook_event_name": "PreToolUse", "tool_name": "Bash"}
    payload |= {"tool_input": {"command": "npm i x"}, "tool_use_id": "1"}
    with pytest.raises(TimeoutError):  # its process gives up long before the guard would answer
        give_up(guard, json.dumps(payload).encode())
    agent.event("SessionEnd")
    wait_for(lambda: any(entry["kind"] == "instance.ended" for entry in agent.receipts()))
    assert [kind for kind, _ in agent.calls()].count("intent") == 1


def give_up(guard: Guard, payload: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(0.3)
        asking.connect(str(guard.socket))
        asking.sendall(f"mcp-guard-hook 1 claude-code 15 {len(payload)} -\n".encode() + payload)
        asking.recv(1)


DENIED = 2


def run_client(guard_socket: Path, payload: Json) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-I", "-S", hook_client.__file__, "claude-code", str(guard_socket), "20"]
    return subprocess.run(words, input=json.dumps(payload), text=True, capture_output=True, timeout=30)


def test_the_process_of_a_hook_needs_nothing_but_python(guard: Guard, tmp_path: Path) -> None:
    payload: Json = {"session_id": "p", "cwd": str(tmp_path), "hook_event_name": "PreToolUse", "tool_name": "Bash"}
    done = run_client(guard.socket, {**payload, "tool_input": {"command": "git push -f"}, "tool_use_id": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["hookSpecificOutput"]["permissionDecision"] == "deny"


@pytest.mark.parametrize(
    ("event", "code"), [("PreToolUse", DENIED), ("Unknown", DENIED), ("PostToolUse", 1), ("Stop", 1)]
)
def test_without_a_guard_a_call_is_denied_and_the_hint_says_what_to_type(tmp_path: Path, event: str, code: int) -> None:
    done = run_client(tmp_path / "none.sock", {"hook_event_name": event})
    assert done.returncode == code
    assert "start it with `mcp-guard serve`" in done.stderr


@pytest.mark.parametrize("sends", [b"", b"0"])
def test_the_time_of_a_hook_is_limited_as_a_whole(tmp_path: Path, sends: bytes) -> None:
    """Also if the guard reads or answers a bit of it now and then."""
    path, ended = str(tmp_path / "s"), threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as asking, suppress(OSError):
                for _ in range(20):
                    ended.wait(0.2)
                    asking.recv(100_000)
                    asking.sendall(sends)

        with ThreadPoolExecutor() as threads:
            serving = threads.submit(serve)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                hook_client.ask("claude-code", path, 0.5, b"x" * (1 if sends else 600_000))
            assert time.monotonic() - began < 1
            ended.set()
            serving.result()


@pytest.mark.parametrize(
    ("event", "code"), [("PreToolUse", DENIED), ("Stop", 1), ("UserPromptSubmit", 1), ("PostToolUse", 1)]
)
@pytest.mark.parametrize("text", ["\ud83d", "x" * 3_000_000])
def test_what_the_guard_refuses_stops_only_calls(guard: Guard, event: str, code: int, text: str) -> None:
    done = run_client(guard.socket, {"hook_event_name": event, "session_id": "p", "cwd": "/", "prompt": text})
    assert done.returncode == code
    assert "payload" in done.stderr


def test_a_report_that_is_refused_settles_its_call(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    assert agent.before("1", command="ls") == ""
    report = {"hook_event_name": "PostToolUse", "session_id": agent.session, "cwd": str(tmp_path), "tool_name": "Bash"}
    done = run_client(
        guard.socket, {**report, "tool_input": {"command": "ls"}, "tool_use_id": "1", "tool_response": "x" * 3_000_000}
    )
    assert (done.returncode, "request_bytes" in done.stderr) == (0, True)
    assert agent.calls() == [("intent", "allow"), ("outcome", "ok")]


def test_a_guard_that_is_killed_leaves_its_calls_unknown_and_denies_the_next(tmp_path: Path) -> None:
    guard = Guard(configure(tmp_path / "killed")).start()
    agent = Agent(guard, tmp_path)
    agent.before("1", command="ls")
    guard.stop(signal.SIGKILL)
    with pytest.raises(ConnectionRefusedError):
        agent.before("2", command="ls")
    guard.start()
    assert agent.calls() == [("intent", "allow"), ("outcome", "unknown")]
    assert agent.before("2", command="ls") == ""  # a new instance goes on
    agent.after("1", command="ls")
    assert "`Bash` ran, but this guard was not asked before" in guard.stop()
    assert agent.calls()[-1] == ("outcome", "unknown")
    cli("verify", "--config", str(guard.config))


def test_stopping_the_guard_answers_a_held_call(tmp_path: Path) -> None:
    guard = Guard(configure(tmp_path / "stopped")).start()
    agent = Agent(guard, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.before, "1", command="npm ci")
        wait_for(agent.calls)
        guard.stop()
        assert "the guard is shutting down" in asked.result()


def test_a_report_of_another_input_does_not_count_as_the_outcome(guard: Guard, tmp_path: Path) -> None:
    agent = Agent(guard, tmp_path)
    agent.before("1", command="ls")
    agent.after("1", command="rm -rf x")
    assert agent.calls() == [("intent", "allow"), ("outcome", "unknown")]


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff\x00\n", b"mcp-guard-hook 2 claude-code 5 2 -\n{}",
        b"mcp-guard-hook 1 claude-code x 2 -\n{}", b"mcp-guard-hook 1 claude-code 5 -1 -\n{}",
        b"mcp-guard-hook 1 claude-code 5 99999999999 -\n{}", b"mcp-guard-hook 1 claude-code nan 2 -zz\n{}",
        b"mcp-guard-hook 1 claude-code nan 2 -\n{}", b"x" * 40_000, b"mcp-guard-hook 1 claude-code 5 99 -\n{",
    ],
)  # fmt: skip
def test_what_is_no_hook_is_denied_and_the_next_one_is_answered(guard: Guard, tmp_path: Path, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.connect(str(guard.socket))
        asking.sendall(sent)
        asking.shutdown(socket.SHUT_WR)
        answer = asking.recv(4096)
    assert answer == b"" or answer.startswith(b"2 0 ")
    agent = Agent(guard, tmp_path)
    assert agent.before("1", command="ls") == ""
    agent.after("1", command="ls")


def test_hooks_are_answered_beside_http(tmp_path: Path) -> None:
    port = free_port()
    guard = Guard(configure(tmp_path / "both", hooks=HOOKS + serving(port))).start()
    agent = Agent(guard, tmp_path)
    assert agent.before("1", command="ls") == ""
    second = Forked(["serve", "--config", str(guard.config), "--port", str(free_port())], stderr=PIPE)
    assert second.stderr is not None
    noted = b""
    while b"serving " not in noted:
        noted += second.stderr.readline() or b"ended without serving "
    second.terminate()
    second.wait(20)
    second.stderr.close()
    assert b"another guard answers the hooks of coding agents on" in noted
    printed = guard.stop()
    assert f"on 127.0.0.1 port {port}" in printed
    assert agent.calls() == [("intent", "allow"), ("outcome", "unknown")]
    assert not guard.socket.exists()
