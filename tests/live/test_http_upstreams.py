"""Upstreams over HTTP: both transports, static tokens, disconnects and reconnects."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.http_guard import await_answer, free_port
from tests.live.preloaded_cli import DEVNULL, Forked
from tests.live.running_guard import SERVERS, Client, Json, cli, log, text, write_config
from tests.live.test_session import eventually

TOKEN = "canary-7f3a9c1e5b"


class Remote:
    """A real server over HTTP that can be stopped and restarted."""

    def __init__(self, folder: Path) -> None:
        self.port, self.log = free_port(), folder / "remote.jsonl"
        self.start()

    def start(self) -> None:
        words = [str(self.port), str(self.log), TOKEN]
        self.process = Forked(words, script=SERVERS / "over_http.py", stdout=DEVNULL, stderr=DEVNULL)
        await_answer(f"http://127.0.0.1:{self.port}/mcp")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def calls(self) -> list[Json]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    made = Remote(tmp_path)
    yield made
    made.end()


def config_for(folder: Path, remote: Remote, transport: str = "http", token: str = TOKEN) -> Path:
    (folder / "token").write_text(token)
    (folder / "token").chmod(0o600)
    path = "/mcp" if transport == "http" else "/old/sse"
    section = (
        f'[upstreams.far]\nurl = "http://127.0.0.1:{remote.port}{path}"\ntransport = "{transport}"\n'
        'bearer = { file = "token" }\n'
    )
    return write_config(folder, section)


def test_interrupted_response_is_resumed(tmp_path: Path, remote: Remote) -> None:
    config = config_for(tmp_path, remote)
    with Client(config) as client:
        client.start("2025-11-25")
        assert text(client.call("far__polled")) == "come back"
    assert [call["tool"] for call in remote.calls()] == ["polled"]
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["ok"]


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_calls_reach_the_upstream_and_progress_reaches_the_client(
    tmp_path: Path, remote: Remote, transport: str
) -> None:
    config = config_for(tmp_path, remote, transport)
    with Client(config) as client:
        client.start()
        assert set(client.tools()) == {"far__echo", "far__steps", "far__polled", "far__die"}
        assert text(client.call("far__echo", {"text": "hi"})) == "hi"
        params = {"name": "far__steps", "arguments": {}, "_meta": {"progressToken": "p"}}
        assert text(client.request("tools/call", params)) == "done"
        news = [message["params"] for message in client.others if message.get("method") == "notifications/progress"]
        assert [(item["progressToken"], item["progress"]) for item in news] == [("p", 1), ("p", 2), ("p", 3)]
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["ok", "ok"]
    assert [call["tool"] for call in remote.calls()] == ["echo", "steps"]
    for file in (tmp_path / "state").rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes()
    assert TOKEN not in client.stderr


def test_a_call_whose_answer_is_lost_is_unknown_and_not_sent_again(tmp_path: Path, remote: Remote) -> None:
    config = config_for(tmp_path, remote)
    with Client(config) as client:
        client.start()
        reply = text(client.call("far__die"))
        assert "may have taken effect" in reply
        assert "upstream `far`" in reply
        assert "upstream `far`" in text(client.call("far__echo", {"text": "too early"}))
        remote.end()
        remote.start()
        eventually(
            lambda: (
                "too" not in text(client.call("far__echo", {"text": "again"}))
                and text(client.call("far__echo", {"text": "again"})) == "again"
            )
        )
    assert [call["tool"] for call in remote.calls()].count("die") == 1
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome", "--tool", "far__die")] == ["unknown"]
    cli("verify", "--config", str(config))


def test_refused_token_is_reported(tmp_path: Path, remote: Remote) -> None:
    config = config_for(tmp_path, remote, token="another-token-123")
    with Client(config) as client:
        client.start()
        refused = text(client.call("far__echo", {"text": "x"})) if client.tools() else "not listed"
        assert refused == "not listed"
    assert "refused `initialize`" in client.stderr
    assert "401" in client.stderr
    assert "another-token-123" not in client.stderr


def test_unreachable_upstream_fails_only_its_own_calls(tmp_path: Path) -> None:
    section = f'[upstreams.far]\nurl = "http://127.0.0.1:{free_port()}/mcp"\n'
    with Client(write_config(tmp_path, section)) as client:
        client.start()
        assert client.tools() == {}
    assert "cannot be reached" in client.stderr


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ('[upstreams.far]\nurl = "ftp://x"\n', "upstreams.far.url"),
        (
            '[upstreams.far]\nurl = "http://x"\ncommand = "y"\n',
            "both `command` and `url` are given: keep `command`, which starts the server, or `url`",
        ),
        ('[upstreams.far]\nurl = "http://x"\nargs = ["y"]\n', "`args` cannot be combined with `url`"),
        ('[upstreams.far]\ncommand = "x"\nbearer = { env = "Y" }\n', "`bearer` cannot be combined with `command`"),
    ],
)
def test_section_with_both_or_neither_of_command_and_url_is_refused(tmp_path: Path, section: str, why: str) -> None:
    refused = cli("policy", "validate", "--config", str(write_config(tmp_path, section)), check=False)
    assert refused.returncode == 3
    assert why in refused.stderr
