"""A guard works in the environment that a host leaves it: next to none, another locale, the root as its folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, cli, command, log, scripted, text, upstream, write_config

ENVIRONMENTS = {
    "nothing": {},
    "C": {"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    "latin-1": {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PATH": "/usr/bin:/bin"},
}


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_texts_arrive_whole(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    said = "žluťoučký 🎉"
    answer = f'{{"jsonrpc":"2.0","id":@ID@,"result":{{"content":[{{"type":"text","text":"{said}"}}]}}}}\n'
    server = upstream("up", sys.executable, str(SERVERS / "raw_replies.py"), str(tmp_path / "log"))
    config = write_config(tmp_path, server)
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    with Client(config) as client:
        client.start()
        assert text(client.call("up__raw", {"hex": answer.encode().hex()})) == said


@pytest.mark.parametrize(
    "leave",
    [lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN), lambda: os.close(2)],
    ids=["SIGCHLD ignored", "stderr closed"],
)
def test_whatever_a_host_leaves_a_guard_only_mcp_is_on_stdout(tmp_path: Path, leave: Callable[[], None]) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}) + "\n"
    done = subprocess.run(
        command("run", "--config", str(config)),
        input=line, capture_output=True, text=True, timeout=60, check=True, preexec_fn=leave,
    )  # fmt: skip
    [reply] = map(json.loads, done.stdout.splitlines())
    assert reply["result"]["serverInfo"]["name"] == "mcp-guard"


def test_server_that_dies_for_lack_of_a_variable_is_explained_to_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = 'echo "loading" >&2; echo "weather: WEATHER_API_KEY is not set" >&2; exit 3'
    config = write_config(tmp_path, upstream("weather", "sh", "-c", dies))
    monkeypatch.setenv("WEATHER_API_KEY", "canary-0815")
    with Client(config) as client:
        client.start()
        client.tools()
        heard = client.call("weather__forecast")
    notes = client.stderr.splitlines()
    assert "mcp-guard: upstream `weather`: its stderr ends: weather: WEATHER_API_KEY is not set" in notes
    [lacked] = [line for line in notes if "and not passed to it: WEATHER_API_KEY" in line]  # not at each restart
    assert "set in the guard's environment" in lacked
    fix = 'pass what it needs by name: [upstreams.weather] env = { WEATHER_API_KEY = { env = "WEATHER_API_KEY" } }'
    assert notes.count(f"hint: {fix}") == 1

    found = json.loads(cli("doctor", "--upstreams", "--json", "--config", str(config), check=False).stdout)
    [finding] = [item for item in found if item["check"] == "upstreams"]
    assert "no tools from weather: exited with status 3; its stderr ends: weather: WEATHER_A" in finding["what"]
    assert "not passed to it: WEATHER_API_KEY" in finding["what"]
    assert finding["fix"] == fix

    told = json.dumps([heard, log(config)])  # what a server prints may contain secrets that nobody told the guard
    assert "is not set" not in told
    assert "WEATHER_API_KEY" not in told
    assert "canary-0815" not in told + client.stderr + json.dumps(found)
