"""A client resumes a lost response by the id of its last event (2025-11-25, "Resumability")."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.live.http_guard import NO_TLS, Raw, Served, free_port, reply, serving
from tests.live.running_guard import Json, cli, enrol, scripted, seen, write_config
from tests.live.test_http import HOLD_POLICIES
from tests.live.test_session import held

NEW = {"mcp-protocol-version": "2025-11-25"}
ECHO: Json = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "up__echo", "arguments": {}}}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = free_port()
    with Served(write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, more=serving(port)), port) as guard:
        yield guard


def started(served: Served) -> Raw:
    client = served.raw(served.issue()[1])
    client.start()
    return client


def headers(client: Raw, **more: str) -> dict[str, str]:
    fixed = {"authorization": f"Bearer {client.token}", "mcp-session-id": client.session or "", **NEW, **more}
    return {"accept": "application/json, text/event-stream", "content-type": "application/json", **fixed}


def lose(client: Raw, message: Json) -> str:
    """Make a request and hang up after the first event; returns its id."""
    with (
        httpx.Client(timeout=30, trust_env=False, verify=NO_TLS) as http,
        http.stream("POST", client.url, content=json.dumps(message).encode(), headers=headers(client)) as response,
    ):
        lines: list[str] = []
        for line in response.iter_lines():
            lines.append(line)
            if not line:
                break
    assert "retry: 1000" in lines
    return next(line.removeprefix("id: ") for line in lines if line.startswith("id: "))


def resume(client: Raw, event: str) -> httpx.Response:
    return client.ask("GET", client.url, headers={**NEW, "accept": "text/event-stream", "last-event-id": event})


def message() -> Json:
    call = json.loads(json.dumps(ECHO))
    call["params"]["arguments"] = {"text": "x"}
    return dict(call)


def test_lost_response_is_resumed_and_the_call_runs_once(served: Served, tmp_path: Path) -> None:
    client = started(served)
    event = lose(client, message())
    cli("approvals", "approve", held(served.config), "--rationale", "fine", *enrol(served.config))
    for _ in range(2):  # a client that loses it again may resume again
        result = reply(resume(client, event))
        assert (result["id"], result["result"]["isError"]) == (7, False)
    assert len(seen(tmp_path, "up")) == 1


def test_stream_of_another_session_cannot_be_resumed(served: Served) -> None:
    client, other = started(served), started(served)
    event = lose(client, message())
    for wrong in (event, "no-such", "9-0", "standing-x"):
        assert resume(other, wrong).status_code == 400


def test_older_clients_get_no_events_without_data(served: Served) -> None:
    client = started(served)
    response = client.request("tools/list", headers={"mcp-protocol-version": "2025-06-18"})
    assert response.headers["content-type"] == "application/json"
    response = client.request("tools/list", headers=NEW)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text.startswith("id: ")
