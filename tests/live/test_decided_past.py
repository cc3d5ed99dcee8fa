"""Decided requests of the past, recorded in PostgreSQL: other policies are tried on them, and suggested from them."""

import json
from pathlib import Path

import pytest

from tests.live.running_guard import Client, cli, log
from tests.live.test_database import LEDGER, ORIGIN
from tests.live.test_decided_prompts import SCENARIO as WITH_PROMPTS
from tests.live.test_decided_prompts import get as get_prompt
from tests.live.test_decided_resources import SCENARIO, URIS, make, read, sent
from tests.storage.postgres_server import server

TOOLS_ONLY = '@id("tools") permit (principal, action in Action::"server:up", resource is Tool);'
CANDIDATE = """
@id("reads") permit (principal, action in Action::"resources/read", resource);
@id("private") @reason("no") forbid (principal, action in Action::"resources/read", resource)
when { resource.path like "/private*" };
@id("one") @reason("no") forbid (principal, action in Action::"resources/read", resource)
when { resource.hasTag("id") && resource.getTag("id") != "42" };
"""
CANDIDATE_FOR_PROMPTS = """
@id("prompts") permit (principal, action in Action::"prompts/get", resource);
@id("secret") @reason("no") forbid (principal, action in Action::"prompts/get", resource == Prompt::"secret");
@id("english") @reason("no") forbid (principal, action in Action::"prompts/get", resource)
when { resource.hasTag("language") && resource.getTag("language") != "en" };
"""
GUARD = f'mode = "observe"\norigin = "{ORIGIN}/decided"\ndecide = ["tools", "resources", "prompts"]'


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests that policies without any rule for them have observed."""
    folder = tmp_path_factory.mktemp("past")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", server().url)
        config = make(folder, TOOLS_ONLY, GUARD, LEDGER)
        (folder / "scenario.json").write_text(json.dumps({key: SCENARIO[key] | WITH_PROMPTS[key] for key in SCENARIO}))
        with Client(config) as client:
            client.start()
            for uri in URIS:
                assert "result" in read(client, uri)
            for name, language in (("greet", "en"), ("greet", "de"), ("secret", None)):
                given = {"who": "Ann", "language": language} if language else {}
                assert "result" in get_prompt(client, f"up__{name}", **given)
    return config


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", server().url)


def test_each_read_has_an_intent_before_it_and_an_outcome(past: Path) -> None:
    receipts = log(past, "--tool", "up__resources/read")
    assert [receipt["kind"] for receipt in receipts] == ["intent", "outcome"] * len(URIS)
    assert [params["uri"] for params in sent(past.parent, "resources/read")] == list(URIS)
    assert cli("verify", "--config", str(past)).returncode == 0


def test_replay_tries_other_policies_on_them(past: Path, tmp_path: Path) -> None:
    (tmp_path / "candidate.cedar").write_text(CANDIDATE)
    done = cli("policy", "replay", "--candidate", str(tmp_path), "--config", str(past), check=False)
    assert "deny\t3\t5\t0" in done.stdout  # of eight, three would be allowed
    assert done.stdout.count("up__resources/read\tdeny\tallow\treads\tMORE PERMISSIVE") == 3


def test_replay_tries_other_policies_on_prompts_with_their_arguments(past: Path, tmp_path: Path) -> None:
    (tmp_path / "candidate.cedar").write_text(CANDIDATE_FOR_PROMPTS)
    words = ("--candidate", str(tmp_path), "--json", "--config", str(past))
    changed = json.loads(cli("policy", "replay", *words, check=False).stdout)["differences"]
    assert [(item["tool"], item["would"]["outcome"]) for item in changed] == [("up__prompts/get", "allow")]


def test_what_was_observed_can_be_suggested(past: Path) -> None:
    done = cli("policy", "suggest", "--config", str(past), check=False)
    assert (
        "up__resources/read on Resource, called by tester, 5 calls: may `uri`, `path` and `template` be any "
        "destination? it had 5 different values, at `deals`, `x`"
    ) in done.stdout
    free = ",".join(f"up__resources/read.{name}" for name in ("uri", "path", "template"))
    assert f"if so: mcp-guard policy suggest --free {free}" in done.stdout
    suggested = cli("policy", "suggest", "--free", free, "--config", str(past)).stdout
    assert 'action == Action::"up__resources/read",\n  resource is Resource' in suggested
    assert '["deals", "x"].contains(resource.host)' in suggested
    assert 'resource.query == ""' in suggested
