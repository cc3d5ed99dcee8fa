"""A misspelt argument in the configuration is reported by the guard and by every command that checks, with its line."""

import json
from pathlib import Path

from tests.live.running_guard import Client, cli, scripted, write_config

SECTION = '[tools."up__echo"]\nredact = ["/txet"]\nsinks = ["tex"]\n'
REDACT = (
    '[tools."up__echo"] redact: `up__echo` declares no argument `/txet`, so its value would be stored in clear; '
    "did you mean `/text`?"
)
SINKS = '[tools."up__echo"] sinks: `up__echo` declares no argument `tex`; did you mean `text`?'


def test_a_misspelt_argument_is_reported_when_the_tools_are_listed_and_by_every_check(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), more=SECTION)
    with Client(config) as client:
        client.start()
        assert "up__echo" in client.tools()
    told = f"arguments in the configuration that their tool does not declare:\n{REDACT}\n{SINKS}\n"
    assert told in client.stderr
    assert client.stderr.count(REDACT) == 1

    line = config.read_text().splitlines().index('redact = ["/txet"]') + 1
    redact, sinks = f"mcp-guard.toml:{line}: {REDACT}", f"mcp-guard.toml:{line + 1}: {SINKS}"
    at = ("--config", str(config))
    linted = cli("policy", "lint", *at, check=False)
    assert linted.returncode == 1
    assert f"error: {redact}\n" in linted.stdout, "against the tools that were listed last"
    assert f"warning: {sinks}\n" in linted.stdout
    validated = cli("policy", "validate", *at)
    assert f"warning: {redact}\n" in validated.stdout
    checked = cli("doctor", "--json", *at, check=False)
    found = [
        (result["level"], result["what"]) for result in json.loads(checked.stdout) if result["check"] == "arguments"
    ]
    assert (checked.returncode, found) == (2, [("problem", redact), ("warning", sinks)])
