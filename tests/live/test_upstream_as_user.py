"""Upstreams that are called as their users: two users of one guard, and what stops one of them."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.http_guard import Raw, Served, await_answer, free_port, reply, serving
from tests.live.preloaded_cli import DEVNULL, Forked
from tests.live.running_guard import SERVERS, Json, cli, log, text, write_config
from tests.live.test_session import eventually
from tests.live.test_tasks import TASKS
from tests.promises.test_p10_secrets_stay import find
from tests.web.identity_provider import NODE

SECRET = "canary-client/secret+1"
SCRIPT = Path(__file__).parent.parent / "node" / "company_provider.mjs"
ANN, BOB = "ann", "bob"


@dataclass
class Company:
    """A company's identity provider, an MCP server that knows its users, and a guard in front of that."""

    folder: Path
    issuer: str
    notes: str
    served: Served

    def token(self, user: str) -> str:
        """An access token of the agent for the guard, as this user."""
        return self.control("token", user=user, audience=self.served.url)

    def control(self, action: str, **body: str) -> str:
        request = urllib.request.Request(f"{self.issuer}/control/{action}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as response:
            return str(response.read().decode())

    def client(self, user: str) -> Raw:
        raw = self.served.raw(self.token(user))
        raw.start()
        return raw

    def kept(self, name: str) -> list[Json]:
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def section(url: str, issuer: str) -> str:
    client = 'client_id = "guard"\nclient_secret = { file = "client-secret" }\n'
    return (
        f'[upstreams.notes]\nurl = "{url}/mcp"\n[upstreams.notes.oauth]\nas = "user"\ngrant = "token_exchange"\n'
        f'issuer = "{issuer}"\n{client}'
        f'[upstreams.jag]\nurl = "{url}/jag/mcp"\n[upstreams.jag.oauth]\nas = "user"\ngrant = "id_jag"\n'
        f'client_id = "guard-at-notes"\n[upstreams.jag.oauth.identity_provider]\nissuer = "{issuer}"\n{client}'
        f'[issuers.corp]\nissuer = "{issuer}"\njwks = {{ url = "{issuer}/jwks" }}\nagents = {{ agent = "tester" }}\n'
    )


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    folder = tmp_path_factory.mktemp("company")
    (folder / "client-secret").touch(0o600)
    (folder / "client-secret").write_text(SECRET)
    at, behind, port = free_port(), free_port(), free_port()
    issuer, notes = f"http://localhost:{at}", f"http://127.0.0.1:{behind}"
    words = [NODE, str(SCRIPT), str(at), SECRET]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as provider:
        assert provider.stdout is not None
        assert provider.stdout.readline()
        server = Forked([str(behind), issuer, str(folder)], script=SERVERS / "notes.py", stdout=DEVNULL, stderr=DEVNULL)
        try:
            await_answer(notes)
            with Served(write_config(folder, section(notes, issuer), more=serving(port)), port) as served:
                yield Company(folder, issuer, notes, served)
        finally:
            provider.kill()
            server.kill()
            server.wait()


@pytest.mark.parametrize("upstream", ["notes", "jag"])
def test_each_user_writes_under_their_own_authority(company: Company, upstream: str) -> None:
    ann, bob = company.client(ANN), company.client(BOB)
    for writer, name in ((ann, ANN), (bob, BOB), (ann, ANN)):
        assert f"noted for {name}" in text(writer.call(f"{upstream}__write", {"text": upstream}))
    assert [note["user"] for note in company.kept("notes") if note["text"] == upstream] == [ANN, BOB, ANN]
    intents = [item for item in log(company.served.config, "--kind", "intent") if item["upstream"] == upstream]
    assert [(item["authority"], item["on_behalf_of"], item["user_issuer"]) for item in intents] == [
        ("user", name, company.issuer) for name in (ANN, BOB, ANN)
    ]


def test_a_user_who_is_revoked_is_stopped_at_the_next_call_and_others_are_not(company: Company) -> None:
    eve, bob = company.client("eve"), company.client(BOB)
    assert "noted for eve" in text(eve.call("notes__write", {"text": "before"}))
    company.served.revoke("--user", "eve")
    assert eve.request("tools/call", {"name": "notes__write", "arguments": {"text": "after"}}).status_code == 401
    assert "noted for bob" in text(bob.call("notes__write", {"text": "after"}))
    assert ["eve" for note in company.kept("notes") if note["user"] == "eve"] == ["eve"]


@pytest.mark.parametrize("upstream", ["notes", "jag"])
def test_a_refused_exchange_denies_the_call_with_a_receipt(company: Company, upstream: str) -> None:
    company.client(BOB).call(f"{upstream}__write", {"text": "so that its tools are accepted"})
    company.control("refuse", user="mal")
    mal = company.client("mal")
    said = text(mal.call(f"{upstream}__write", {"text": "refused"}))
    assert "(`access_denied`)" in said
    denied = log(company.served.config, "--kind", "decision", "--last", "1")[0]
    assert (denied["on_behalf_of"], denied["upstream"], denied["authority"]) == ("mal", upstream, "user")
    assert "access_denied" in json.dumps(denied["reasons"])
    assert not [note for note in company.kept("notes") if note["user"] == "mal"]


def test_a_caller_without_a_token_to_exchange_is_told_what_is_missing(company: Company) -> None:
    company.client(BOB).call("notes__write", {"text": "so that its tools are accepted"})
    for options, why in ((("--on-behalf-of", ANN), "has no token that can be exchanged"), ((), "acts for nobody")):
        raw = company.served.raw(company.served.issue("--agent", "tester", *options)[1])
        raw.start()
        assert why in text(raw.call("notes__write", {"text": "x"}))


def test_a_task_is_asked_about_with_the_token_of_its_user(company: Company) -> None:
    tasks, clients = {}, {}
    for user in (ANN, BOB):
        clients[user] = company.served.raw(company.token(user))
        later = {"name": "notes__later", "arguments": {}}
        tasks[user] = reply(clients[user].stateless("tools/call", later, **TASKS))["result"]["taskId"]
    refused = reply(clients[BOB].stateless("tasks/get", {"taskId": tasks[ANN]}, **TASKS))["error"]
    assert refused["message"] == "this instance has no task of this id"
    (company.folder / "done").touch()
    ended = reply(clients[ANN].stateless("tasks/get", {"taskId": tasks[ANN]}, **TASKS))["result"]
    assert text(ended) == "done for ann"
    outcome = ("log", "--kind", "outcome", "--json", "--last", "1000", "--config", str(company.served.config))
    ended_calls = eventually(
        lambda: [item for item in json.loads(cli(*outcome).stdout) if item["call"] == tasks[BOB]]
    )  # the guard asks about Bob's by itself
    assert [item["ending"] for item in ended_calls] == ["ok"]
    looks = company.kept("looks")
    assert {look["user"] for look in looks} == {ANN, BOB}
    assert all(look["user"] == look["of"] for look in looks)


def test_tokens_of_users_are_found_nowhere(company: Company) -> None:
    client = company.client(ANN)
    said = [json.dumps(client.call(f"{name}__write", {"text": "leak"})) for name in ("notes", "jag")]
    assert all("[secret " in reply for reply in said)
    tokens = {item["token"] for item in company.kept("tokens")} - {""}
    assert len(tokens) > 3
    shown = cli("log", "--last", "1000", "--json", "--config", str(company.served.config)).stdout
    files = [path for path in (company.folder / "state").rglob("*") if path.is_file()]
    everything = {"client": "".join(said).encode(), "log": shown.encode(), "stderr": company.served.notes.encode()}
    everything |= {str(path): path.read_bytes() for path in files}
    for secret in (SECRET, client.token, *tokens):
        for where, data in everything.items():
            assert find(data, secret) == [], where
