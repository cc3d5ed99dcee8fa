"""A sample of `make hosts`: the scripted model asks in each interface, and one client completes every step."""

import json
import sys
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.hosts.model import Script, serving
from tests.hosts.run import Outcome, drive

ECHO = {"name": "up__echo", "description": "", "parameters": {"type": "object"}}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"messages": [{"role": "user", "content": "go"}], "tools": [{**ECHO, "input_schema": {}}]},
    "/v1/responses": {"input": "go", "tools": [{"type": "function", **ECHO}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "go"}], "tools": [{"function": ECHO}]},
    "/v1beta/models/m:streamGenerateContent": {
        "contents": [{"role": "user", "parts": [{"text": "go"}]}],
        "tools": [{"functionDeclarations": [ECHO]}],
    },
}


@pytest.mark.parametrize("path", REQUESTS)
def test_the_scripted_model_asks_for_a_call_in_each_interface(path: str) -> None:
    script = Script(lambda results: None if results else ("echo", {"text": "hi"}))
    with serving(script) as port:
        body = {"model": "m", "stream": True, **REQUESTS[path]}
        answer = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, trust_env=False)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    assert any("up__echo" in json.dumps(json.loads(event)) for event in events)
    assert script.tools == ["up__echo"]


def test_a_request_without_the_guards_tools_is_not_part_of_the_script() -> None:
    script = Script(lambda results: ("echo", {}))
    with serving(script) as port:
        body = {"model": "m", "messages": [{"role": "user", "content": "a title, please"}]}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/messages", json=body, trust_env=False)
    assert "done" in answer.text
    assert script.requests == 0


def test_a_client_completes_a_held_call(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.hosts.adapters.fastmcp_client"]
    outcome = drive(Outcome("fastmcp", "", "stdio"), program, (), tmp_path / "house", hold_seconds=1)
    assert outcome.steps == {
        "list": "16 tools",
        "allowed call": "result",
        "held call": "told the approval",
        "resumed": "by `guard__await`",
    }, outcome.notes
